"""Named tensors in safetensors files: written whole by the rank that owns them, read in slices by anyone.

    model.safetensors                                     one rank
    model-00001-of-00002.safetensors, -00002-of-00002 …   two; model.safetensors.index.json says which tensor is where

Owns: the layout, the choice of each tensor's owner, reading rows of a tensor. Does not own which tensors there are.

Hugging Face's layout of large models, so that a checkpoint is a Hugging Face directory, ranks write at once, and any
other number of ranks reads back what it needs: a tensor is never cut. Rejected: torch's distributed checkpoints, whose
metadata is unpickled, and their safetensors writer, which cuts tensors under a header that only it reads, so that the
weights would be written twice. The price is that a parameter is gathered once, on a wire much faster than the disk.

Invariant: reading executes nothing: safetensors files are a JSON header and bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ring_async.errors import StorageError


def owners_of(sizes: Mapping[str, int], num_ranks: int) -> dict[str, int]:
    """The rank that writes each tensor: largest first, each to the rank with the least so far.

    Args:
        sizes: of the tensors, in any unit.
        num_ranks: that write.
    """
    loads = [0] * num_ranks
    owners = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        owners[name] = min(range(num_ranks), key=lambda rank: (loads[rank], rank))
        loads[owners[name]] += sizes[name]
    return owners


def file_name(stem: str, rank: int, num_ranks: int) -> str:
    """The file that a rank writes."""
    if num_ranks == 1:
        return f"{stem}.safetensors"
    return f"{stem}-{rank + 1:05d}-of-{num_ranks:05d}.safetensors"


def write_tensors(folder: Path, stem: str, tensors: dict[str, Tensor], rank: int, num_ranks: int) -> None:
    """Write one rank's tensors.

    Raises:
        StorageError: the disk is full or refuses.
    """
    path = folder / file_name(stem, rank, num_ranks)
    try:
        save_file({name: one.contiguous() for name, one in tensors.items()}, path, metadata={"format": "pt"})
    except (SafetensorError, OSError) as error:
        raise StorageError(f"cannot write {path}: {error}") from error


def write_index(folder: Path, stem: str, owners: Mapping[str, int], num_bytes: int, num_ranks: int) -> None:
    """Write which file holds each tensor; nothing where there is one file."""
    if num_ranks == 1:
        return
    places = {name: file_name(stem, rank, num_ranks) for name, rank in sorted(owners.items())}
    index = {"metadata": {"total_size": num_bytes}, "weight_map": places}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


class TensorFiles:
    """The tensors under one stem of a folder, whoever wrote them.

    with TensorFiles(folder, "model") as files:
        files.read("lm_head.weight", 0, 100)       # rows 0 … 99

    Raises:
        StorageError: there are none, or one is not a safetensors file.
    """

    def __init__(self, folder: Path, stem: str) -> None:
        self.folder = folder
        self._files: list[Any] = []
        self._where: dict[str, Any] = {}
        # Of another layout there can be no files, as a checkpoint's folder is new when it is written.
        for path in sorted((*folder.glob(f"{stem}.safetensors"), *folder.glob(f"{stem}-*-of-*.safetensors"))):
            try:
                file: Any = safe_open(path, framework="pt")
            except (SafetensorError, OSError) as error:
                raise StorageError(f"cannot read {path}: {error}") from error
            self._files.append(file)
            self._where |= dict.fromkeys(file.keys(), file)
        if not self._files:
            raise StorageError(f"cannot restore from {folder}: it holds no {stem}.safetensors")

    @property
    def names(self) -> set[str]:
        return set(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._where[name].get_slice(name).get_shape())

    def read(self, name: str, start: int = 0, end: int | None = None) -> Tensor:
        """Rows `[start, end)` of a tensor; all by default. A scalar comes whole."""
        if not self.shape(name):
            whole: Tensor = self._where[name].get_tensor(name)
            return whole
        rows = self._where[name].get_slice(name)[start:end]
        return torch.as_tensor(rows)

    def __enter__(self) -> TensorFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._where.clear()
        self._files.clear()
