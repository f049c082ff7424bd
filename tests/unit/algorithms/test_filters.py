import math

import pytest
import torch

from ring_async.algorithms.corrections import Correction, TokenBatch, correct
from ring_async.algorithms.filters import FilterSettings, filtered_tokens, mean_by_sequence
from ring_async.config.learning import CorrectionSection


def filtered(settings: FilterSettings, **fields) -> dict[str, list[bool]]:
    size = len(fields["sequence_ids"])
    values = {
        "policy_logprobs": torch.full((size,), -1.0),
        "behavior_logprobs": torch.full((size,), -1.0),
        "log_behavior_ratio": torch.zeros(size),
        "advantages": torch.ones(size),
        "is_sampled": torch.ones(size, dtype=torch.bool),
    }
    values |= {name: torch.as_tensor(value) for name, value in fields.items()}
    return {name: mask.tolist() for name, mask in filtered_tokens(settings, **values).items()}


def test_all_are_off_by_default():
    assert filtered(FilterSettings(), sequence_ids=[0, 0]) == {}


def test_a_response_is_rejected_whole_by_its_mean_log_ratio():
    found = filtered(
        FilterSettings(sequence_reject=(-0.5, 0.5)),
        sequence_ids=[0, 0, 1, 1, 2],
        log_behavior_ratio=[2.0, -1.8, 0.9, 0.3, -0.6],
    )
    assert found == {"sequence_reject": [False, False, True, True, True]}


def test_off_policy_responses_are_masked_only_with_negative_advantage():
    found = filtered(
        FilterSettings(off_policy_delta=0.5),
        sequence_ids=[0, 0, 1, 1],
        policy_logprobs=[-2.0, -2.0, -2.0, -2.0],
        behavior_logprobs=[-1.0, -1.6, -1.0, -1.6],
        advantages=[-1.0, -1.0, 1.0, 1.0],
    )
    assert found == {"off_policy_delta": [True, True, False, False]}


def test_tokens_whose_probability_moved_far_are_masked():
    found = filtered(
        FilterSettings(max_probability_gap=0.3),
        sequence_ids=[0, 0, 0],
        policy_logprobs=[math.log(0.9), math.log(0.5), math.log(0.01)],
        behavior_logprobs=[math.log(0.5), math.log(0.25), math.log(0.2)],
    )
    assert found == {"max_probability_gap": [True, False, False]}


def test_means_count_sampled_tokens_only():
    values = torch.tensor([1.0, 3.0, 100.0, 5.0])
    counted = torch.tensor([True, True, False, False])
    assert mean_by_sequence(values, torch.tensor([0, 0, 0, 1]), counted).tolist() == [2.0, 2.0, 2.0, 0.0]


def test_a_filter_zeroes_the_surrogate_and_is_counted_by_name():
    tokens = TokenBatch(
        policy_logprobs=torch.tensor([math.log(0.9), math.log(0.5)]),
        proximal_logprobs=torch.tensor([math.log(0.9), math.log(0.5)]),
        behavior_logprobs=torch.tensor([math.log(0.5), math.log(0.5)]),
        advantages=torch.tensor([1.0, 1.0]),
        is_loss=torch.ones(2, dtype=torch.bool),
        sequence_ids=torch.zeros(2, dtype=torch.int64),
        token_staleness=torch.zeros(2, dtype=torch.int64),
    )
    corrected = correct(tokens, Correction.from_section(CorrectionSection(rule="tis", max_probability_gap=0.3)))
    assert corrected.surrogate.tolist() == pytest.approx([0.0, 1.0])
    assert corrected.filtered["max_probability_gap"].tolist() == [True, False]
    assert not bool(corrected.is_masked.any())
