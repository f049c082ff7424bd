"""Bringing one version in over ZMQ: a window of chunks, questions repeated after silence, nothing fetched twice.

Owns: one conversation of `ZmqWeightReceiver` with a sender. Does not own: what becomes of the bytes.

Invariants: at most `WINDOW` chunks are under way; every chunk is in `content`, under way or in `missing`, whatever
ends the conversation, so the next one goes on from there.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import msgspec
import torch
import zmq

from ring_async.errors import WeightsError
from ring_async.transport.weights.wire import encode
from ring_async.transport.weights.zmq.wire import Ask, Chunk, Gone, Open, Opened
from ring_async.types import PolicyVersion

CHUNK_BYTES = 1 << 20
WINDOW = 16
"""Chunks under way to one receiver."""
RETRY_S = 2.0
"""Silence after which what was asked for is asked for again."""
_POLL_MS = 200
_decoder = msgspec.msgpack.Decoder(Opened | Chunk | Gone)


class Fetch:
    """One payload on its way in: survives a failed `stage`, so that the next one goes on where it was.

    Attributes:
        content: uint8 `[opened.num_bytes]`, the payload.
        missing: starts of the chunks not here yet.
        wire_bytes: received.
    """

    def __init__(self, version: PolicyVersion, opened: Opened) -> None:
        self.version = version
        self.opened = opened
        self.content = torch.empty(opened.num_bytes, dtype=torch.uint8)
        self.missing = deque(range(0, opened.num_bytes, CHUNK_BYTES))
        self.wire_bytes = 0

    def ask(self, start: int) -> Ask:
        """The question for one chunk."""
        return Ask(self.version, self.opened.base, start, min(CHUNK_BYTES, self.opened.num_bytes - start))


class Conversation:
    """A conversation with the sender about one version.

    Args:
        dealer: connected to the sender.
        version: all that is spoken of.
        endpoint: for messages to people.
        deadline_s: longest silence.
        closing: set when the receiver closes.
    """

    def __init__(
        self,
        dealer: zmq.Socket[bytes],
        version: PolicyVersion,
        endpoint: str,
        deadline_s: float,
        closing: threading.Event,
    ) -> None:
        self.version = version
        self._dealer = dealer
        self._endpoint = endpoint
        self._deadline_s = deadline_s
        self._closing = closing

    def open(self, base: PolicyVersion | None) -> Opened:
        """Ask what there is to fetch, for a holder of `base`.

        Raises:
            WeightsError: the version is gone, or the sender silent.
        """
        question = encode(Open(self.version, base))
        self._dealer.send(question)
        for answer, _ in self._answers(lambda: self._dealer.send(question)):
            if isinstance(answer, Opened) and answer.asked_base == base:
                return answer
        raise AssertionError

    def bring(self, fetch: Fetch) -> None:
        """Fill `fetch.content`.

        Raises:
            WeightsError: the version is gone, or the sender silent. What arrived stays in `fetch`.
        """
        if not fetch.missing:
            return
        target = fetch.content.numpy()
        under_way: dict[int, None] = {}

        def fill_window() -> None:
            while fetch.missing and len(under_way) < WINDOW:
                start = fetch.missing.popleft()
                under_way[start] = None
                self._dealer.send(encode(fetch.ask(start)))

        def ask_again() -> None:
            for start in under_way:
                self._dealer.send(encode(fetch.ask(start)))

        try:
            fill_window()
            for answer, content in self._answers(ask_again):
                if not isinstance(answer, Chunk) or answer.base != fetch.opened.base or answer.start not in under_way:
                    continue  # A second answer to a question asked twice.
                if content is None or len(content) != fetch.ask(answer.start).num_bytes:
                    continue
                target[answer.start : answer.start + len(content)] = content
                fetch.wire_bytes += len(content)
                del under_way[answer.start]
                fill_window()
                if not under_way:
                    return
        finally:
            fetch.missing.extendleft(under_way)

    def _answers(self, ask_again: Callable[[], object]) -> Iterator[tuple[Opened | Chunk, memoryview | None]]:
        """What the sender says about this version.

        Consumes: its messages.
        Produces: the same, decoded; questions again after silence.
        Waits for: the sender, `deadline_s` at most.
        Unblocked by: any answer; ended by Gone, the deadline, and the receiver's close.
        """
        heard_s = asked_s = time.monotonic()
        while True:
            if self._closing.is_set():
                raise WeightsError("the weight channel was closed")
            if not self._dealer.poll(_POLL_MS):
                now_s = time.monotonic()
                if now_s - heard_s > self._deadline_s:
                    raise WeightsError(
                        f"version {self.version}: nothing heard from {self._endpoint} for {self._deadline_s} s"
                    )
                if now_s - asked_s > RETRY_S:
                    ask_again()
                    asked_s = now_s
                continue
            frames = self._dealer.recv_multipart(copy=False)
            try:
                message = _decoder.decode(frames[0].buffer)
            except msgspec.DecodeError:
                continue
            if message.version != self.version:
                continue
            heard_s = asked_s = time.monotonic()
            if isinstance(message, Gone):
                raise WeightsError(f"version {self.version}: retired by its sender; stage a newer announcement")
            yield message, frames[1].buffer if len(frames) == 2 else None
