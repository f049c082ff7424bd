"""Keys and values of the running requests: one row per request, grown as longer sequences come.

Owns: the storage, and the two views of it that a transformers model reads and writes through `update`. Does not own
which request has which row. A row holds rubbish beyond its sequence; masks keep it from being read.

Shapes: `[layer][rows, kv_heads, positions, head_dim]`.
"""

from __future__ import annotations

import torch

_FIRST_POSITIONS = 64


class RowCache:
    """Storage for `num_rows` requests. Positions double as needed, so short sequences cost little."""

    def __init__(
        self,
        *,
        num_layers: int,
        num_rows: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (num_rows, num_kv_heads, _FIRST_POSITIONS, head_dim)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers)]

    @property
    def num_positions(self) -> int:
        return self.keys[0].shape[2]

    def reserve(self, num_positions: int) -> None:
        """Make room for sequences of this many tokens; what is stored stays."""
        if num_positions <= self.num_positions:
            return
        wanted = max(num_positions, 2 * self.num_positions)
        for store in (self.keys, self.values):
            for layer, tensor in enumerate(store):
                rows, heads, positions, width = tensor.shape
                grown = tensor.new_zeros((rows, heads, wanted, width))
                grown[:, :, :positions] = tensor
                store[layer] = grown

    def move_row(self, source: int, target: int, num_positions: int) -> None:
        """Copy the first positions of one row over another."""
        for store in (self.keys, self.values):
            for tensor in store:
                tensor[target, :, :num_positions] = tensor[source, :, :num_positions]


class PrefillView:
    """The cache as a model uses it to read whole sequences from position 0: keys and values are also stored into
    `rows`.
    """

    def __init__(self, cache: RowCache, rows: torch.Tensor) -> None:
        self._cache = cache
        self._rows = rows

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store `[rows, kv_heads, positions, head_dim]`; attention needs no more than what was just computed."""
        length = keys.shape[2]
        self._cache.keys[layer][self._rows, :, :length] = keys
        self._cache.values[layer][self._rows, :, :length] = values
        return keys, values


class DecodeView:
    """The cache as a model uses it to read one token per row: the first `num_rows` rows, up to `num_positions`."""

    def __init__(self, cache: RowCache, positions: torch.Tensor, num_positions: int) -> None:
        self._cache = cache
        self._positions = positions
        self._num_rows = positions.shape[0]
        self._rows = torch.arange(self._num_rows, device=positions.device)
        self._num_positions = num_positions

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store `[rows, kv_heads, 1, head_dim]` at each row's own position; return all that may be attended to."""
        stored_keys, stored_values = self._cache.keys[layer], self._cache.values[layer]
        stored_keys[self._rows, :, self._positions] = keys[:, :, 0]
        stored_values[self._rows, :, self._positions] = values[:, :, 0]
        return (
            stored_keys[: self._num_rows, :, : self._num_positions],
            stored_values[: self._num_rows, :, : self._num_positions],
        )
