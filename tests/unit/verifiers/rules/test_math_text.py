"""What the math verifier does to text, without the algebra."""

import pytest

from ring_async.errors import VerifierError
from ring_async.types import Prompt
from ring_async.verifiers.base import Response
from ring_async.verifiers.reading.alternatives import readings
from ring_async.verifiers.reading.latex import squeezed
from ring_async.verifiers.reading.work import is_affordable
from ring_async.verifiers.rules.math import MathVerifier


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("$5$", "5"),
        ("\\(5\\)", "5"),
        ("1,234,567.5", "1234567.5"),
        ("1{,}000", "1000"),
        ("(1,2)", "(1,2)"),
        ("(1,200)", "(1,200)"),
        ("\\dfrac{1}{2}", "\\frac{1}{2}"),
        ("y = 2x = 4", "y = 2x = 4"),
        ("1.5e-3", "1.5 \\times 10^{-3}"),
        ("x**2", "x^2"),
        ("5.", "5"),
    ],
)
def test_plain_text(text, plain):
    assert squeezed(readings(text)[0]) == squeezed(plain)


@pytest.mark.parametrize(("text", "plain"), [("x = 5", "5"), ("f(x) = 2x", "2x"), ("90^\\circ", "90")])
def test_names_and_degrees_may_be_left_out(text, plain):
    assert MathVerifier().is_equal(plain, text)
    assert MathVerifier().is_equal(text, plain)


@pytest.mark.parametrize("text", ["5 \\text{ cm}", "5 cm", "5 square inches", "5\\text{ km/h}", "5 m^2", "5 dollars"])
def test_units_are_stripped_on_request(text):
    assert MathVerifier(strip_units=True).is_equal("5", text)
    assert squeezed(readings(text)[0]) != "5"


@pytest.mark.parametrize(
    "text", ["x^2", "2^{10}", "10!", "e^{-x^2}", "x^{100}", "2^{2024}", "10^{1000}", "2^{n}", "n!"]
)
def test_what_ends_is_computed(text):
    assert is_affordable(text)


@pytest.mark.parametrize(
    "text", ["9^{9^{9}}", "9**9**9", "2^{99999}", "99999!", "(9!)!", "\\binom{99999999}{49999999}"]
)
def test_what_may_never_end_is_refused(text):
    assert not is_affordable(text.replace("**", "^"))
    assert not MathVerifier().is_equal("5", text)


def test_a_very_long_number_is_another_one():
    assert not MathVerifier().is_equal("5", "1" * 700)


def reward(text, gold="5", **options):
    return MathVerifier(**options).score(Prompt("p", "s", "?", {"answer": gold}), Response(text)).reward


def test_where_the_answer_is_taken_from():
    assert reward("\\boxed{5}") == 1.0
    assert reward("<answer>5</answer>") == 1.0
    assert reward("<answer>\\boxed{5}</answer>", extract="tagged") == 1.0
    assert reward("<answer>6</answer> \\boxed{5}") == 1.0
    assert reward("<answer>5</answer>", extract="boxed") == 0.0
    assert reward("it is 5") == 0.0
    assert reward("first 4, then 5", extract="last_number") == 1.0


def test_any_of_several_right_answers():
    assert reward("\\boxed{5}", gold=["5", "4"]) == 1.0


def test_mistakes_are_said():
    with pytest.raises(ValueError, match="extract: 'nowhere'"):
        MathVerifier(extract="nowhere")
    with pytest.raises(VerifierError, match="metadata has no `answer`"):
        MathVerifier().score(Prompt("p", "s", "?"), Response("5"))


@pytest.mark.parametrize(
    "gold",
    [
        *(None, "", " ", [], [""], [None], {"value": 5}, [[5]], float("nan"), "???", "\\frac{1}{"),
        "\\includegraphics{a.png}",
        "\\begin{tikzpicture}\\draw (0,0);\\end{tikzpicture}",
    ],
    ids=str,
)
def test_a_reference_that_cannot_be_read_is_the_prompts_failure(gold):
    with pytest.raises(VerifierError, match="bad_prompt"):
        reward("\\boxed{5}", gold=gold)


