"""What the ranks tell rank 0 of a trained batch, so that its report is of the whole batch.

Owns: the encoding (MessagePack) of a rank's per-token statistics and sequences, and their union. Does not own the
numbers made of them (`algorithms.statistics`).
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import torch

from ring_async.algorithms.statistics import BatchStatistics
from ring_async.batches import BatchPlan, PackedBatch, PackedSequence
from ring_async.training.ranks import Ranks


class _Part(msgspec.Struct, array_like=True):
    """One rank's: its columns as (name, numpy's name of the dtype, bytes), its sequences, and its rows."""

    columns: tuple[tuple[str, str, bytes], ...]
    sequences: tuple[PackedSequence, ...]
    num_rows: int


_decoder = msgspec.msgpack.Decoder(_Part)


def union(
    ranks: Ranks, statistics: BatchStatistics, batch: PackedBatch, *, reports_rows: bool = True
) -> tuple[BatchStatistics, BatchPlan] | None:
    """The statistics and plan of all ranks together, on rank 0; None on the others. All ranks must call it.

    The plan's sequences keep the rows that they have on their own ranks.

    Args:
        ranks: of the learner.
        statistics: of this rank.
        batch: its rows.
        reports_rows: False on a rank whose rows another one reports on too.
    """
    if ranks.is_alone:
        return statistics, batch.plan
    columns = tuple((name, values.dtype.name, values.tobytes()) for name, values in statistics.columns().items())
    own = _Part(columns, batch.plan.sequences, batch.plan.num_rows) if reports_rows else _Part((), (), 0)
    parts = ranks.gather(msgspec.msgpack.encode(own))
    if parts is None:
        return None
    merged = BatchStatistics()
    sequences: list[PackedSequence] = []
    num_rows = 0
    for part in (_decoder.decode(content) for content in parts):
        if not part.num_rows:
            continue
        merged.add({name: _tensor(dtype, content) for name, dtype, content in part.columns})
        sequences += part.sequences
        num_rows += part.num_rows
    return merged, msgspec.structs.replace(batch.plan, sequences=tuple(sequences), num_rows=num_rows)


def _tensor(dtype: str, content: bytes) -> Any:
    return torch.from_numpy(np.frombuffer(content, dtype=dtype).copy())
