"""Packed attention over microbatches, where the kernel's loop stands in: equal to attention in blocks."""

from typing import Any

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
ONE = PackedSequences(None, None, torch.tensor([0, 4], dtype=torch.int32), 4)
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
def test_equals_attention_in_blocks_whatever_the_padding_behind(num_padded: int):
    (one,) = microbatches()
    num_tokens = one.input_ids.size
    assert num_tokens < one.members.size  # three responses share a prompt
    sequences = PackedSequences.of(one, CPU, num_padded)
    assert sequences.longest == 7
    assert sequences.starts[-1] == one.members.size + num_padded
    padded = [states(heads, num_tokens + num_padded) for heads in (4, 2, 2)]
    found, _ = varlen.attend(torch.nn.Identity(), *padded, None, **sequences.arguments())
    blocks = AttentionBlocks(tuple(torch.from_numpy(g) for g in one.gathers), torch.from_numpy(one.scatter))
    cut = [state[:, :, :num_tokens] for state in padded]
    expected, _ = attention.attend(torch.nn.Identity(), *cut, None, blocks=blocks)
    assert found.shape[1] == num_tokens + num_padded
    assert torch.allclose(found[:, :num_tokens], expected, atol=1e-12)


def test_a_window_hides_what_lies_too_far_behind():
    query, key, value = (states(1, 4) for _ in range(3))
    found, _ = varlen.attend(torch.nn.Identity(), query, key, value, None, **ONE.arguments(), sliding_window=2)
    weights = (query[0, 0, 3] @ key[0, 0, 2:4].T / 2).softmax(-1)
    assert torch.allclose(found[0, 3, 0], weights @ value[0, 0, 2:4])


def test_features_of_other_models_are_refused():
    with pytest.raises(ConfigError, match="softcap"):
        varlen.attend(torch.nn.Identity(), *(states(1, 4),) * 3, None, **ONE.arguments(), softcap=30.0)


def test_forwards_by_rows_score_what_others_score():
    (whole,) = microbatches()
    parts = microbatches(rows=1)
    assert len(parts) == 2
    assert sorted(np.concatenate([part.positions for part in parts])) == sorted(whole.positions)
    assert all(part.input_ids.size <= 16 for part in parts)


def test_a_layer_is_compiled_anew_until_every_size_has_changed_and_never_after():
    graphs: list[int] = []

    def count(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(len(inputs))
        return graph

    def layer(hidden: torch.Tensor, **sequences: Any) -> torch.Tensor:
        attended, _ = varlen.attend(torch.nn.Identity(), *(hidden * 2,) * 3, None, **sequences)
        return attended + 1

    torch._dynamo.reset()
    compiled = torch.compile(layer, backend=count)
    seen = []
    for lengths in ([8], [3, 5], [1, 2, 4], [2] * 6, [30], [9, 1]):
        starts = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
        given = PackedSequences(None, None, starts, max(lengths)).arguments()
        hidden = states(2, sum(lengths))
        assert torch.equal(compiled(hidden, **given), layer(hidden, **given))
        seen.append(len(graphs))
    assert seen[2:] == [seen[2]] * 4  # number and length of sequences change first, then the number of tokens