@pytest.mark.parametrize(
    "gold",
    [5, 5.5, True, "blue", "偶数", "\\text{Alice}", "June 5", "10:30", "no solution", "9^{9^{9^{9}}}", "1, 2, \\ldots"],
)
def test_a_reference_of_another_kind_is_no_failure(gold):
    assert reward("\\boxed{123}", gold=gold) == 0.0


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (72, "72"),
        (72.0, "72"),
        (True, "True"),
        ("$72$", "72"),
        ("\\boxed{72}", "72"),
        ("She sells 24. In total 72.\n#### 72", "72"),
        ("['72']", "72"),
        (["71", "72"], "72"),
        ("The answer is 72.", "72"),
        ("\\begin{tikzpicture}\\end{tikzpicture}", "\\begin{tikzpicture}\\end{tikzpicture}"),
    ],
    ids=str,
)
def test_references_as_data_sets_have_them(gold, answer):
    assert reward(f"\\boxed{{{answer}}}", gold=gold) == 1.0


@pytest.mark.parametrize(
    ("text", "gold", "wanted"),
    [
        ("<think>\\boxed{5}, or is it?", "5", 0.0),
        ("<thinking>\\boxed{5}", "5", 0.0),
        ("<THINK>\\boxed{5}", "5", 0.0),
        ("<think>first</think> <think>\\boxed{5}", "5", 0.0),
        ("<think>first</think> \\boxed{5}", "5", 1.0),
        ("first</think> \\boxed{5}", "5", 1.0),
        ("\\boxed{5} <think>or is it?", "5", 1.0),
        ("The roots are \\boxed{1} and \\boxed{2}.", "1, 2", 1.0),
        ("The roots are $\\boxed{1}$ and $\\boxed{2}$.", "2", 0.0),
        ("$x=\\boxed{1}$, $y=\\boxed{2}$", "(1,2)", 1.0),
        ("\\boxed{1}, \\boxed{2}, and \\boxed{3}", "1,2,3", 1.0),
        ("\\boxed{5} and \\boxed{5}", "5", 1.0),
        ("\\boxed{4}. No: \\boxed{5}", "5", 1.0),
        ("\\boxed{5}. See \\boxed{}", "5", 1.0),
        ("\\boxed{}", "5", 0.0),
        ("<answer>the value is 5</answer>", "5", 1.0),
        ("<answer>**5**</answer>", "5", 1.0),
    ],
)
def test_which_answer_counts(text, gold, wanted):
    assert reward(text, gold=gold) == wanted


@pytest.mark.parametrize(
    ("text", "gold", "wanted"),
    [
        ("it is 1/2.", "0.5", 1.0),
        ("it is 1/2.", "2", 0.0),
        ("it is \\frac{1}{2}", "0.5", 1.0),
        ("it is -1/2", "-0.5", 1.0),
        ("it is 3 1/2", "3.5", 1.0),
        ("答案是１５。", "15", 1.0),
        ("共15个", "15", 1.0),
        ("it costs $1,200.00", "1200", 1.0),
        ("it is −5", "-5", 1.0),
        ("x = - 5", "-5", 1.0),
        ("10 - 5", "-5", 0.0),
        ("about 1 million", "1000000", 1.0),
        ("so 10 -5", "-5", 0.0),
        ("it is 50%", "0.5", 1.0),
        ("it is 50%", "50", 1.0),
        ("N = 6.02 \\times 10^{23}", "6.02e23", 1.0),
        ("**72** apples!", "72", 1.0),
    ],
)
def test_last_numbers(text, gold, wanted):
    assert reward(text, gold=gold, extract="last_number") == wanted


@pytest.mark.parametrize(
    ("gold", "answer", "options", "wanted"),
    [
        ("5", "5 apples", {"strip_units": True}, 1.0),
        ("5", "5m", {"strip_units": True}, 1.0),
        ("5 m", "5 s", {"strip_units": True}, 0.0),
        ("0.5 h", "30 min", {"strip_units": True}, 1.0),
        ("5\\text{ apples}", "5\\text{ pears}", {"strip_units": True}, 1.0),
        ("5\\text{ apples}", "5\\text{ pears}", {}, 0.0),
        ("2 m + 3", "2m+3", {"strip_units": True}, 1.0),
        ("x^2 s", "x^2 h", {"strip_units": True}, 0.0),
        ("x+1", "y+1", {"strict": False}, 1.0),
        ("x+1", "y+1", {}, 0.0),
        ("\\{1,2\\}", "(1,2)", {"strict": False}, 1.0),
        ("\\{1,2\\}", "(1,2)", {}, 0.0),
        ("\\pi", "3.1416", {"float_rounding": 5}, 1.0),
        ("\\pi", "3.1416", {}, 0.0),
    ],
)
def test_options(gold, answer, options, wanted):
    assert reward(f"\\boxed{{{answer}}}", gold=gold, **options) == wanted
