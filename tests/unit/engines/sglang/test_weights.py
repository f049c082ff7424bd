"""A version in one buffer: its layout, its payload, and the names it must have."""

from __future__ import annotations

import base64
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ring_async.engines.sglang.weights import ExpectedWeights, WeightStaging, read_expected_weights
from ring_async.errors import WeightsError
from ring_async.types import PolicyVersion

V1, V2 = PolicyVersion(0, 1), PolicyVersion(0, 2)
ANY = ExpectedWeights({})


def unpacked(payload: str) -> dict[str, torch.Tensor]:
    """As a server reads it: slices of the flat tensor."""
    bucket = pickle.loads(base64.b64decode(payload))
    flat = bucket["flattened_tensor"]
    return {
        meta.name: flat[meta.start_idx : meta.end_idx].view(meta.dtype).reshape(meta.shape)
        for meta in bucket["metadata"]
    }


def make_tensors(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "odd": torch.randn(7, generator=generator).to(torch.bfloat16),
        "transposed": torch.randn(3, 5, generator=generator).T,
        "scalar": torch.randn((), generator=generator),
        "half": torch.randn(2, 129, generator=generator).half(),
    }


def test_a_payload_holds_every_tensor_bit_for_bit_and_each_rank_gets_one() -> None:
    staging = WeightStaging("cpu")
    for seed, version in ((1, V1), (2, V2)):
        tensors = make_tensors(seed)
        staging.fill(version, tensors, ANY)
        assert staging.policy_version == version
        for payload in staging.payloads(2):
            found = unpacked(payload)
            assert found.keys() == tensors.keys()
            assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
            assert all(found[name].dtype == tensor.dtype for name, tensor in tensors.items())


def test_a_payload_holds_standard_types_alone() -> None:
    staging = WeightStaging("cpu")
    staging.fill(V1, make_tensors(1), ANY)
    assert b"ring_async" not in base64.b64decode(staging.payloads(1)[0])


def test_what_does_not_fit_is_refused_and_the_version_before_stays(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"tie_word_embeddings": True}))
    save_file({"embed": torch.zeros(4, 2), "norm": torch.zeros(2)}, tmp_path / "model.safetensors", {"format": "pt"})
    expected = read_expected_weights(tmp_path)
    assert expected.shapes == {"embed": (4, 2), "norm": (2,)}
    good = {"embed": torch.ones(4, 2), "norm": torch.ones(2)}
    staging = WeightStaging("cpu")
    staging.fill(V1, good, expected)
    for wrong, words in (
        ({"embed": good["embed"]}, "1 tensors missing, e.g. norm"),
        ({**good, "gate": torch.zeros(1)}, "1 tensors unknown to the model, e.g. gate"),
        ({**good, "norm": torch.ones(3)}, r"norm has shape \(3,\), the model's is \(2,\)"),
    ):
        with pytest.raises(WeightsError, match=words):
            staging.fill(V2, wrong, expected)
    assert staging.policy_version == V1
    assert torch.equal(unpacked(staging.payloads(1)[0])["norm"], good["norm"])
    staging.fill(V2, {**good, "lm_head.weight": torch.ones(4, 2)}, expected)  # tied: may be there, need not
