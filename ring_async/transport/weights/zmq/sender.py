"""Weights over ZMQ: fetched by any receiver, from any host, in chunks or as a delta.

    receiver                                   sender (one thread serves all)
    Open(version, base I hold) ───────────────▶ encodes a delta once per (version, base), in a thread of its own
             ◀─────────────────────────────────  Opened(base or None, bytes, kind and bytes of each bucket)
    Ask(start, n) × window ───────────────────▶
             ◀─────────────────────────────────  Chunk(start), bytes straight out of the published copy

Owns: the published copies, which deltas exist, the choice between delta and whole version. Does not own: the encodings
(`core.weights.delta`), the serving thread (`service`), the window of chunks (`fetch`).

Invariants:
* Receivers pull: at most a window of chunks is under way to one of them, so neither side's memory grows, a slow
  receiver slows nobody, and a late joiner costs the others only its share of the line.
* A fetch cut off goes on where it was: chunks that arrived are kept, those asked for and silent are asked for again, in
  the next `stage` of the same version too.
* A delta is used only if its result has the checksums of the whole version; else the whole version is fetched.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from ring_async.config.schema import TransportSection
from ring_async.core.weights.delta import encode_delta
from ring_async.core.weights.plan import Manifest, TensorShape
from ring_async.errors import WeightsError
from ring_async.transport.messages.versions import WeightsAnnouncement
from ring_async.transport.weights.base import Tensors
from ring_async.transport.weights.host_memory import pack
from ring_async.transport.weights.service import WeightService
from ring_async.transport.weights.tensors import describe
from ring_async.transport.weights.wire import MAX_CHUNK_BYTES, encode
from ring_async.transport.weights.zmq.wire import CHANNEL, Ask, Chunk, Gone, Open, Opened
from ring_async.types import PolicyVersion, UInt8

if TYPE_CHECKING:
    from ring_async.transport.curve import CurveKeys

_decoder = msgspec.msgpack.Decoder(Open | Ask)
_DELTA_WORTH = 0.9
"""A delta larger than this share of the version is not used."""

_Key = tuple[PolicyVersion, PolicyVersion | None]


@dataclass(frozen=True, slots=True)
class _Payload:
    """Bytes that can be fetched: a version's own (`base` None, no table), or a delta."""

    base: PolicyVersion | None
    content: UInt8
    buckets: tuple[tuple[str, int], ...] = ()


