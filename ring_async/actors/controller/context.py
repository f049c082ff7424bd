"""The objects that every part of the controller shares, and the durable notes of a run.

Owns: `RunContext`, which groups these objects, and `RunNotes`. Does not own their use.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from ring_async.actors.controller.run_log import RunLog
from ring_async.config.schema import Config
from ring_async.core.work.ledger import Noted
from ring_async.storage.journal import Journal
from ring_async.storage.run_dir import RunDir


class RunNotes:
    """Small values that must survive with the ledger, by key: cursors, epochs, settings, the last checkpoint.

        notes.put("knobs", {"learner.learning_rate": 1e-5})     # durable when it returns
        notes.get("knobs")                           # {"learner.learning_rate": 1e-5}

    Args:
        journal: stores the notes.
        is_resumed: whether the run goes on from the notes of an earlier process.
    """

    def __init__(self, journal: Journal, *, is_resumed: bool) -> None:
        self._journal = journal
        self._is_resumed = is_resumed

    def put(self, key: str, value: Any) -> None:
        """Durably store plain data as the newest value of `key`.

        Raises:
            StorageError: nothing was written.
        """
        self._journal.append(Noted(key, value))

    def hold(self, key: str, value: Any) -> None:
        """Store a note as soon as the disk has room: for what has happened anyway; see `Journal.hold`."""
        self._journal.hold(Noted(key, value))

    def get(self, key: str) -> Any:
        """The newest value of `key`, or None."""
        return self._journal.ledger.notes.get(key)

    def resumed(self, key: str) -> Any:
        """The newest value of `key` in a resumed run; None in a new run."""
        return self.get(key) if self._is_resumed else None


@dataclass(frozen=True, slots=True)
class RunContext:
    """One run, as the parts of its controller see it. `spawn` starts a task that outlives the call.

    `is_fleet_alive`: the controller alone restarted, and the run's other processes go on.
    """

    config: Config
    run_dir: RunDir
    notes: RunNotes
    run_log: RunLog
    spawn: Callable[[Coroutine[Any, Any, None]], None]
    is_fleet_alive: bool = False
