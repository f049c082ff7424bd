"""Many groups as a few buffers: headers encoded, arrays of one kind joined.

Owns: that form. A message carries a bounded number of frames and a small header, whatever the number of groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from ring_async.types import Buffer, Group, GroupHeader

_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(list[GroupHeader])

_FIELDS = (
    ("prompt_ids", np.int32),
    ("response_ids", np.int32),
    ("behavior_logprobs", np.float32),
    ("loss_mask", np.uint8),
)


def bundle(groups: Sequence[Group]) -> list[Buffer]:
    """Five buffers: the headers, then each of a group's four arrays, joined (one copy)."""
    arrays = [np.concatenate([np.empty(0, d), *(getattr(group, name) for group in groups)]) for name, d in _FIELDS]
    return [_encode([group.header for group in groups]), *arrays]


def unbundle(buffers: Sequence[Buffer]) -> list[Group]:
    """The groups again, views into the buffers.

    Raises:
        ValueError: the buffers do not fit their headers.
    """
    if len(buffers) != 1 + len(_FIELDS):
        raise ValueError(f"{len(buffers)} buffers, a bundle of groups has {1 + len(_FIELDS)}")
    try:
        headers = _decoder.decode(memoryview(buffers[0]))  # type: ignore[arg-type]
        arrays: list[Any] = [np.frombuffer(b, d) for b, (_, d) in zip(buffers[1:], _FIELDS, strict=True)]
    except (msgspec.DecodeError, ValueError) as error:
        raise ValueError(f"a damaged bundle of groups: {error}") from error
    groups = []
    prompt = response = 0
    for header in headers:
        prompt_end, response_end = prompt + header.num_prompt_tokens, response + header.num_response_tokens
        group = Group(header, arrays[0][prompt:prompt_end], *(array[response:response_end] for array in arrays[1:]))
        group.check()
        groups.append(group)
        prompt, response = prompt_end, response_end
    return groups
