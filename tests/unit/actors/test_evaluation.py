"""Evaluation: which problems, which means, and that a failed verifier is no zero."""

import asyncio
import math
from types import SimpleNamespace

import numpy as np
import pytest

from ring_async.actors.evaluation import evaluate
from ring_async.actors.evaluation_results import Evaluation, ProblemResult, figures_of
from ring_async.actors.held_out import held_out_problems, share_problems
from ring_async.errors import ConfigError, VerifierError
from ring_async.types import Generation, PolicyVersion, Prompt, Segment, Verdict


class Countdown:
    """Held-out questions `0`, `0`, `1`, `1`, …: every one comes twice."""

    def __init__(self, name: str, num_questions: int = 1_000) -> None:
        self.name = name
        self.num_questions = num_questions

    def prompt(self, index: int) -> Prompt:
        raise AssertionError("evaluation must not look at training prompts")

    def held_out(self, index: int) -> Prompt:
        if index // 2 >= self.num_questions:
            raise IndexError(index)
        return Prompt(f"{self.name}/{index}", self.name, f"{self.name} {index // 2}")


class Echo:
    """Answers with the prompt's length, or seed when sampling; remembers what it was asked."""

    def __init__(self) -> None:
        self.requests = []

    async def generate(self, request) -> Generation:
        self.requests.append(request)
        ids = np.array([request.prompt_ids.size if request.sampling.temperature == 0 else request.seed % 7], np.int32)
        return Generation(ids, np.zeros(1, np.float32), (Segment(0, 1, PolicyVersion(0, 0)),), "stop")


class Tokenizer:
    chat_template = None

    def encode(self, text: str) -> list[int]:
        return list(range(len(text)))

    def decode(self, ids: list[int], **_: object) -> str:
        return str(ids[0])


class Parity:
    """1 for odd answers, a half for even ones; cannot judge where told so."""

    name, version = "parity", "1"

    def __init__(self, refuses: str = "") -> None:
        self.refuses = refuses

    async def score(self, prompt: Prompt, response) -> Verdict:
        if prompt.text == self.refuses:
            raise VerifierError("crash", "told so")
        return Verdict(1.0 if int(response.text) % 2 else 0.5)

    def golden_cases(self):
        return ()

    def close(self) -> None: ...


def run(engine: Echo, verifiers, *, num_problems: int = 5, **options) -> Evaluation:
    shares = share_problems(num_problems, verifiers)
    problems = [p for name in verifiers for p in held_out_problems(name, Countdown(name), shares[name])]
    return asyncio.run(evaluate(engine, Tokenizer(), problems, verifiers, max_tokens=9, seed=3, **options))


def test_problems_are_distinct_and_spread_over_the_sources() -> None:
    evaluation = run(Echo(), {"a": Parity(), "bb": Parity()}, temperatures=(0.0,))
    assert [r.prompt_id for r in evaluation.results] == ["a/0", "a/2", "a/4", "bb/0", "bb/2"]


def test_temperatures_answer_the_same_problems_with_seeds_that_are_fixed() -> None:
    engine = Echo()
    evaluation = run(engine, {"a": Parity()})
    greedy, sampled = evaluation.select(0.0), evaluation.select(1.0)
    assert [r.prompt_id for r in greedy] == [r.prompt_id for r in sampled]
    assert [r.seed for r in engine.requests[:5]] == [r.seed for r in engine.requests[5:]]
    assert len({r.seed for r in engine.requests}) == 5
    assert {(r.sampling.temperature, r.sampling.max_tokens) for r in engine.requests} == {(0.0, 9), (1.0, 9)}
    assert run(Echo(), {"a": Parity()}) == evaluation


def test_rows_give_means_by_source_and_over_all() -> None:
    evaluation = run(Echo(), {"a": Parity(), "bb": Parity()}, temperatures=(0.0,))
    a, b, everything = evaluation.rows()
    assert (a.source, a.num_problems, a.accuracy, a.reward_mean) == ("a", 3, 1.0, 1.0)
    assert (b.source, b.num_problems, b.accuracy, b.reward_mean) == ("bb", 2, 0.0, 0.5)
    assert (everything.source, everything.accuracy, everything.reward_mean) == ("all", 0.6, 0.8)
    assert (everything.tokens_mean, everything.truncated_share) == (1.0, 0.0)


def test_a_verifier_that_fails_takes_its_problem_out_of_the_means() -> None:
    evaluation = run(Echo(), {"a": Parity(refuses="a 1")}, temperatures=(0.0,))
    failed = evaluation.results[1]
    assert (failed.reward, failed.is_solved) == (None, False)
    assert "told so" in failed.failure
    (row, _) = evaluation.rows()
    assert (row.num_problems, row.num_failed, row.accuracy) == (5, 1, 1.0)


def test_k_samples_are_different_draws_averaged_over_all_answers() -> None:
    engine, answered = Echo(), []
    evaluation = run(engine, {"a": Parity()}, num_samples=3, on_answer=lambda: answered.append(1))
    assert len(answered) == 5 + 15
    sampled = [request for request in engine.requests if request.sampling.temperature]
    assert len({request.seed for request in sampled}) == len({request.request_id for request in sampled}) == 15
    greedy, _, row, _ = evaluation.rows()
    assert (greedy.num_problems, row.num_problems) == (5, 5)
    solved = [request.seed % 7 % 2 for request in sampled]
    assert 0 < row.accuracy < 1
    assert row.accuracy == sum(solved) / 15
    figures = figures_of(evaluation)
    assert (figures["k"], figures["num_problems"], figures["avg_at_k"]) == (3, 5, row.accuracy)
    assert figures["by_source"]["a"]["pass_at_1"] == greedy.accuracy


def test_figures_have_no_number_where_nothing_was_judged() -> None:
    result = ProblemResult("a", "a/0", 0.0, "x", 1, "length", None, "crash")
    figures = figures_of(Evaluation(0, 9, (result,)))
    assert (figures["pass_at_1"], figures["num_failed"], figures["k"]) == (None, 1, 0)


def test_no_verdict_at_all_is_not_a_number() -> None:
    result = ProblemResult("a", "a/0", 0.0, "x", 1, "length", None, "crash")
    row = Evaluation(0, 9, (result,)).rows()[0]
    assert math.isnan(row.accuracy)
    assert row.truncated_share == 1.0


def test_a_source_with_too_few_problems_says_so() -> None:
    with pytest.raises(ConfigError, match="source s has only 3 different held-out problems, 4 are wanted"):
        held_out_problems("s", Countdown("s", num_questions=3), 4)


def test_an_endless_source_that_repeats_itself_does_not_hang() -> None:
    always = SimpleNamespace(held_out=lambda index: Prompt(str(index), "s", "the same"))
    with pytest.raises(ConfigError, match="only 1 different"):
        held_out_problems("s", always, 2)
