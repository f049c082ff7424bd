"""Checkpoints of the hf trainer: weights, moments and random state, taken between two steps and written while it goes
on.

    saved = capture(…)            every rank, at once: the tensors it owns, copied into host memory
    saved.write(folder)           every rank, on any thread: its files; rank 0 also what is not a tensor

Owns: what a checkpoint's folder holds and how it is read back, in whatever layout of ranks. Does not own atomic naming,
checksums, or how many are kept (`training.checkpoint`).

Invariants: a folder is a Hugging Face directory of float32 weights with `optimizer*.safetensors` and
`trainer_state.json` beside it; what is restored is bit for bit what was saved, on one rank or many; nothing is
unpickled.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ring_async.errors import StorageError
from ring_async.models.file_tensors import FileTensor, file_tensors
from ring_async.training.hf.optimizer import STEM as OPTIMIZER
from ring_async.training.hf.slices import first_row, local, whole
from ring_async.training.hf.tensor_files import TensorFiles, owners_of, write_index, write_tensors
from ring_async.training.ranks import Ranks

MODEL = "model"
STATE_FILE = "trainer_state.json"
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
)


@dataclass(slots=True)
class SavedTrainer:
    """One rank's part of a checkpoint, in memory that nobody else writes to.

    Attributes:
        rank, num_ranks: of the learner.
        weights, moments: that this rank writes.
        weight_owners: of all ranks, by the names of files.
        num_weight_bytes: of all ranks.
        state: what is not a tensor.
        model: whose `config.json` is written.
        tokenizer_folder: whose tokenizer is copied.
    """

    rank: int
    num_ranks: int
    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    weight_owners: dict[str, int]
    num_weight_bytes: int
    state: dict[str, Any]
    model: Any = field(repr=False)
    tokenizer_folder: Path = Path()

    def write(self, folder: Path) -> None:
        """Write this rank's files into a folder that all ranks share."""
        write_tensors(folder, MODEL, self.weights, self.rank, self.num_ranks)
        write_tensors(folder, OPTIMIZER, self.moments, self.rank, self.num_ranks)
        if self.rank != 0:
            return
        write_index(folder, MODEL, self.weight_owners, self.num_weight_bytes, self.num_ranks)
        self.model.config.save_pretrained(folder)
        if self.model.can_generate():
            self.model.generation_config.save_pretrained(folder)
        # Python files are those that `auto_map` in config.json names, for readers that execute them. We never do.
        for path in (*(self.tokenizer_folder / name for name in _TOKENIZER_FILES), *self.tokenizer_folder.glob("*.py")):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
        (folder / STATE_FILE).write_text(json.dumps(self.state), encoding="utf-8")


def capture(
    ranks: Ranks,
    parameters: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
    *,
    state: dict[str, Any],
    model: Any,
    tokenizer_folder: Path,
) -> SavedTrainer:
    """Copy what this rank writes into host memory; every rank must call it.

    Args:
        ranks: of the learner.
        parameters: float32 weights by name in memory, whole or sliced.
        moments: of the optimizer, as `Optimizer.state` names them.
        state: what is not a tensor.
        model: whose `config.json` is written.
        tokenizer_folder: whose tokenizer is copied.
    """
    owners = owners_of({name: value.numel() for name, value in parameters.items()}, ranks.num_ranks)
    weights = _owned(ranks, parameters, owners)
    # A moment goes where its parameter goes.
    of_moments = {name: owners.get(name.partition("/")[2], 0) for name in moments}
    files = {name: file_tensors(name, tuple(value.shape)) for name, value in parameters.items()}
    return SavedTrainer(
        rank=ranks.rank,
        num_ranks=ranks.num_ranks,
        weights={part.name: part.of(value) for name, value in weights.items() for part in files[name]},
        moments=_owned(ranks, moments, of_moments),
        weight_owners={part.name: owners[name] for name in parameters for part in files[name]},
        num_weight_bytes=sum(value.numel() * value.element_size() for value in parameters.values()),
        state=state,
        model=model,
        tokenizer_folder=tokenizer_folder,
    )


def _owned(ranks: Ranks, tensors: Mapping[str, Tensor], owners: Mapping[str, int]) -> dict[str, Tensor]:
    kept = {}
    for name, value in tensors.items():
        gathered = whole(value.detach())
        if owners[name] == ranks.rank:
            kept[name] = gathered.to("cpu", copy=True)
    return kept


def read_state(folder: Path) -> dict[str, Any]:
    """What is not a tensor.

    Raises:
        StorageError: the file is missing, or not what `write` wrote.
    """
    try:
        state: dict[str, Any] = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot restore from {folder}: {error}") from error
    return state


def read_weights(folder: Path, parameters: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """This rank's slices of the weights, each with what the folder holds for it.

    Raises:
        StorageError: the folder is of another model; before the first is handed out.
    """
    files = {name: file_tensors(name, tuple(value.shape)) for name, value in parameters.items()}
    needed = {part.name: part.shape for parts in files.values() for part in parts}
    with TensorFiles(folder, MODEL) as found:
        if found.names != needed.keys():
            differing = sorted(found.names ^ needed.keys())
            raise StorageError(f"{folder} is of another model: {', '.join(differing[:3])} on one side only")
        for name, shape in needed.items():
            if found.shape(name) != shape:
                raise StorageError(f"{folder} is of another model: {name} is {found.shape(name)} there")
        for name, parameter in parameters.items():
            yield from _read_slice(found, files[name], parameter)


def _read_slice(
    found: TensorFiles, parts: tuple[FileTensor, ...], parameter: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    own, first = local(parameter), first_row(parameter)
    end = first + (own.shape[0] if own.dim() else 0)
    for part in parts:
        if part.expert is None:
            yield own, found.read(part.name, first, end)
        elif first <= part.expert < end:
            yield own[part.expert - first][part.start : part.end], found.read(part.name)
