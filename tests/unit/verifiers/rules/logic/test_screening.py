import pytest

from ring_async.types import Prompt
from ring_async.verifiers.base import Response
from ring_async.verifiers.rules.logic.screening import is_plausible_answer
from ring_async.verifiers.rules.logic.verifier import LogicVerifier


@pytest.mark.parametrize(
    ("task", "answer"),
    [
        ("countdown", "94*4 - 61 - 6"),
        ("countdown", "(3 + 4) / 7"),
        ("puzzle24", "(10 - 4) * 4 * 1"),
        ("simple_integration", "3*x**2/2 + C"),
        ("intermediate_integration", "x*exp(x) - sin(2*x)/4 + C"),
        ("polynomial_multiplication", "6*x**4 - 15*x**3"),
        ("string_insertion", "['A', 'B']"),
        ("string_insertion", "AABBC"),
        ("spiral_matrix", "1 2 3"),
        ("n_queens", "_ Q _ _\n_ _ _ Q"),
        ("caesar_cipher", "__import__('os') is fine where nothing is evaluated"),
    ],
)
def test_answers_are_let_through(task, answer):
    assert is_plausible_answer(task, answer)


@pytest.mark.parametrize("task", ["countdown", "puzzle24", "simple_integration", "polynomial_multiplication"])
@pytest.mark.parametrize(
    "answer",
    [
        "__import__('os').system('id')",
        "exec('1')",
        "open('x')",
        "().__class__",
        "x.__class__",
        "x . real",
        "lambda: 1",
        "[1][0]",
        "9**9**9**9",
        "2**(3)**4",
        "9^9^9",
        "2**99999",
        "factorial(9)",
        "9!",
        "1" * 3000,
    ],
)
def test_expressions_that_are_code_or_bombs_are_refused(task, answer):
    assert not is_plausible_answer(task, answer)


@pytest.mark.parametrize("task", ["string_insertion", "spiral_matrix", "binary_matrix", "n_queens"])
@pytest.mark.parametrize("answer", ["exit()", "[x for x in (1,)]", "'a' * 9999999999", "9 ** 9", "{1: 2}", "f'{1}'"])
def test_lists_that_compute_are_refused(task, answer):
    assert not is_plausible_answer(task, answer)


def test_no_answer_is_no_reward():
    verdict = LogicVerifier().score(Prompt("p", "s", "?", {"task": "countdown", "entry": {}}), Response("42"))
    assert (verdict.reward, verdict.parts) == (0.0, {"answered": 0.0})
