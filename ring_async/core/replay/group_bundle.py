"""Bundles: many groups, or many partial responses, as a few buffers, with encoded headers and joined columns.

Owns: this format, which keeps the number of frames and the header of a message small for any number of groups.

    headers · (prompt_ids of all groups) · response_ids · behavior_logprobs · loss_mask · each optional column
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from ring_async.columns import NO_COLUMNS, REQUIRED_COLUMNS, Buffer, Column, Columns, check_columns
from ring_async.core.replay.partials import PartialHeader, PartialResponse
from ring_async.types import Group, GroupHeader

_encode = msgspec.msgpack.Encoder().encode
_group_headers = msgspec.msgpack.Decoder(list[GroupHeader])
_partial_headers = msgspec.msgpack.Decoder(list[PartialHeader])

_NUM_REQUIRED = len(REQUIRED_COLUMNS)
Array = npt.NDArray[Any]


class _HasColumns(Protocol):
    @property
    def columns(self) -> Columns: ...


def bundle(groups: Sequence[Group]) -> list[Buffer]:
    """Pack groups into the buffers of one message (one copy)."""
    prompts = np.concatenate([np.empty(0, np.int32), *(group.prompt_ids for group in groups)])
    return [_encode([group.header for group in groups]), prompts, *_joined(groups, [g.header.columns for g in groups])]


def unbundle(buffers: Sequence[Buffer]) -> list[Group]:
    """Unpack groups, as views into the buffers.

    Raises:
        ValueError: the buffers do not fit their headers.
    """
    headers = _headers(_group_headers, buffers)
    prompts, *rest = _required(buffers, np.int32, *(column.dtype for column in REQUIRED_COLUMNS))
    optional = _optional([header.columns for header in headers], buffers[2 + _NUM_REQUIRED :])
    counts = [(header.num_response_tokens, header.columns) for header in headers]
    groups = []
    prompt = 0
    for header, arrays in zip(headers, _parted(counts, rest, optional), strict=True):
        prompt_end = prompt + header.num_prompt_tokens
        group = Group(header, prompts[prompt:prompt_end], *arrays)
        group.check()
        groups.append(group)
        prompt = prompt_end
    return groups


def bundle_partials(partials: Sequence[PartialResponse]) -> list[Buffer]:
    """Pack partial responses into the buffers of one message (one copy)."""
    headers = [partial.header for partial in partials]
    return [_encode(headers), *_joined(partials, [header.columns for header in headers])]


def unbundle_partials(buffers: Sequence[Buffer]) -> list[PartialResponse]:
    """Unpack partial responses, as views into the buffers.

    Raises:
        ValueError: the buffers do not fit their headers.
    """
    headers = _headers(_partial_headers, buffers)
    required = _required(buffers, *(column.dtype for column in REQUIRED_COLUMNS))
    optional = _optional([header.columns for header in headers], buffers[1 + _NUM_REQUIRED :])
    counts = [(header.num_tokens, header.columns) for header in headers]
    partials = []
    for header, arrays in zip(headers, _parted(counts, required, optional), strict=True):
        partial = PartialResponse(header, *arrays)
        partial.check()
        partials.append(partial)
    return partials


# -- parts


def _joined(pieces: Sequence[_HasColumns], described: Sequence[Sequence[Column]]) -> list[Buffer]:
    """Join each required column of all pieces, and each optional column of the pieces that have it."""
    required = [
        np.concatenate([np.empty(0, column.dtype), *(getattr(piece, column.name) for piece in pieces)])
        for column in REQUIRED_COLUMNS
    ]
    optional = [
        np.concatenate([p.columns[column.name] for p, own in zip(pieces, described, strict=True) if column in own])
        for column in _distinct(described)
    ]
    return [*required, *optional]


def _distinct(described: Sequence[Sequence[Column]]) -> list[Column]:
    """The distinct optional columns in the order of first appearance; another dtype or width makes another column."""
    return list(dict.fromkeys(column for own in described for column in own))


def _headers(decoder: msgspec.msgpack.Decoder[Any], buffers: Sequence[Buffer]) -> Any:
    if not buffers:
        raise ValueError("a bundle without buffers: its headers are missing")
    try:
        return decoder.decode(memoryview(buffers[0]))  # type: ignore[arg-type]
    except (msgspec.DecodeError, ValueError) as error:
        raise ValueError(f"a damaged bundle: {error}") from error


def _required(buffers: Sequence[Buffer], *dtypes: Any) -> list[Array]:
    if len(buffers) < 1 + len(dtypes):
        raise ValueError(f"{len(buffers)} buffers, a bundle has at least {1 + len(dtypes)}")
    try:
        return [np.frombuffer(buffer, dtype) for buffer, dtype in zip(buffers[1:], dtypes, strict=False)]
    except ValueError as error:
        raise ValueError(f"a damaged bundle: {error}") from error


def _optional(described: Sequence[Sequence[Column]], buffers: Sequence[Buffer]) -> dict[Column, Array]:
    """The optional columns of a bundle, each with its joined array."""
    for own in described:
        check_columns(own, "a bundle")
    distinct = _distinct(described)
    if len(buffers) != len(distinct):
        raise ValueError(f"a bundle with {len(buffers)} optional columns, its headers describe {len(distinct)}")
    try:
        return {column: column.read(buffer, -1) for column, buffer in zip(distinct, buffers, strict=True)}
    except ValueError as error:
        raise ValueError(f"a damaged bundle: {error}") from error


def _parted(
    counts: Sequence[tuple[int, Sequence[Column]]], required: Sequence[Array], optional: dict[Column, Array]
) -> list[list[Any]]:
    """Split joined arrays into each piece's required arrays and optional columns, by the pieces' sizes and columns."""
    start = 0
    starts = dict.fromkeys(optional, 0)
    parts = []
    for num_tokens, own in counts:
        end = start + num_tokens
        columns = {}
        for column in own:
            columns[column.name] = optional[column][starts[column] : starts[column] + num_tokens]
            starts[column] += num_tokens
        parts.append([*(array[start:end] for array in required), columns or NO_COLUMNS])
        start = end
    if any(array.size != start for array in required):
        raise ValueError(f"a bundle of {required[0].size} tokens, its headers describe {start}")
    return parts