class ZmqWeightSender:
    """Keeps a copy of each retained version in host memory and serves it.

    Args:
        name: of the socket.
        transport: ipc or tcp, and the address to bind.
        socket_dir: for `ipc://`.
        keys: of the run, for CURVE on TCP.
        bucket_bytes: of one checksum, and of one delta's unit.
        retain_versions: newest versions that stay fetchable, and serve as a delta's base.
        num_threads: that copy and hash.
    """

    def __init__(
        self,
        name: str,
        *,
        transport: TransportSection,
        socket_dir: Path,
        keys: CurveKeys | None = None,
        bucket_bytes: int = 32 << 20,
        retain_versions: int = 2,
        num_threads: int = 4,
    ) -> None:
        self._bucket_bytes = bucket_bytes
        self._retain_versions = retain_versions
        self._num_threads = max(1, min(num_threads, os.cpu_count() or 1))
        self._lock = threading.Lock()
        self._is_closed = False
        self._published: dict[PolicyVersion, tuple[Manifest, UInt8]] = {}
        self._waiting: dict[_Key, list[bytes]] = {}
        """Receivers by the delta that is being made for them. In the serving thread only, like `_deltas`."""
        self._deltas: dict[_Key, _Payload] = {}
        self._finished: deque[tuple[_Key, _Payload | None]] = deque()
        self._service = WeightService(
            name,
            transport=transport,
            socket_dir=socket_dir,
            keys=keys,
            on_message=self._on_message,
            on_wake=self._on_wake,
        )
        self.endpoint = self._service.endpoint
        self._encoders = ThreadPoolExecutor(1, thread_name_prefix="weights-delta")
        self._service.start()

    def publish(
        self, policy_version: PolicyVersion, tensors: Tensors, shapes: Sequence[TensorShape] | None = None
    ) -> WeightsAnnouncement:
        """See `WeightSender.publish`."""
        layout, ordered = describe(tensors, shapes, self._bucket_bytes)
        if policy_version in self._published:
            raise WeightsError(f"version {policy_version} was published before")
        try:
            # Fresh memory each time: chunks of a retired version may still be on their way out of it.
            content = np.empty(layout.num_bytes, dtype=np.uint8)
        except MemoryError as error:
            raise WeightsError(f"no memory for {layout.num_bytes / 2**20:.0f} MiB of weights") from error
        checksums = pack(layout, ordered, content, self._num_threads)
        source = {"endpoint": self.endpoint, "host": socket.gethostname()}
        manifest = Manifest(layout, "xxh3_64", checksums, source)
        with self._lock:
            if self._is_closed:
                raise WeightsError("the weight channel is closed")
            self._published[policy_version] = (manifest, content)
            while len(self._published) > self._retain_versions:
                del self._published[next(iter(self._published))]
        return WeightsAnnouncement(policy_version, CHANNEL, manifest.to_plain())

    def retire(self, policy_version: PolicyVersion) -> None:
        """See `WeightSender.retire`."""
        with self._lock:
            self._published.pop(policy_version, None)

    def close(self) -> None:
        """See `WeightSender.close`."""
        with self._lock:
            self._is_closed = True
            self._published.clear()
        self._encoders.shutdown(cancel_futures=True)
        self._service.close()

    # -- in the serving thread

    def _on_message(self, peer: bytes, header: bytes) -> None:
        message = _decoder.decode(header)
        if isinstance(message, Open):
            self._on_open(peer, message)
        else:
            self._on_ask(peer, message)

    def _on_open(self, peer: bytes, message: Open) -> None:
        key = (message.version, message.base)
        payload = self._find_payload(key)
        if payload is None and self._find_both(key) is not None:
            waiting = self._waiting.setdefault(key, [])
            if not waiting:
                self._encoders.submit(self._make_delta, key)
            if peer not in waiting:
                waiting.append(peer)
            return
        self._answer_open(peer, key, payload or self._find_payload((message.version, None)))

    def _on_ask(self, peer: bytes, message: Ask) -> None:
        payload = self._find_payload((message.version, message.base))
        if payload is None:
            self._service.send(peer, encode(Gone(message.version)))
            return
        end = message.start + message.num_bytes
        if message.start < 0 or not 0 < message.num_bytes <= MAX_CHUNK_BYTES or end > payload.content.size:
            raise msgspec.DecodeError("asks for bytes outside the payload")
        header = encode(Chunk(message.version, message.base, message.start))
        self._service.send(peer, header, payload.content[message.start : end].data)

    def _on_wake(self) -> None:
        while self._finished:
            key, payload = self._finished.popleft()
            if payload is not None:
                self._deltas[key] = payload
            for peer in self._waiting.pop(key, ()):
                self._answer_open(peer, key, payload)

    def _answer_open(self, peer: bytes, key: _Key, payload: _Payload | None) -> None:
        version, asked_base = key
        if payload is None:
            self._service.send(peer, encode(Gone(version)))
        else:
            opened = Opened(version, asked_base, payload.base, payload.content.size, payload.buckets)
            self._service.send(peer, encode(opened))

    def _find_payload(self, key: _Key) -> _Payload | None:
        """What there is to fetch under this key already. Deltas of retired versions are dropped."""
        version, base = key
        with self._lock:
            published = self._published.get(version)
            for outdated in [known for known in self._deltas if known[0] not in self._published]:
                del self._deltas[outdated]
        if published is None:
            return None
        return _Payload(None, published[1]) if base is None else self._deltas.get(key)

    def _find_both(self, key: _Key) -> tuple[Manifest, UInt8, UInt8] | None:
        """The manifest, and the bytes of base and version, if both are retained and have the same layout."""
        version, base = key
        if base is None:
            return None
        with self._lock:
            new, old = self._published.get(version), self._published.get(base)
        if new is None or old is None or new[0].layout != old[0].layout:
            return None
        return new[0], old[1], new[1]

    # -- in the encoding thread

    def _make_delta(self, key: _Key) -> None:
        """Encode a version against a base, or settle for the version itself where that is hardly larger."""
        payload = None
        both = self._find_both(key)
        if both is not None:
            manifest, old, new = both
            parts = []
            buckets = []
            for bucket in range(manifest.layout.num_buckets):
                start, end = manifest.layout.bucket_range(bucket)
                kind, part = encode_delta(old[start:end], new[start:end])
                parts.append(part)
                buckets.append((kind, part.size))
            if sum(part.size for part in parts) < _DELTA_WORTH * new.size:
                payload = _Payload(key[1], np.concatenate(parts), tuple(buckets))
            else:
                payload = _Payload(None, new)
        self._finished.append((key, payload))
        self._service.wake()
