"""What stands behind the control API where a test looks at the API alone."""

from __future__ import annotations

from typing import Any

from ring_async.control.guard import Refusal
from ring_async.core.fleet.states import RunState
from ring_async.records.status import RunStatus
from ring_async.records.steps import StepRecord
from ring_async.transport.messages.fleet import Member

TOKEN = "a" * 43


class RecordedChanges:
    """`control.changes_api.Changes` that write down what was asked, whatever it was."""

    def __init__(self, asked: list[Any]) -> None:
        self._asked = asked

    def __getattr__(self, name: str) -> Any:
        def ask(*args: Any, **kwargs: Any) -> dict[str, Any]:
            self._asked.append((name, args, kwargs))
            return {"knobs": {}}

        return ask


class Recorded:
    """`control.api.Operations` that write down what was asked."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.asked: list[Any] = []
        self.refused: list[Refusal] = []
        self._failure = failure

    @property
    def changes(self) -> RecordedChanges:
        return RecordedChanges(self.asked)

    def status(self) -> RunStatus:
        return RunStatus(state=RunState.RUNNING, last_step=StepRecord(policy_version=1, entropy=float("nan")))

    def live_members(self) -> list[Member]:
        return []

    async def pause(self) -> None:
        if self._failure is not None:
            raise self._failure
        self.asked.append("pause")

    async def resume(self) -> None:
        self.asked.append("resume")

    async def checkpoint(self) -> str:
        return "/somewhere"

    def shut_down(self, reason: str, deadline_s: float) -> None:
        self.asked.append(deadline_s)

    def calls_refused(self, refusal: Refusal) -> None:
        self.refused.append(refusal)
