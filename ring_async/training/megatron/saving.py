"""Checkpoints of the megatron trainer: the folder of the `hf` trainer's, written from blocks and read back into blocks.

    capture(…)  every rank, between two steps: parts made whole, tensors collected on the ranks that write them

Owns: what is collected where, and reading it back in whatever layout of ranks. Does not own what a folder holds
(`hf.saving`), files and their layout (`hf.tensor_files`), naming and checksums (`training.checkpoint`).

Invariants: moments are `exp_avg/NAME` and `exp_avg_sq/NAME` under the tensors' own names; what is restored is bit for
bit what was saved, in any layout; nothing is unpickled. Megatron-core's own checkpoints were rejected: loading one
unpickles, and its distributed optimizer resumes with a wrong count of steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ring_async.errors import StorageError
from ring_async.training.hf.optimizer import STEM as OPTIMIZER
from ring_async.training.hf.saving import MODEL, SavedTrainer
from ring_async.training.hf.tensor_files import TensorFiles, owners_of
from ring_async.training.megatron.names.blocks import Mapped
from ring_async.training.megatron.optimizer import MOMENTS, ShardedAdamW
from ring_async.training.megatron.weights import Exchange, read_parameter
from ring_async.training.ranks import Ranks

_NUM_STEPS = "num_steps"


def capture(
    ranks: Ranks,
    exchange: Exchange,
    optimizer: ShardedAdamW,
    *,
    state: dict[str, Any],
    model: Any,
    tokenizer_folder: Path,
) -> SavedTrainer:
    """Collect what this rank writes in host memory; every rank must call it.

    Args:
        ranks: of the learner.
        exchange: who holds what.
        optimizer: whose weights and moments are written.
        state: what is not a tensor.
        model: transformers', whose `config.json` is written; it may have no weights.
        tokenizer_folder: whose tokenizer is copied.
    """
    sizes = {name: torch.Size(shape).numel() for name, shape in exchange.shapes.items()}
    owners = owners_of(sizes, ranks.num_ranks)
    moments: dict[str, Tensor] = {}
    for moment in MOMENTS:
        moments |= {f"{moment}/{name}": values for name, values in _collect(ranks, exchange, optimizer, owners, moment)}
    if ranks.rank == 0:
        moments[_NUM_STEPS] = torch.tensor(optimizer.num_steps)
    return SavedTrainer(
        rank=ranks.rank,
        num_ranks=ranks.num_ranks,
        weights=dict(_collect(ranks, exchange, optimizer, owners, "master")),
        moments=moments,
        weight_owners=owners,
        num_weight_bytes=4 * sum(sizes.values()),
        state=state,
        model=model,
        tokenizer_folder=tokenizer_folder,
    )


def _collect(
    ranks: Ranks, exchange: Exchange, optimizer: ShardedAdamW, owners: Mapping[str, int], kind: str
) -> list[tuple[str, Tensor]]:
    """The tensors that this rank writes, by name, of one kind."""
    parameters = {name: values.to("cpu") for name, values in optimizer.whole(kind)}
    if kind in MOMENTS and not optimizer.num_steps:
        return []
    collected = [
        (name, exchange.collect(name, parameters, to_rank=owners[name], dtype=torch.float32, group=ranks.bytes_group))
        for name in exchange.shapes
    ]
    return [(name, values) for name, values in collected if values is not None]


def check_files(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Prove that a folder's files are of this model, before anything is taken from it.

    Raises:
        StorageError: they are not.
    """
    with TensorFiles(folder, MODEL) as weights, TensorFiles(folder, OPTIMIZER) as moments:
        _check(weights, shapes)
        if _NUM_STEPS not in moments.names:
            raise StorageError(f"{folder / OPTIMIZER}: it does not say how many steps were taken")
        if moments.names != {_NUM_STEPS}:
            expected = {f"{moment}/{name}": shape for moment in MOMENTS for name, shape in shapes.items()}
            _check(moments, expected | {_NUM_STEPS: ()})


def _check(files: TensorFiles, shapes: Mapping[str, tuple[int, ...]]) -> None:
    if files.names != shapes.keys():
        differing = sorted(files.names ^ shapes.keys())
        raise StorageError(f"{files.folder} is of another model: {', '.join(differing[:3])} on one side only")
    for name, shape in shapes.items():
        if files.shape(name) != tuple(shape):
            raise StorageError(f"{files.folder} is of another model: {name} is {files.shape(name)} there")


def read_moments(folder: Path, mapped: Mapping[str, Mapped], model: torch.nn.Module, optimizer: ShardedAdamW) -> None:
    """Take over the optimizer's moments, and its count of steps."""
    with TensorFiles(folder, OPTIMIZER) as files:
        optimizer.begin_restore(int(files.read(_NUM_STEPS)))
        if files.names == {_NUM_STEPS}:
            return
        for name, one in mapped.items():
            for moment in MOMENTS:
                parameter = model.get_parameter(name)
                values = torch.zeros(parameter.shape)
                read_parameter(files, one, values, prefix=f"{moment}/")
                optimizer.put(moment, name, values.to(parameter.device))
