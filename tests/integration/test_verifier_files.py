"""Verifiers that the configuration names by file: a run judges by what it was started with, whatever becomes of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import one_process_run
from one_process_run import events, run, until_version
from ring_async.core.replay.intake import Receipt
from ring_async.errors import ConfigError
from ring_async.storage.audit import audit
from ring_async.storage.replay_shard import ReplayShard
from ring_async.testing.builders import make_config
from ring_async.testing.one_process import OneProcessFleet
from ring_async.types import Group

SALTED = Path(one_process_run.__file__).read_text()


def write(file: Path, text: str) -> None:
    """A verifier file with this content behind the same class."""
    file.write_text(f"{SALTED}\n# {text}\n")


def make_fleet(runs: Path, file: Path, *, versions: int = 12, is_resumed: bool = False) -> OneProcessFleet:
    config = make_config(
        stop__policy_versions=versions,
        rollout__group_size=4,
        verifiers={"exact": {"use": f"{file}:Salted"}},
        replay__map_size_bytes=64 << 20,
    )
    return OneProcessFleet(config, runs, token_s=0.01, train_s=0.2, is_resumed=is_resumed)


@pytest.fixture
def stamps(monkeypatch: pytest.MonkeyPatch) -> set[tuple[int, str]]:
    """Epoch and version of whatever was judged, as replay takes it in."""
    found: set[tuple[int, str]] = set()
    put = ReplayShard.put

    def noting(shard: ReplayShard, groups: Sequence[Group]) -> list[Receipt]:
        found.update((stamp.epoch, stamp.version) for group in groups if (stamp := group.header.verifier))
        return put(shard, groups)

    monkeypatch.setattr(ReplayShard, "put", noting)
    return found


def in_force(fleet: OneProcessFleet) -> list[tuple[str, int]]:
    changed: dict[str, Any] = fleet.controller.changes.status()["verifiers"]
    return [(name, verifier["epoch"]) for name, verifier in changed.items()]


def test_a_restart_and_a_rollback_build_what_the_run_was_started_with(tmp_path: Path, stamps: set[tuple[int, str]]):
    file = tmp_path / "strict.py"
    write(file, "first")

    async def edit(fleet: OneProcessFleet) -> None:
        await until_version(fleet, 2)
        write(file, "mistaken")
        fleet.kill("reward-0")
        await until_version(fleet, 6)
        changes = fleet.controller.changes
        swap = changes.swap_verifier("exact", f"{file}:Salted", {})
        assert (await changes.follow_swap(swap["swap_id"], 60.0))["state"] == "committed"
        back = changes.roll_back_verifier("exact")
        assert (await changes.follow_swap(back["swap_id"], 60.0))["state"] == "committed"
        await until_version(fleet, 10)

    fleet = make_fleet(tmp_path / "runs", file)
    assert run(fleet, edit) == ""
    versions: dict[int, set[str]] = {}
    for epoch, version in stamps:
        versions.setdefault(epoch, set()).add(version)
    assert len(versions[0]) == 1
    assert versions[2] == versions[0]
    (swapped,) = events(fleet, "verifier_swapped")
    assert swapped["after"]["version"] not in versions[0]
    assert audit(fleet.run_dir.path).is_clean


def test_a_resume_with_another_content_gets_an_epoch_of_its_own_and_says_so(
    tmp_path: Path, stamps: set[tuple[int, str]]
):
    file, runs = tmp_path / "strict.py", tmp_path / "runs"
    write(file, "first")
    first = make_fleet(runs, file, versions=4)
    assert run(first) == ""
    assert {epoch for epoch, _ in stamps} == {0}

    same = make_fleet(runs, file, versions=7, is_resumed=True)
    assert run(same) == ""
    assert in_force(same) == []
    assert len(stamps) == 1

    write(file, "second")
    for versions in (10, 13):  # the second time it is no news
        changed = make_fleet(runs, file, versions=versions, is_resumed=True)
        assert run(changed) == ""
        assert in_force(changed) == [("exact", 1)]
    write(file, "third")
    again = make_fleet(runs, file, versions=16, is_resumed=True)
    assert run(again) == ""
    assert in_force(again) == [("exact", 2)]
    found = sorted(stamps)
    assert [epoch for epoch, _ in found] == [0, 1, 2]
    assert len({version for _, version in found}) == 3
    news = events(again, "verifier_reconfigured")
    assert [(one["before"]["epoch"], one["after"]["epoch"]) for one in news] == [(0, 1), (1, 2)]
    assert audit(again.run_dir.path).is_clean


def test_a_file_that_is_gone_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"verifiers\.exact\.use: .*gone\.py cannot be read"):
        make_fleet(tmp_path, tmp_path / "gone.py")
