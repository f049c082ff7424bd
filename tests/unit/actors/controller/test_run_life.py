"""The state of a run from its start to its outcome, with the fleet and the learner scripted."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ring_async.actors.controller.run_life import RunLife
from ring_async.core.fleet.states import RunState
from ring_async.core.roster import LEAVING_ORDER, Role
from ring_async.errors import PeerTimeoutError, StorageError
from ring_async.storage.run_dir import RunDir
from ring_async.testing.builders import make_config
from ring_async.testing.virtual_clock import run_virtual

LAST_VERSION = 10


class Fleet:
    """Everybody leaves when told to, after a second; the learner is away."""

    def __init__(self, *, is_gathering: bool = False) -> None:
        self.is_gathering = is_gathering
        self.news: list[tuple[str, tuple[str, ...]]] = []
        self.dismissed: list[tuple[Role, ...]] = []
        self.members = SimpleNamespace(by_id={}, of=lambda *roles: [])
        self.links = SimpleNamespace(command=self._command)

    def tell(self, news: Any, *roles: Role) -> None:
        self.news.append((type(news).__name__, roles))

    async def until_gathered(self) -> None:
        if self.is_gathering:
            await asyncio.sleep(1.0)
            self.is_gathering = False

    async def dismiss(self, roles: tuple[Role, ...], *, finish_s: float, end_s: float) -> None:
        self.dismissed.append(roles)
        await asyncio.sleep(1.0)

    async def _command(self, actor_id: str, message: Any, *, timeout_s: float) -> Any:
        raise PeerTimeoutError(f"{actor_id} is away")


class Notes:
    """The durable notes of a run, which outlive a controller."""

    def __init__(self, kept: dict[str, Any] | None = None) -> None:
        self.kept = kept if kept is not None else {}

    def hold(self, key: str, value: Any) -> None:
        self.put(key, value)

    def put(self, key: str, value: Any) -> None:
        self.kept[key] = value

    def get(self, key: str) -> Any:
        return self.kept.get(key)

    resumed = get


class FullDisk(Notes):
    def put(self, key: str, value: Any) -> None:
        raise StorageError("no space left on device")


class Run:
    """A life, and what it leads to. `notes` are those of a controller that died while its fleet lives on."""

    def __init__(
        self, runs: Path, *, version: int = 3, saved: int | None = None, notes: Notes | None = None, **settings: Any
    ) -> None:
        self.run_dir = RunDir(runs)
        self.fleet = Fleet(is_gathering=notes is not None)
        self.events: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []
        config = make_config(stop__policy_versions=LAST_VERSION, **settings)
        run_log = SimpleNamespace(event=lambda kind, **details: self.events.append(kind))
        spawn = lambda work: self._tasks.append(asyncio.create_task(work))  # noqa: E731
        self.notes = notes or Notes()
        context = SimpleNamespace(
            config=config, run_dir=self.run_dir, run_log=run_log, spawn=spawn, notes=self.notes,
            is_fleet_alive=notes is not None,
        )  # fmt: skip
        dispatcher = SimpleNamespace(limiter=SimpleNamespace(state=SimpleNamespace(version_number=version)))
        versions = SimpleNamespace(checkpoint={"path": "checkpoints/3", "version": version if saved is None else saved})
        self.life = RunLife(context, self.fleet, dispatcher, versions)

    async def until_ended(self) -> None:
        await asyncio.gather(*self._tasks)

    def outcome(self) -> dict[str, Any]:
        return json.loads(self.run_dir.outcome.read_text())


def test_a_pause_ends_with_a_resume(tmp_path: Path):
    run = Run(tmp_path)
    assert run.life.state is RunState.RUNNING
    run.life.pause()
    assert run.life.state is RunState.PAUSED
    run.life.resume()
    assert (run.life.state, run.life.reason) == (RunState.RUNNING, "")
    assert run.fleet.news == [("Pause", (Role.ROLLOUT, Role.LEARNER)), ("Resume", (Role.ROLLOUT, Role.LEARNER))]


def test_a_run_that_people_end_says_why_and_everybody_leaves_in_order(tmp_path: Path):
    async def main() -> None:
        run = Run(tmp_path)
        run.life.shut_down("ring-async down", 20.0)
        run.life.shut_down("too late to be the reason", 20.0)
        assert (run.life.state, run.life.reason) == (RunState.STOPPING, "ring-async down")
        await run.until_ended()
        assert (run.life.state, run.life.reason) == (RunState.FINISHED, "ring-async down")
        assert run.fleet.dismissed == list(LEAVING_ORDER)
        assert run.events == ["stopping", "stopped"]
        assert run.outcome() == {
            "reason": "ring-async down",
            "failure": "",
            "killed": [],
            "policy_version": 3,
            "checkpoint": "checkpoints/3",
        }

    run_virtual(main())


def test_the_first_failure_is_the_reason_also_of_a_run_that_stops_already(tmp_path: Path):
    async def main() -> None:
        run = Run(tmp_path)
        run.life.shut_down("ring-async down", 20.0)
        run.life.fail("learner-0: DivergedError: NaN")
        run.life.fail("and then this")
        assert (run.life.state, run.life.reason) == (RunState.STOPPING, "learner-0: DivergedError: NaN")
        await run.until_ended()
        assert run.life.state is RunState.FAILED
        assert run.outcome()["reason"] == "ring-async down"
        assert run.outcome()["failure"] == "learner-0: DivergedError: NaN"

    run_virtual(main())


@pytest.mark.parametrize(("number", "state"), [(LAST_VERSION - 1, RunState.RUNNING), (LAST_VERSION, RunState.STOPPING)])
def test_a_run_ends_with_the_checkpoint_of_its_last_version(tmp_path: Path, number: int, state: RunState):
    async def main() -> None:
        run = Run(tmp_path, version=number)
        run.life.stop_if_trained(number)
        assert run.life.state is state
        await run.until_ended()

    run_virtual(main())


def test_the_time_of_a_run_counts_from_its_first_step(tmp_path: Path):
    async def main() -> None:
        run = Run(tmp_path, stop__wall_s=60.0)
        await asyncio.sleep(100.0)
        run.life.stop_if_time_is_up()
        run.life.start_clock()
        await asyncio.sleep(59.0)
        run.life.start_clock()
        run.life.stop_if_time_is_up()
        assert run.life.state is RunState.RUNNING
        await asyncio.sleep(2.0)
        run.life.stop_if_time_is_up()
        assert (run.life.state, run.life.reason) == (RunState.STOPPING, "stop.wall_s: 60 s of training")
        await run.until_ended()

    run_virtual(main())


def test_a_controller_that_restarts_goes_on_with_a_pause_and_with_an_end(tmp_path: Path):
    async def main() -> None:
        paused = Run(tmp_path, notes=Notes())
        paused.life.pause()
        assert Run(tmp_path, notes=paused.notes).life.state is RunState.PAUSED

        paused.life.fail("learner-0: DivergedError: NaN")
        after = Run(tmp_path, notes=paused.notes)
        after.life.open()
        assert (after.life.state, after.life.reason) == (RunState.STOPPING, "learner-0: DivergedError: NaN")
        await asyncio.sleep(0.5)
        assert after.fleet.is_gathering, "nobody has registered yet: whom should it tell to leave?"
        assert not after.fleet.dismissed
        await after.until_ended()
        assert after.life.state is RunState.FAILED
        assert after.fleet.dismissed == list(LEAVING_ORDER)
        await paused.until_ended()

    run_virtual(main())


def test_a_new_fleet_forgets_how_the_run_ended(tmp_path: Path):
    notes = Notes({"life": {"stop_reason": "ring-async down", "is_paused": True}})
    run = Run(tmp_path)
    run.notes.kept |= notes.kept
    run.life.open()
    assert run.life.state is RunState.RUNNING
    assert run.notes.kept["life"]["stop_reason"] == ""


def test_an_end_goes_on_where_it_cannot_be_stored_but_a_pause_is_refused(tmp_path: Path):
    async def main() -> None:
        run = Run(tmp_path, notes=FullDisk())
        with pytest.raises(StorageError):
            run.life.pause()
        assert run.life.state is RunState.RUNNING
        run.life.shut_down("ring-async down", 20.0)
        await run.until_ended()
        assert run.life.state is RunState.FINISHED

    run_virtual(main())


def test_a_learner_that_died_between_its_last_checkpoint_and_its_publication_has_trained(tmp_path: Path):
    async def main() -> None:
        run = Run(tmp_path, version=LAST_VERSION - 1, saved=LAST_VERSION)
        run.life.open()
        await run.until_ended()
        assert run.outcome()["policy_version"] == LAST_VERSION

    run_virtual(main())
