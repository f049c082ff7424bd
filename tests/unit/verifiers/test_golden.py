"""Golden cases: judged before service, each failure named."""

import asyncio

import pytest

from ring_async.errors import ConfigError
from ring_async.types import Prompt, Verdict
from ring_async.verifiers.base import GoldenCase, Response, VerifierBase
from ring_async.verifiers.combine.weighted_sum import AllOf
from ring_async.verifiers.golden import check_golden_cases, require_golden_cases

PROMPT = Prompt("p", "s", "?")


class Reads(VerifierBase):
    """The reward is what the response says; `cases` are pairs of a response and its declared reward."""

    name = "reads"

    def __init__(self, *cases):
        self.cases = cases

    def score(self, prompt, response):
        return Verdict(float(response.text))

    def golden_cases(self):
        return [GoldenCase(PROMPT, Response(text), reward) for text, reward in self.cases]


def test_golden_cases_that_come_out_otherwise_are_named():
    failures = asyncio.run(check_golden_cases(Reads(("1", 1.0), ("1", 0.5), ("x", 0.5)), 1.0))
    assert [failure.index for failure in failures] == [1, 2]
    assert "reward 1, declared 0.5" in failures[0].problem
    assert "could not be judged: crash" in failures[1].problem


def test_a_verifier_whose_golden_cases_fail_is_refused_case_by_case():
    with pytest.raises(ConfigError) as refusal:
        asyncio.run(require_golden_cases(Reads(("1", 1.0), ("1", 0.5), ("x", 0.5)), 1.0))
    first, second, remedy = str(refusal.value).splitlines()
    assert first.startswith("verifiers.reads: golden case 1: p: reward 1, declared 0.5")
    assert second.startswith("verifiers.reads: golden case 2: p: could not be judged: crash")
    assert "does not go into service" in remedy


def test_parts_of_a_composite_are_checked_and_counted():
    right, wrong = Reads(("1", 1.0), ("0", 0.0)), Reads(("1", 0.0))
    assert asyncio.run(require_golden_cases(AllOf({"a": right}, {"a": 1.0}), 1.0)) == 2
    composite = AllOf({"a": right, "b": wrong}, {"a": 1.0, "b": 1.0})
    composite.name = "both"
    with pytest.raises(ConfigError, match=r"verifiers\.both: golden case 0: part b: p: reward 1, declared 0"):
        asyncio.run(require_golden_cases(composite, 1.0))
