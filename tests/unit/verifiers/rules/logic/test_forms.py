"""Forms of answers: what a scorer gets to see, and what its credit is worth."""

import pytest

from ring_async.types import Prompt
from ring_async.verifiers.base import Response
from ring_async.verifiers.rules.logic.forms import credit_kept, has_form, spelled_plainly
from ring_async.verifiers.rules.logic.verifier import LogicVerifier


@pytest.mark.parametrize(
    ("task", "answer", "plain"),
    [
        ("chain_sum", "−5", "-5"),
        ("chain_sum", "－５", "-5"),
        ("chain_sum", "$5$", "5"),
        ("chain_sum", r"\boxed{5}", "5"),
        ("chain_sum", r"$\boxed{5}$", "5"),
        ("chain_sum", r"\(5\)", "5"),
        ("chain_sum", "5.", "5"),
        ("chain_sum", "1,200.", "1,200"),
        ("chain_sum", "5.5.", "5.5."),
        ("countdown", "7 × 4", "7 * 4"),
        ("countdown", r"7 \times 4", "7 * 4"),
        ("countdown", r"7 \cdot 4", "7 * 4"),
        ("countdown", "8 ÷ 4 − 1", "8 / 4 - 1"),
        ("countdown", "（7＋4）", "(7+4)"),
        ("prime_factorization", r"7 \times 13", "7 × 13"),
        ("prime_factorization", "7*13", "7 × 13"),
        ("prime_factorization", "7 · 13", "7 × 13"),
        ("caesar_cipher", "A × B", "A × B"),
        ("number_sorting", "['1', '-2']", "['1', '-2']"),
    ],
)
def test_spellings(task, answer, plain):
    assert spelled_plainly(task, answer) == plain


WELL_FORMED = [
    ("chain_sum", "5", ["5", "-5", "+5", "5.0", "1,200", "007", "$5", "5%", "1e3", "10/2"]),
    ("course_schedule", "True", ["True", "false", "FALSE"]),
    ("syllogism", "Yes", ["yes", "No"]),
    ("jugs", '["fill A"]', ['["fill B", "empty A"]', '["x"]']),
    ("group_anagrams", '[["ab", "ba"]]', ['[["a"], ["b"]]']),
    ("game_of_life", "[[0,1]]", ["[[1,0]]", "[[0.0, 1]]"]),
    ("codeio", '{"a": 1}', ['{"b": 2}']),
    ("codeio", "[]", ["[]"]),
    ("tsumego", "G8", ["A1", "b12"]),
    ("rush_hour", None, ["A+1", "F+1 K+1 M-1"]),
    ("prime_factorization", "7 × 13", ["7 × 13", "91", "7×13"]),
    ("complex_arithmetic", "1.0 + 4.0i", ["1 + 4i", "-2", "3i", "1.0-4.0i"]),
    ("caesar_cipher", "A WORD", ["anything", "B"]),
]
MALFORMED = [
    (
        "chain_sum",
        "5",
        ["five", "nan", "inf", "The answer is 5", "5 6", "1,2,3", "1,20", "12,34", "١", "0x5", "5 apples", "1/0", ""],
    ),
    ("course_schedule", "True", ["True False", "not True", "yes", "1", "I do not know", ""]),
    ("game_of_life_halting", "False", ["I do not know", "nan", "no", "0"]),
    ("syllogism", "Yes", ["Yes and No", "true"]),
    ("jugs", '["fill A"]', ["[]", "{}", "[1]", "[[]]", "fill A", '[""]', "[null]"]),
    ("group_anagrams", '[["ab"]]', ["[]", "[[]]", '["ab"]', "{}"]),
    ("game_of_life", "[[0,1]]", ["{}", '{"0": 1}', "[]", "[0]", "x"]),
    ("graph_color", None, ["[]", "[[]]", '{"a": 1}', "{0", "no"]),
    ("boxnet", None, ["[]", "{}", "1", "null", "[1]"]),
    ("tsumego", "G8", ["A1 B2", "A", "1", "AA1", "A100", "pass"]),
    ("rush_hour", None, ["", "None", "A", "A+", "nan", "A+1, B-1"]),
    ("prime_factorization", "7 × 13", ["none", "7 ×", "seven × 13", "7 + 13", ""]),
    ("complex_arithmetic", "1.0 + 4.0i", ["nan", "inf", "i am", "1 + 2", "5 6", "nan + nani"]),
    ("sentence_reordering", "the old town", ["the new town", "the answer is"]),
]


@pytest.mark.parametrize(("task", "reference", "answers"), WELL_FORMED)
def test_answers_that_have_their_task_s_form(task, reference, answers):
    assert [answer for answer in answers if not has_form(task, answer, {"answer": reference})] == []


