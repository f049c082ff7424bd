"""The learner's incarnations: one for each life of a learner, durable before the learner joins."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ring_async.actors.controller.versions import Versions
from ring_async.core.roster import Role
from ring_async.errors import PeerTimeoutError, RunError, StorageError, TransportError
from ring_async.testing.builders import make_config
from ring_async.testing.virtual_clock import run_virtual
from ring_async.transport.messages.fleet import Holding, Member

LEARNER = Member("learner-0", Role.LEARNER, 0, 1, "host", "memory://learner-0/control")


class Notes:
    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self.is_full = False

    def put(self, key: str, value: Any) -> None:
        if self.is_full:
            raise StorageError("no space left on device")
        self.kept[key] = value

    def get(self, key: str) -> Any:
        return self.kept.get(key)

    resumed = get


def make_versions(notes: Notes) -> Versions:
    return Versions(SimpleNamespace(notes=notes, config=make_config()), SimpleNamespace())  # type: ignore[arg-type]


def test_each_new_learner_begins_an_incarnation_and_a_living_one_keeps_its_own():
    notes = Notes()
    versions = make_versions(notes)
    for expected in (0, 1):
        versions.number_learner(LEARNER, Holding())
        assert versions.learner_incarnation == expected
    restarted = make_versions(notes)
    restarted.number_learner(LEARNER, Holding(learner_incarnation=1))
    assert restarted.learner_incarnation == 1
    restarted.number_learner(LEARNER, Holding())
    assert restarted.learner_incarnation == 2


def test_an_incarnation_that_cannot_be_stored_does_not_begin():
    notes = Notes()
    versions = make_versions(notes)
    versions.number_learner(LEARNER, Holding())
    notes.is_full = True
    with pytest.raises(StorageError):
        versions.number_learner(LEARNER, Holding())
    assert versions.learner_incarnation == 0
    notes.is_full = False
    versions.number_learner(LEARNER, Holding())
    assert versions.learner_incarnation == notes.kept["learner_incarnation"] == 1


@pytest.mark.parametrize("loss", [PeerTimeoutError("no answer"), TransportError("the channel was closed")])
def test_a_learner_that_is_lost_while_it_saves_is_told_as_a_run_error(loss: Exception):
    async def command(*_: object, **__: object) -> None:
        raise loss

    fleet = SimpleNamespace(links=SimpleNamespace(command=command))
    versions = Versions(SimpleNamespace(notes=Notes(), config=make_config()), fleet)  # type: ignore[arg-type]
    with pytest.raises(RunError, match="no checkpoint: "):
        run_virtual(versions.save_checkpoint())
