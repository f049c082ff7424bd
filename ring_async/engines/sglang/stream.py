"""What a server streams back: server-sent events, decoded.

Owns: the cutting of a byte stream into events and their typed form. Pure; knows nothing of HTTP or of requests.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from ring_async.engines.sglang.plugin import TAG

_PREFIX = b"data: "
_DONE = b"[DONE]"


class Finish(msgspec.Struct, gc=False):
    """Why a response ended. `matched`: the stop token, or words (`NaN happened`)."""

    type: str
    matched: Any = None
    message: str | None = None


class MetaInfo(msgspec.Struct):
    """`output_token_logprobs` and the tags are those of this chunk's tokens, but for a request that is aborted while it
    waits: then the whole response's. `completion_tokens` counts from the start of the request.
    """

    finish_reason: Finish | None = None
    completion_tokens: int = 0
    output_token_logprobs: list[tuple[float | None, int, Any]] = []
    step_tags: list[int | None] = msgspec.field(name=TAG, default_factory=list)
    num_retractions: int = 0


class StreamError(msgspec.Struct):
    message: str = ""
    code: int = 0


class Chunk(msgspec.Struct):
    """One event: new tokens, the end, or an error instead of either."""

    output_ids: list[int] = []
    meta_info: MetaInfo = msgspec.field(default_factory=MetaInfo)
    error: StreamError | None = None


_DECODER = msgspec.json.Decoder(Chunk)


class EventCutter:
    """Cuts bytes as they come into whole events. Example: `for chunk in cutter.feed(data): …`"""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """Yield the events that `data` completes, without the closing `[DONE]`.

        Raises:
            msgspec.DecodeError: an event is not what a server of a supported release sends.
        """
        *whole, self._rest = (self._rest + data).split(b"\n\n")
        for event in whole:
            payload = event.removeprefix(_PREFIX)
            if payload != _DONE:
                yield _DECODER.decode(payload)
