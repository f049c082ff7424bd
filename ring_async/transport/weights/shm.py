"""Weights through shared memory: one copy by the sender, none by any receiver on the same host.

Owns: the memory segments ("slabs") of published versions, how receivers map them, and when a slab may be used again.

A slab is an anonymous memory file (`memfd`), reached by path as `/proc/<pid>/fd/<n>`. Nothing has a name in any file
system, so there is nothing to sweep: after a kill -9 of either side the kernel frees a slab with its last mapping.
(Files in /dev/shm would outlive their run and be bound by its size, 64 MB in many containers; Python's
`multiprocessing.shared_memory` unlinks segments that were only attached.)

    slab:  [ header page: magic, version, size | tensors and padding, as laid out by core.weights.plan ]

Invariants:
* A receiver holds a shared `flock` on the slab as long as any tensor that it mapped lives (the lock belongs to the open
  file, which the mapping keeps; a mapping without tensors goes with the next `stage`). The sender writes into a slab
  only under an exclusive lock. So a slab is never changed under a version in force, and a dead receiver's lock is gone
  with it.
* The header names the version under that same lock: a receiver with an outdated announcement sees another version
  there, and says "retired".
* Pages of a slab that no receiver maps any more are used again: after the first few versions, publishing touches only
  memory that is there already, and runs at the speed of a copy.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import struct
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ring_async.clock import seconds_since
from ring_async.core.weights.plan import Manifest, TensorShape
from ring_async.errors import WeightsError
from ring_async.transport.messages.versions import WeightsAnnouncement
from ring_async.transport.weights.base import StagedWeights, StageReport, Tensors
from ring_async.transport.weights.host_memory import pack, verify
from ring_async.transport.weights.manifest import read_manifest, source_field
from ring_async.transport.weights.tensors import describe, view_tensors
from ring_async.types import PolicyVersion, UInt8

CHANNEL = "shm"
HEADER_BYTES = 4096
_HEADER = struct.Struct("<8sqqQ")
_MAGIC = b"ringwts1"
_MAX_IDLE_SLABS = 1


class ShmWeightSender:
    """Copies versions into slabs and hashes each chunk as it goes by.

    Args:
        bucket_bytes: of one checksum, and the unit of work of one copying thread.
        retain_versions: newest versions that stay fetchable.
        num_threads: that copy and hash.
    """

    def __init__(self, *, bucket_bytes: int = 32 << 20, retain_versions: int = 2, num_threads: int = 4) -> None:
        self._bucket_bytes = bucket_bytes
        self._retain_versions = retain_versions
        self._num_threads = max(1, min(num_threads, os.cpu_count() or 1))
        self._lock = threading.Lock()
        self._published: dict[PolicyVersion, _Slab] = {}
        self._idle: list[_Slab] = []

    def publish(
        self, policy_version: PolicyVersion, tensors: Tensors, shapes: Sequence[TensorShape] | None = None
    ) -> WeightsAnnouncement:
        """See `WeightSender.publish`."""
        layout, ordered = describe(tensors, shapes, self._bucket_bytes)
        with self._lock:
            if policy_version in self._published:
                raise WeightsError(f"version {policy_version} was published before")
            slab = self._take_slab(layout.num_bytes)
            try:
                checksums = pack(layout, ordered, slab.content, self._num_threads)
            except BaseException:
                slab.close()
                raise
            slab.publish(policy_version)
            self._published[policy_version] = slab
            while len(self._published) > self._retain_versions:
                self._retire(next(iter(self._published)))
        manifest = Manifest(layout, "xxh3_64", checksums, source=slab.source())
        return WeightsAnnouncement(policy_version, CHANNEL, manifest.to_plain())

    def retire(self, policy_version: PolicyVersion) -> None:
        """See `WeightSender.retire`."""
        with self._lock:
            self._retire(policy_version)

    def close(self) -> None:
        """See `WeightSender.close`."""
        with self._lock:
            for slab in (*self._published.values(), *self._idle):
                slab.close()
            self._published.clear()
            self._idle.clear()

    def _retire(self, policy_version: PolicyVersion) -> None:
        slab = self._published.pop(policy_version, None)
        if slab is None:
            return
        self._idle.append(slab)
        while len(self._idle) > _MAX_IDLE_SLABS:
            self._idle.pop(0).close()

    def _take_slab(self, num_bytes: int) -> _Slab:
        """An idle slab that fits and that no receiver maps, else a fresh one; exclusively locked either way."""
        for slab in list(self._idle):
            if slab.capacity >= num_bytes and slab.reclaim():
                self._idle.remove(slab)
                slab.num_bytes = num_bytes
                return slab
        return _Slab(num_bytes)


class ShmWeightReceiver:
    """Maps versions and verifies them in place.

    Args:
        num_threads: that hash; one leaves the other cores to generation.
    """

    def __init__(self, *, num_threads: int = 1) -> None:
        self._num_threads = num_threads
        self._lock = threading.Lock()
        self._mappings: list[mmap.mmap] = []

    def stage(self, announcement: WeightsAnnouncement) -> StagedWeights:
        """See `WeightReceiver.stage`. The tensors lie in a private mapping: writing to one changes nobody else's."""
        start = time.perf_counter()
        version = announcement.policy_version
        manifest = read_manifest(announcement, CHANNEL)
        with self._lock:
            self._unmap_unused()
            mapping = _map(version, manifest)
            self._mappings.append(mapping)
        # By way of numpy, because torch alone would not keep the mapping from being closed under its tensors.
        content = np.frombuffer(mapping, dtype=np.uint8, count=manifest.layout.num_bytes, offset=HEADER_BYTES)
        verify(version, manifest, content, self._num_threads)
        flat = torch.from_numpy(content)
        report = StageReport(num_bytes=content.size, wire_bytes=0, stage_s=seconds_since(start))
        return StagedWeights(version, view_tensors(manifest.layout, flat), report)

    def close(self) -> None:
        """See `WeightReceiver.close`."""
        with self._lock:
            self._unmap_unused()
            self._mappings.clear()

    def _unmap_unused(self) -> None:
        """Unmap the versions that no tensor views any more.

        Here, in the thread that stages, and without the interpreter's lock: unmapping 1 GiB takes tens of
        milliseconds, which would else fall into the engine's swap, when it drops the last tensor.
        """
        kept = []
        for mapping in self._mappings:
            try:
                mapping.close()
            except BufferError:
                kept.append(mapping)
        self._mappings = kept


