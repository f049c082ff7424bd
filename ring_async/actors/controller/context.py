"""What every part of the controller works with.

Owns: the group of these things, and `RunNotes`. Does not own their use.
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
    """Small things that must survive with the ledger, each under a key: cursors, epochs, settings, the last checkpoint.

        notes.put("knobs", {"learner.lr": 1e-5})     # durable when it returns
        notes.get("knobs")                           # {"learner.lr": 1e-5}

    Args:
        journal: holds them.
        is_resumed: whether the run goes on from what an earlier one noted.
    """

    def __init__(self, journal: Journal, *, is_resumed: bool) -> None:
        self._journal = journal
        self._is_resumed = is_resumed

    def put(self, key: str, value: Any) -> None:
        """Durably remember the newest value under `key`: plain data.

        Raises:
            StorageError: nothing was written.
        """
        self._journal.append(Noted(key, value))

    def get(self, key: str) -> Any:
        """The newest value, or None."""
        return self._journal.ledger.notes.get(key)

    def resumed(self, key: str) -> Any:
        """The newest value where the run goes on from an earlier one; None in a run that begins."""
        return self.get(key) if self._is_resumed else None


@dataclass(frozen=True, slots=True)
class RunContext:
    """One run, as the parts of its controller see it. `spawn` runs work that outlives a call."""

    config: Config
    run_dir: RunDir
    notes: RunNotes
    run_log: RunLog
    spawn: Callable[[Coroutine[Any, Any, None]], None]
