"""The column of experts that the engine chose, as a trainer reads it (R3).

Owns: the column's name and layout, and which tokens it says something of. Does not own recording (`engines`), nor what
a trainer's routers do with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ring_async.errors import ConfigError

COLUMN = "routed_experts"
"""uint8 (uint16 above 256 experts) `[T, layers · k]`: the experts of each layer that has some, layer after layer, of
the forward in which the token was read. The last token of a response was never read: its row says nothing.
"""


def recorded_experts(
    column: npt.NDArray[Any] | None,
    origins: npt.NDArray[np.int64],
    *,
    num_layers: int,
    per_token: int,
    num_experts: int,
) -> npt.NDArray[np.int64]:
    """The recorded experts of some tokens: int64 `[U, layers, k]`, −1 where nothing was recorded.

    Args:
        column: of the batch, `[B · C, layers · k]`.
        origins: int64 `[U]`, where each token lies in the batch; −1: it is of a prompt, or of none.
        num_layers: of the model, with experts.
        per_token: k, at least 2.
        num_experts: of a layer.

    Raises:
        ConfigError: the batch has no such column, or that of another model.
        ValueError: an expert that the model has not.
    """
    if column is None:
        raise ConfigError(
            f"learner.engine_options.replay_routing: batches carry no column {COLUMN}, which no engine of ring-async "
            "records yet; leave replay_routing out, or have your engine add the column"
        )
    if column.shape[-1] != num_layers * per_token:
        raise ConfigError(
            f"learner.engine_options.replay_routing: the column {COLUMN} holds {column.shape[-1]} experts a token, "
            f"this model has {num_layers} layers of {per_token}"
        )
    found = column[np.maximum(origins, 0)].astype(np.int64).reshape(origins.size, num_layers, per_token)
    if found.max(initial=0) >= num_experts:
        raise ValueError(f"{COLUMN} names expert {found.max()} of {num_experts}")
    # Rows of responses without the column are zeros, which no choice of several experts is.
    is_recorded = (origins >= 0)[:, None, None] & (found != found[:, :, :1]).any(axis=2, keepdims=True)
    return np.where(is_recorded, found, -1)
