import asyncio

import pytest

from ring_async.config.schema import VerifierSection
from ring_async.errors import ConfigError, VerifierError
from ring_async.types import Prompt, Verdict
from ring_async.verifiers.base import GoldenCase, Response, VerifierBase
from ring_async.verifiers.combine.gate import Gate
from ring_async.verifiers.combine.length_bias import LengthBias, LengthCorrected
from ring_async.verifiers.combine.weighted_sum import AllOf, WeightedSum
from ring_async.verifiers.golden import check_golden_cases
from ring_async.verifiers.registry import make_verifier
from ring_async.verifiers.scoring import score_group

PROMPT = Prompt("p", "s", "?")


class Words(VerifierBase):
    """Rewards each response by the first number in its text, at `position`."""

    name = "words"

    def __init__(self, position=0):
        self.position = position
        self.seen = []
        self.is_closed = False

    def score(self, prompt, response):
        self.seen.append(response.text)
        value = response.text.split()[self.position]
        if value == "fail":
            raise VerifierError("broken", "cannot")
        return Verdict(float(value), {"inner": 1.0}, f"says {value}")

    def golden_cases(self):
        return [GoldenCase(PROMPT, Response("1 1"), 0.0)]

    def close(self):
        self.is_closed = True


def rewards(verifier, *texts):
    verifier.name = "whole"
    responses = [Response(text, num_tokens=len(text)) for text in texts]
    return [verdict.reward for verdict in asyncio.run(score_group(verifier, PROMPT, responses, 5.0))]


def test_weighted_sum():
    verifier = WeightedSum({"a": Words(0), "b": Words(1)}, {"a": 0.25, "b": -1.0})
    assert rewards(verifier, "1 0", "0 1", "4 0.5") == [0.25, -1.0, 0.5]


def test_a_part_s_own_parts_are_named_after_it():
    verifier = WeightedSum({"a": Words(0), "b": Words(1)}, {"a": 1.0, "b": 1.0})
    verdict = asyncio.run(verifier.score(PROMPT, Response("2 3")))
    assert verdict.parts == {"a": 2.0, "b": 3.0, "a.inner": 1.0, "b.inner": 1.0}
    assert verdict.explanation == "a: says 2; b: says 3"


def test_all_of():
    verifier = AllOf({"a": Words(0), "b": Words(1)}, {"a": 1.0, "b": 0.5})
    assert rewards(verifier, "1 1", "1 0.5", "1 0.4", "0.9 1") == [1.0, 1.0, 0.0, 0.0]


def test_gate_judges_only_what_passes():
    then = Words(1)
    verifier = Gate(Words(0), then, threshold=0.5, otherwise=-1.0)
    assert rewards(verifier, "1 7", "0 8", "0.5 9") == [7.0, -1.0, 9.0]
    assert sorted(then.seen) == ["0.5 9", "1 7"]


def test_a_gate_that_nothing_passes():
    assert rewards(Gate(Words(0), Words(1)), "0 1", "0 2") == [0.0, 0.0]


@pytest.mark.parametrize(
    "verifier",
    [
        WeightedSum({"a": Words(0), "b": Words(1)}, {"a": 1.0, "b": 1.0}),
        AllOf({"a": Words(0), "b": Words(1)}, {"a": 1.0, "b": 1.0}),
        Gate(Words(0), Words(1)),
    ],
)
def test_a_part_that_cannot_judge_fails_the_whole(verifier):
    with pytest.raises(VerifierError, match="broken"):
        rewards(verifier, "1 1", "1 fail")


def test_closing_closes_the_parts():
    parts = {"a": Words(0), "b": Words(1)}
    WeightedSum(parts, {"a": 1.0, "b": 1.0}).close()
    assert all(part.is_closed for part in parts.values())


def test_golden_cases_of_parts_are_checked():
    (failure,) = asyncio.run(check_golden_cases(AllOf({"a": Words()}, {"a": 1.0}), 5.0))
    assert failure.problem.startswith("part a: p: reward 1, declared 0")


def test_from_configuration():
    parts = {
        "rules": {"use": "instruction", "weight": 0.5},
        "nested": {"use": "all_of", "options": {"parts": {"again": {"use": "instruction"}}}},
    }
    verifier = make_verifier("general", VerifierSection(use="weighted_sum", options={"parts": parts}))
    metadata = {"instructions": [{"id": "punctuation:no_comma"}]}
    (verdict,) = asyncio.run(score_group(verifier, Prompt("p", "s", "?", metadata), [Response("no comma")], 5.0))
    assert verdict.reward == 1.5
    assert verdict.parts["nested.again"] == 1.0


@pytest.mark.parametrize(
    ("use", "options", "says"),
    [
        ("weighted_sum", {}, "parts: give at least one part"),
        ("weighted_sum", {"parts": {"a": {"use": "instruction", "weight": 0}}}, "every weight is 0"),
        ("weighted_sum", {"parts": {"a": {"weight": 1}}}, "a: must be a mapping with `use`"),
        ("weighted_sum", {"parts": {"a": {"use": "instruction", "wieght": 1}}}, "wieght: no such option"),
        ("all_of", {"parts": {"a": {"use": "nothing"}}}, "nothing is registered as 'nothing'"),
        ("gate", {"gate": {"use": "instruction"}}, "then: must be a mapping"),
        ("length_corrected", {}, "of: the verifier to correct"),
    ],
)
def test_mistakes_in_configuration_are_said(use, options, says):
    with pytest.raises(ConfigError, match=says):
        make_verifier("general", VerifierSection(use=use, options=options))


def test_length_bias_is_measured_within_groups():
    bias = LengthBias()
    bias.add_group([10, 20, 30], [1.0, 2.0, 3.0])
    assert bias.slope == pytest.approx(0.1)
    assert bias.correlation == pytest.approx(1.0)
    bias.add_group([100, 200], [-5.0, -5.0])  # a hard prompt with long answers: no evidence of bias
    assert 0 < bias.slope < 0.1
    assert bias.num_groups == 2


def test_length_bias_of_equal_lengths_or_rewards_is_none():
    bias = LengthBias()
    assert (bias.slope, bias.correlation) == (0.0, 0.0)
    bias.add_group([5, 5], [0.0, 1.0])
    assert (bias.slope, bias.correlation) == (0.0, 0.0)


def test_old_groups_are_forgotten():
    bias = LengthBias(decay=0.5)
    for _ in range(30):
        bias.add_group([1, 2], [0.0, 1.0])
    for _ in range(30):
        bias.add_group([1, 2], [1.0, 0.0])
    assert bias.slope == pytest.approx(-1.0, abs=1e-6)


def test_correction_takes_out_what_length_explains():
    verifier = LengthCorrected(Words(), slope=0.5)
    assert rewards(verifier, "1", "1 xx") == [1 + 0.5 * 1.5, 1 - 0.5 * 1.5]


def test_correction_sets_in_once_enough_groups_were_seen():
    verifier = LengthCorrected(Words(), min_groups=2, decay=1.0)
    assert rewards(verifier, "1", "3 x") == [1.0, 3.0]
    assert rewards(verifier, "1", "3 x") == [1.0, 3.0]
    assert verifier.slope == pytest.approx(1.0)
    assert rewards(verifier, "1", "3 x") == [2.0, 2.0]
