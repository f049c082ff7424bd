"""What the math verifier does to text, without the algebra."""

import pytest

from ring_async.errors import VerifierError
from ring_async.types import Prompt
from ring_async.verifiers.base import Response
from ring_async.verifiers.rules.math import MathVerifier, is_computable, normalize


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("$5$", "5"),
        ("\\(5\\)", "5"),
        ("1,234,567.5", "1234567.5"),
        ("1{,}000", "1000"),
        ("(1,2)", "(1,2)"),
        ("(1,200)", "(1200)"),
        ("\\dfrac{1}{2}", "\\frac{1}{2}"),
        ("x = 5", "5"),
        ("f(x) = 2x", "2x"),
        ("y = 2x = 4", "y = 2x = 4"),
        ("90^\\circ", "90"),
        ("1.5e-3", "1.5 \\times 10^{-3}"),
        ("x**2", "x^2"),
        ("5.", "5"),
    ],
)
def test_normalize(text, plain):
    assert normalize(text, strip_units=False).replace("  ", " ") == plain


@pytest.mark.parametrize("text", ["5 \\text{ cm}", "5 cm", "5 square inches", "5\\text{ km/h}", "5 m^2", "5 dollars"])
def test_units_are_stripped_on_request(text):
    assert normalize(text, strip_units=True) == "5"
    assert normalize(text, strip_units=False) != "5"


@pytest.mark.parametrize("text", ["x^2", "2^{10}", "10!", "e^{-x^2}", "x^{100}"])
def test_what_ends_is_computed(text):
    assert is_computable(text)


@pytest.mark.parametrize("text", ["9^{9^{9}}", "9**9**9", "2^{99999}", "99999!", "(5!)!", "1" * 700])
def test_what_may_never_end_is_refused(text):
    assert not is_computable(text)
    assert not MathVerifier().is_equal("5", text)


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