class _Slab:
    """One memory file and the sender's mapping of it. Fresh slabs are exclusively locked."""

    def __init__(self, num_bytes: int) -> None:
        self.capacity = num_bytes
        self.num_bytes = num_bytes
        size = HEADER_BYTES + num_bytes
        try:
            self._fd = os.memfd_create("ring-async-weights")
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX)
                # Take the pages now: an error here, rather than a SIGBUS or an OOM kill in the middle of the copy.
                os.posix_fallocate(self._fd, 0, size)
                self._mapping = mmap.mmap(self._fd, size)
            except BaseException:
                os.close(self._fd)
                raise
        except OSError as error:
            raise WeightsError(
                f"shared memory: cannot take {size / 2**20:.0f} MiB for a weight version ({error}); free memory, raise "
                f"the container's limit, or set weights.channel=zmq"
            ) from error
        self.content: UInt8 = np.frombuffer(self._mapping, dtype=np.uint8, offset=HEADER_BYTES)

    def publish(self, version: PolicyVersion) -> None:
        """Write the version's name into the header, and allow receivers to map the slab."""
        _HEADER.pack_into(self._mapping, 0, _MAGIC, version.incarnation, version.number, self.num_bytes)
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def reclaim(self) -> bool:
        """Take the slab's exclusive lock and clear its header; returns False if a receiver maps it."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self._mapping[: _HEADER.size] = bytes(_HEADER.size)
        return True

    def source(self) -> dict[str, str | int]:
        status = os.fstat(self._fd)
        return {
            "path": f"/proc/{os.getpid()}/fd/{self._fd}",
            "inode": status.st_ino,
            "device": status.st_dev,
            "host": socket.gethostname(),
        }

    def close(self) -> None:
        """Unmap and close the memory file. Its pages are freed once no receiver maps them."""
        if self._fd < 0:
            return
        # Dropped rather than closed: a view may still be held by the traceback of a failed copy.
        self.content = np.empty(0, dtype=np.uint8)
        del self._mapping
        os.close(self._fd)
        self._fd = -1


def _map(version: PolicyVersion, manifest: Manifest) -> mmap.mmap:
    """Map a slab under a shared lock, once it is certain that it holds this version.

    Raises:
        WeightsError: the sender is gone, lives on another host, or has retired the version.
    """
    path = source_field(manifest, "path", str)
    identity = (source_field(manifest, "device", int), source_field(manifest, "inode", int))
    host = source_field(manifest, "host", str)
    try:
        fd = os.open(Path(path), os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        where = "" if host == socket.gethostname() else f" (published on {host}; weights.channel=zmq crosses hosts)"
        raise WeightsError(f"version {version}: its sender is gone or has retired it{where}: {error}") from error
    try:
        status = os.fstat(fd)
        retired = WeightsError(f"version {version}: retired by its sender; stage a newer announcement")
        if (status.st_dev, status.st_ino) != identity:
            raise retired
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise retired from None
        size = HEADER_BYTES + manifest.layout.num_bytes
        if status.st_size < size:
            raise WeightsError(f"version {version}: {status.st_size} bytes shared, the manifest says {size}")
        # A private writable mapping: torch has no read-only tensors, and a stray write must not reach other processes.
        mapping = mmap.mmap(fd, size, access=mmap.ACCESS_COPY)
        expected = (_MAGIC, version.incarnation, version.number, manifest.layout.num_bytes)
        if _HEADER.unpack_from(mapping) != expected:
            raise retired
        return mapping
    finally:
        # The mapping keeps its own duplicate of the descriptor, and with it the lock.
        os.close(fd)
