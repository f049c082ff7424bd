"""What can be done to a fleet in one process, apart from killing its actors: links, disk, clocks, verifiers, files.

Owns: how each fault begins and ends. Does not own when (`course`).
Invariant: when a context manager here has ended, its fault has ended too; only a clock that was set stays so.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Iterator

from ring_async.core.work.ledger_records import AnyRecord
from ring_async.errors import StorageError
from ring_async.storage.journal_file import frame_record, journal_files, read_file
from ring_async.storage.run_dir import RunDir
from ring_async.testing.chaos.moody import Mood, in_mood
from ring_async.testing.chaos.plan import VirtualFault
from ring_async.testing.faulty_channel import Faults, FaultyHub
from ring_async.testing.full_disk import files_limited_to
from ring_async.testing.virtual_clock import VirtualClockLoop
from ring_async.training.checkpoint import MANIFEST, CheckpointStore

QUIET = Faults()
LINK_FAULTS = {
    VirtualFault.DROP: Faults(drop=0.1),
    VirtualFault.DUPLICATE: Faults(duplicate=0.33),
    VirtualFault.REORDER: Faults(reorder=0.33, reorder_s=0.5),
    VirtualFault.DELAY: Faults(delay_s=(0.0, 1.0)),
}
MOODS = {VirtualFault.HANG: Mood.HANGS, VirtualFault.CRASH: Mood.CRASHES, VirtualFault.LIE: Mood.LIES}
CLOCK_STEP_S = 3600.0
CLOCK_STEPS = {VirtualFault.FORWARD: CLOCK_STEP_S, VirtualFault.BACK: -CLOCK_STEP_S}


@contextlib.contextmanager
def bad_links(hub: FaultyHub, faults: Faults) -> Iterator[None]:
    """All messages meet these faults meanwhile."""
    before, hub.faults = hub.faults, faults
    try:
        yield
    finally:
        hub.faults = before


@contextlib.contextmanager
def partition(hub: FaultyHub, pairs: list[tuple[str, str]]) -> Iterator[None]:
    """No message passes between these actors meanwhile."""
    for one, other in pairs:
        hub.cut(one, other)
    try:
        yield
    finally:
        hub.heal()


def lasting(fault: VirtualFault, hub: FaultyHub, verifier: str) -> contextlib.AbstractContextManager[None]:
    """The faults of links, disk and verifiers, which last for a while.

    Args:
        fault: one of them.
        hub: of the fleet.
        verifier: the one that misbehaves, if it is a verifier that does.
    """
    if fault in LINK_FAULTS:
        return bad_links(hub, LINK_FAULTS[fault])
    if fault in MOODS:
        return in_mood(verifier, MOODS[fault])
    assert fault is VirtualFault.DISK
    return files_limited_to(0)


class WallClock:
    """The machine's clock, which somebody sets. Restored by `close`.

    The asyncio loop's clock and the monotonic one cannot be set, here as anywhere.
    """

    def __init__(self) -> None:
        self._real: Callable[[], float] = time.time
        self._offset_s = 0.0
        time.time = lambda: self._real() + self._offset_s

    def step(self, seconds: float) -> None:
        """Set the clock forward, or back."""
        self._offset_s += seconds

    def close(self) -> None:
        time.time = self._real


def stall(seconds: float) -> None:
    """No process of the host runs for a while."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualClockLoop)
    loop.jump(seconds)


def tear_journal(run_dir: RunDir, rng: random.Random) -> None:
    """Append what a controller leaves that dies while it writes: the begin of a record, which nobody relied on."""
    newest = journal_files(run_dir.journal)[-1]
    last: AnyRecord | None = None
    for read in read_file(newest):
        last = read.record
    if last is None:
        return
    frame = frame_record(last)
    with newest.open("ab") as file:
        file.write(frame[: rng.randrange(1, len(frame))])


def damage_newest_checkpoint(run_dir: RunDir) -> bool:
    """Cut the manifest of the newest checkpoint; False, and nothing done, if there is no older one to go back to."""
    store, whole = CheckpointStore(run_dir.checkpoints), []
    for manifest in sorted(run_dir.checkpoints.glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime_ns):
        with contextlib.suppress(StorageError):
            store.read(manifest.parent)
            whole.append(manifest)
    if len(whole) < 2:
        return False
    whole[-1].write_bytes(whole[-1].read_bytes()[:-20])
    return True
