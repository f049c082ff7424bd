"""Receiving weights over ZMQ: whole versions, or what changed since the version that is held.

Owns: the receiver's connection and the bytes of the version it fetched last. Does not own: the conversation
(`fetch`), nor putting a version in force.

Invariants: the checksum of every bucket is verified before a version is handed out; memory that a staged tensor views
is never written again.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import zmq

from ring_async.clock import seconds_since
from ring_async.core.weights.delta import apply_delta
from ring_async.core.weights.plan import Manifest
from ring_async.errors import WeightsError
from ring_async.transport.messages.versions import WeightsAnnouncement
from ring_async.transport.weights.base import StagedWeights, StageReport
from ring_async.transport.weights.host_memory import verify
from ring_async.transport.weights.manifest import read_manifest, source_field
from ring_async.transport.weights.tensors import view_tensors
from ring_async.transport.weights.wire import open_dealer
from ring_async.transport.weights.zmq.fetch import Conversation, Fetch
from ring_async.transport.weights.zmq.wire import CHANNEL
from ring_async.types import PolicyVersion, UInt8

if TYPE_CHECKING:
    from ring_async.transport.curve import CurveKeys


@dataclass(frozen=True, slots=True)
class _Base:
    """The version staged last, whole: what deltas are applied to. `content` is uint8 `[layout.num_bytes]`."""

    version: PolicyVersion
    manifest: Manifest
    content: torch.Tensor


class ZmqWeightReceiver:
    """Fetches versions into memory of its own.

    Args:
        keys: of the run, for CURVE on TCP.
        deadline_s: longest silence of the sender.
        use_delta: ask for what changed since the version staged last; keeps that version's bytes alive.
    """

    def __init__(self, *, keys: CurveKeys | None = None, deadline_s: float = 60.0, use_delta: bool = True) -> None:
        self._keys = keys
        self._deadline_s = deadline_s
        self._use_delta = use_delta
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._fetch: Fetch | None = None
        self._base: _Base | None = None

    def stage(self, announcement: WeightsAnnouncement) -> StagedWeights:
        """See `WeightReceiver.stage`."""
        start = time.perf_counter()
        version = announcement.policy_version
        manifest = read_manifest(announcement, CHANNEL)
        endpoint = source_field(manifest, "endpoint", str)
        with self._lock:
            if self._closing.is_set():
                raise WeightsError("the weight channel is closed")
            dealer = open_dealer(self._context, endpoint, self._keys)
            try:
                conversation = Conversation(dealer, version, endpoint, self._deadline_s, self._closing)
                content, wire_bytes, is_delta = self._stage(conversation, manifest)
            finally:
                dealer.close()
            if self._use_delta:
                self._base = _Base(version, manifest, content)
        num_bytes = manifest.layout.num_bytes
        report = StageReport(num_bytes, wire_bytes, seconds_since(start), wire_bytes / num_bytes if is_delta else None)
        return StagedWeights(version, view_tensors(manifest.layout, content), report)

    def close(self) -> None:
        """See `WeightReceiver.close`. A `stage` under way ends with WeightsError at once."""
        self._closing.set()
        with self._lock:
            self._context.destroy(linger=0)
            self._fetch = self._base = None

    def _stage(self, conversation: Conversation, manifest: Manifest) -> tuple[torch.Tensor, int, bool]:
        """Fetch and verify; a delta whose result is wrong is followed by the whole version.

        Returns:
            The version's bytes, how many bytes were moved, and whether a delta did it.
        """
        wasted_bytes = 0
        base = self._base
        if base is not None and base.manifest.layout == manifest.layout:
            fetch = self._run(conversation, manifest, base.version)
            if fetch.opened.base is None:
                verify(conversation.version, manifest, fetch.content.numpy())
                return fetch.content, fetch.wire_bytes, False
            try:
                content = base.content.clone()
                _apply(manifest, fetch, content.numpy())
                verify(conversation.version, manifest, content.numpy())
                return content, fetch.wire_bytes, True
            except (ValueError, WeightsError):
                # Not what the sender has under that name: somebody wrote to the staged tensors.
                self._base = None
                wasted_bytes = fetch.wire_bytes
        fetch = self._run(conversation, manifest, None)
        verify(conversation.version, manifest, fetch.content.numpy())
        return fetch.content, wasted_bytes + fetch.wire_bytes, False

    def _run(self, conversation: Conversation, manifest: Manifest, base: PolicyVersion | None) -> Fetch:
        """Bring all chunks of a payload in, going on with an earlier attempt if there is one."""
        fetch = self._fetch
        if fetch is None or fetch.version != conversation.version or fetch.opened.asked_base != base:
            opened = conversation.open(base)
            if opened.base is None and opened.num_bytes != manifest.layout.num_bytes:
                raise WeightsError(
                    f"version {conversation.version}: {opened.num_bytes} bytes offered, the manifest says otherwise"
                )
            self._fetch = fetch = Fetch(conversation.version, opened)
        conversation.bring(fetch)
        self._fetch = None
        return fetch


def _apply(manifest: Manifest, fetch: Fetch, out: UInt8) -> None:
    """Apply a delta to the base's bytes, in place.

    Raises:
        ValueError: the delta does not fit the layout.
    """
    payload = fetch.content.numpy()
    if len(fetch.opened.buckets) != manifest.layout.num_buckets:
        raise ValueError(f"delta of {len(fetch.opened.buckets)} buckets")
    position = 0
    for bucket, (kind, num_bytes) in enumerate(fetch.opened.buckets):
        start, end = manifest.layout.bucket_range(bucket)
        apply_delta(kind, payload[position : position + num_bytes], out[start:end])
        position += num_bytes
