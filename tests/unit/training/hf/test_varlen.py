"""Packed attention over microbatches, where the kernel's loop stands in: equal to attention in blocks."""

import numpy as np
import pytest
import torch

from ring_async.errors import ConfigError
from ring_async.testing.packed_batches import SequenceSpec, pack_sequences
from ring_async.training.hf import attention, varlen
from ring_async.training.hf.attention import AttentionBlocks
from ring_async.training.hf.varlen import PackedSequences
from ring_async.training.layout import Microbatch, iterate_microbatches, iterate_rows

CPU = torch.device("cpu")
SPECS = [SequenceSpec([1, 2, 3], range(2, 2 + n)) for n in (4, 2, 5)] + [SequenceSpec([4], [5, 6, 7])]


def microbatches(rows: int | None = None) -> list[Microbatch]:
    batch = pack_sequences(SPECS, token_capacity=16)
    scored = batch.loss_mask != 0
    if rows is None:
        return list(iterate_microbatches(batch, scored, scored, 1000))
    return list(iterate_rows(batch, scored, scored, rows))


def states(num_heads: int, num_tokens: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_heads)
    return torch.randn(1, num_heads, num_tokens, 4, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("num_padded", [0, 3])
def test_equals_attention_in_blocks_and_gives_zeros_to_padding(num_padded: int):
    (one,) = microbatches()
    num_tokens = one.input_ids.size
    assert num_tokens < one.members.size  # three responses share a prompt
    sequences = PackedSequences.of(one, CPU)
    assert (sequences.num_tokens, sequences.longest) == (num_tokens, 7)
    padded = [states(heads, num_tokens + num_padded) for heads in (4, 2, 2)]
    found, _ = varlen.attend(torch.nn.Identity(), *padded, None, sequences=sequences)
    blocks = AttentionBlocks(tuple(torch.from_numpy(g) for g in one.gathers), torch.from_numpy(one.scatter))
    cut = [state[:, :, :num_tokens] for state in padded]
    expected, _ = attention.attend(torch.nn.Identity(), *cut, None, blocks=blocks)
    assert torch.allclose(found[:, :num_tokens], expected, atol=1e-12)
    assert found[:, num_tokens:].abs().sum() == 0


def test_a_window_hides_what_lies_too_far_behind():
    sequences = PackedSequences(None, None, torch.tensor([0, 4], dtype=torch.int32), 4, 4)
    query, key, value = (states(1, 4) for _ in range(3))
    found, _ = varlen.attend(torch.nn.Identity(), query, key, value, None, sequences=sequences, sliding_window=2)
    weights = (query[0, 0, 3] @ key[0, 0, 2:4].T / 2).softmax(-1)
    assert torch.allclose(found[0, 3, 0], weights @ value[0, 0, 2:4])


def test_features_of_other_models_are_refused():
    sequences = PackedSequences(None, None, torch.tensor([0, 4], dtype=torch.int32), 4, 4)
    with pytest.raises(ConfigError, match="softcap"):
        varlen.attend(torch.nn.Identity(), *(states(1, 4),) * 3, None, sequences=sequences, softcap=30.0)


def test_forwards_by_rows_score_what_others_score():
    (whole,) = microbatches()
    parts = microbatches(rows=1)
    assert len(parts) == 2
    assert sorted(np.concatenate([part.positions for part in parts])) == sorted(whole.positions)
    assert all(part.input_ids.size <= 16 for part in parts)