@pytest.mark.parametrize(("task", "reference", "answers"), MALFORMED)
def test_answers_that_do_not(task, reference, answers):
    assert [answer for answer in answers if has_form(task, answer, {"answer": reference})] == []


def test_a_countdown_uses_the_numbers_it_was_given():
    entry = {"answer": "7 * 4", "metadata": {"numbers": [7, 4], "target": 28}}
    assert [has_form("countdown", answer, entry) for answer in ("7*4", "4", "28", "07 * 4")] == [True] * 4
    assert [has_form("countdown", answer, entry) for answer in ("0", "7 * 5", "x", "1e3", "0.5")] == [False] * 5


def test_a_conclusion_names_a_given_variable():
    entry = {"answer": None, "metadata": {"variables": ["P", "Q"]}}
    assert has_form("propositional_logic", "(P ∧ ¬Q)", entry)
    assert not has_form("propositional_logic", "A", entry)
    assert not has_form("propositional_logic", "nan", entry)


@pytest.mark.parametrize(
    ("task", "answer", "reference", "credit", "kept"),
    [
        ("rectangle_count", "3", "4", 0.56, 0.0),
        ("rectangle_count", "4", "4", 1.0, 1.0),
        ("rectangle_count", "4.0", "4", 1.0, 1.0),
        ("decimal_arithmetic", "0.99", "0.990748", 0.7, 0.7),
        ("decimal_arithmetic", "0.5", "0.990748", 0.7, 0.0),
        ("coin_flip", "5/16", "0.3125", 1.0, 1.0),
        ("coin_flip", "1e3", "1", 1.0, 0.0),
        ("spell_backward", "abc", "cba", 0.3, 0.0),
        ("figlet_font", "licet", "LICET", 0.5, 0.5),
        ("acre", "None", "on", 0.5, 0.0),
        ("countdown", "2**3", "x", 1.0, 0.05),
        ("countdown", "(2+3)/3", "x", 0.05, 0.05),
        ("sudoku", "1 2", "2 1", 0.7, 0.7),
        ("chain_sum", "1" * 700, "5", 0.4, 0.0),
    ],
)
def test_what_is_left_of_a_scorer_s_credit(task, answer, reference, credit, kept):
    assert credit_kept(task, answer, {"answer": reference}, credit) == kept


class Scorer:
    """Stands in for a task: raises at some answers."""

    def __init__(self, paid):
        self.paid = paid

    def score_answer(self, answer, entry):
        credit = self.paid[answer]
        if isinstance(credit, Exception):
            raise credit
        return credit


@pytest.mark.parametrize(
    ("paid", "reward"),
    [
        ({"a b": ValueError(), "r s": 1.0}, 0.0),
        ({"a b": ZeroDivisionError(), "r s": 1.0}, 0.0),
        ({"a b": RecursionError(), "r s": 1.0}, 0.0),
        ({"a b": StopIteration(), "r s": 1.0}, 0.0),
        ({"a b": float("nan"), "r s": 1.0}, 0.0),
        ({"a b": float("inf"), "r s": 1.0}, 0.0),
        ({"a b": 7.0}, 1.0),
        ({"a b": -1.0}, 0.0),
        ({"a b": 0.05, "": 0.05}, 0.0),
        ({"a b": 0.05, "": 0.01}, 0.05),
        ({"a b": 0.5, "": ValueError()}, 0.5),
    ],
)
def test_what_a_scorer_does_is_a_verdict(monkeypatch, paid, reward):
    entry = {"answer": "r s", "metadata": {}}
    monkeypatch.setattr(LogicVerifier, "_dataset", lambda *_: ("some_task", entry, Scorer(paid)))
    verdict = LogicVerifier().score(Prompt("p", "s", "?"), Response("<answer>a b</answer>"))
    assert verdict.reward == reward


class Endless:
    """Stands in for a task whose scorer computes on and on."""

    def score_answer(self, answer, entry):
        while True:
            sum(range(100))


def test_an_answer_that_is_computed_on_for_too_long_is_wrong(monkeypatch):
    monkeypatch.setattr("ring_async.verifiers.rules.logic.verifier._MAX_CPU_S", 0.02)
    monkeypatch.setattr(LogicVerifier, "_dataset", lambda *_: ("some_task", {"answer": "r s"}, Endless()))
    verdict = LogicVerifier().score(Prompt("p", "s", "?"), Response("<answer>a b</answer>"))
    assert (verdict.reward, verdict.explanation) == (0.0, "some_task: a b: more than 0.02 s of CPU time")
