"""Tokens of padding behind a forward change nothing of its scores."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ring_async.testing.packed_batches import SequenceSpec, pack_sequences, write_tiny_llama
from ring_async.training.batch_tensors import BatchTensors
from ring_async.training.hf.model import PackedModel
from ring_async.training.hf.settings import ForwardSettings
from ring_async.training.layout import iterate_microbatches

CPU = torch.device("cpu")
SPECS = [SequenceSpec([1, 2, 3], range(2, 2 + n)) for n in (4, 2, 5)] + [SequenceSpec([4], [5, 6, 7])]


@pytest.mark.parametrize("attention", ["blocks", "varlen"])
def test_padding_changes_no_score(attention: Any, tmp_path: Path):
    folder = write_tiny_llama(tmp_path / "model", vocabulary=64)
    batch = pack_sequences(SPECS, token_capacity=16)
    scored = batch.loss_mask != 0
    (microbatch,) = iterate_microbatches(batch, scored, scored, 1000)
    tensors = BatchTensors(batch, CPU)
    positions = torch.from_numpy(microbatch.positions)
    found = []
    for multiple in (1, 16):
        settings = ForwardSettings(attention=attention, padded_multiple=multiple)
        model = PackedModel.load(folder, device=CPU, settings=settings)
        assert (settings.num_padded(microbatch.input_ids.size) > 0) == (multiple > 1)
        found.append(model.score(microbatch, tensors.input_ids[positions], tensors.temperatures[positions]))
    for plain, padded in zip(*found, strict=True):
        assert torch.allclose(plain, padded, atol=1e-6)
