"""A staged version beside the server, in the form that `/update_weights_from_tensor` takes.

    tensors (Hugging Face names) ──fill──▶ one flat buffer ──payload──▶ a handle of it and where each tensor lies

Owns: the buffer, its layout, the check of names. On a GPU the payload is a CUDA IPC handle: the server's processes, on
the same host, read the buffer itself. On the CPU it is the bytes.
Does not own: when a payload is sent (`engine`).
Invariant: the buffer holds one whole version from the end of `fill` to the beginning of the next.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from ring_async.errors import WeightsError
from ring_async.types import PolicyVersion

_ALIGNMENT = 256
_TIED = "lm_head.weight"


@dataclass(frozen=True, slots=True)
class ExpectedWeights:
    """Names and shapes a version must have. A server skips names it does not know without a word; we do not send any.

    Attributes:
        shapes: by name; empty where the model's folder holds no weights: then nothing is checked.
        optional: names a version may leave out or have besides.
    """

    shapes: Mapping[str, tuple[int, ...]]
    optional: frozenset[str] = frozenset()

    def check(self, policy_version: PolicyVersion, tensors: Mapping[str, torch.Tensor]) -> None:
        """Raises: WeightsError: names are missing or unknown, or a shape differs."""
        if not self.shapes:
            return
        missing = self.shapes.keys() - self.optional - tensors.keys()
        unknown = tensors.keys() - self.shapes.keys() - self.optional
        if missing or unknown:
            raise WeightsError(
                f"version {policy_version}: "
                + "; ".join(
                    f"{len(names)} tensors {what}, e.g. {min(names)}"
                    for what, names in (("missing", missing), ("unknown to the model", unknown))
                    if names
                )
            )
        for name, tensor in tensors.items():
            expected = self.shapes.get(name, tuple(tensor.shape))
            if tuple(tensor.shape) != expected:
                raise WeightsError(
                    f"version {policy_version}: {name} has shape {tuple(tensor.shape)}, the model's is {expected}"
                )


def read_expected_weights(model_path: Path) -> ExpectedWeights:
    """From the headers of a Hugging Face directory's safetensors."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(model_path.glob("*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        header.pop("__metadata__", None)
        shapes |= {name: tuple(spec["shape"]) for name, spec in header.items()}
    config = json.loads((model_path / "config.json").read_text())
    is_tied = bool(config.get("tie_word_embeddings", False))
    return ExpectedWeights(shapes, frozenset({_TIED}) if is_tied else frozenset())


class WeightStaging:
    """One version's bytes on a device, laid out for the server.

    Args:
        device: where the server's first GPU is; `cpu` sends bytes.
    """

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._specs: tuple[tuple[str, torch.dtype, torch.Size], ...] = ()
        self._starts: list[int] = []
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self.policy_version: PolicyVersion | None = None

    @property
    def num_bytes(self) -> int:
        return self._buffer.numel()

    def fill(self, policy_version: PolicyVersion, tensors: Mapping[str, Any], expected: ExpectedWeights) -> None:
        """Copy a version in. Blocks until the bytes are there; meant for a worker thread.

        Raises:
            WeightsError: names or shapes are not as expected; the version before stays.
        """
        named = {name: torch.as_tensor(tensor).detach() for name, tensor in tensors.items()}
        expected.check(policy_version, named)
        self._lay_out(tuple((name, tensor.dtype, tensor.shape) for name, tensor in named.items()))
        self.policy_version = None
        for tensor, start in zip(named.values(), self._starts, strict=True):
            flat = tensor.contiguous().reshape(-1).view(torch.uint8)
            self._buffer[start : start + flat.numel()].copy_(flat, non_blocking=True)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.policy_version = policy_version

    def _lay_out(self, specs: tuple[tuple[str, torch.dtype, torch.Size], ...]) -> None:
        """Give each tensor its place; the layout of a model does not change from version to version."""
        if specs == self._specs:
            return
        starts, end = [], 0
        for _, dtype, shape in specs:
            starts.append(end)
            num_bytes = shape.numel() * dtype.itemsize
            end += -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
        self._buffer = torch.empty(end, dtype=torch.uint8, device=self._device)
        self._specs, self._starts = specs, starts

    def payloads(self, count: int) -> list[str]:
        """The version in the buffer, once for each tensor-parallel rank: each may be unpickled once."""
        return [self._payload() for _ in range(count)]

    def _payload(self) -> str:
        """Base64 of a pickle of standard types and tensors.

        Releases from 0.5.21 on unpickle an exact list of types, without any class of ours or theirs in it.
        """
        metadata = [
            SimpleNamespace(
                name=name,
                shape=shape,
                dtype=dtype,
                start_idx=start,
                end_idx=start + shape.numel() * dtype.itemsize,
                numel=shape.numel() * dtype.itemsize,
            )
            for (name, dtype, shape), start in zip(self._specs, self._starts, strict=True)
        ]
        bucket = {"flattened_tensor": self._buffer, "metadata": metadata}
        if self._device.type == "cpu":
            return base64.b64encode(pickle.dumps(bucket)).decode()
        import torch.multiprocessing  # noqa: F401 - teaches the pickler to hand over CUDA memory by its handle

        file = io.BytesIO()
        ForkingPickler(file).dump(bucket)
        return base64.b64encode(file.getvalue()).decode()
