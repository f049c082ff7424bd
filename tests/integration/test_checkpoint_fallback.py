"""Checkpoints that are damaged, or not known to the journal yet: the run goes on from a whole one, and says so."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from one_process_run import events, lines, make_small_fleet, run
from ring_async.storage.audit import audit
from ring_async.storage.journal_file import journal_files
from ring_async.testing.one_process import OneProcessFleet
from ring_async.training.checkpoint import MANIFEST, CheckpointStore
from ring_async.types import PolicyVersion

make_fleet = functools.partial(make_small_fleet, stop__policy_versions=9)


def versions(fleet: OneProcessFleet) -> list[int]:
    return [step["policy_version"] for step in lines(fleet.run_dir.metrics)]


def test_a_damaged_newest_checkpoint_costs_the_versions_since_the_one_before(tmp_path: Path) -> None:
    first = make_fleet(tmp_path)
    assert run(first, limit_s=600.0) == ""
    newest = first.run_dir.checkpoints / "0.9"
    manifest = newest / MANIFEST
    manifest.write_bytes(manifest.read_bytes()[:-20])
    again = make_fleet(tmp_path, is_resumed=True, stop__policy_versions=12)
    assert run(again, limit_s=600.0) == ""
    assert versions(again) == [*range(1, 10), *range(7, 13)], "batches 7 to 9 are trained again, then new ones"
    [said] = events(again, "checkpoint_passed_over")
    assert str(newest) in said["why"]
    assert said["restored"] == str(first.run_dir.checkpoints / "0.6")
    report = audit(again.run_dir.path)
    assert report.is_clean, report.to_text()
    assert report.figures["batches replayed"] == 3


def test_the_only_checkpoint_that_the_journal_names_is_never_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The learner dies when its second checkpoint is written and nobody has heard of it."""
    save = CheckpointStore.save
    seen: list[list[str]] = []

    def save_and_die(
        store: CheckpointStore, version: PolicyVersion, number: int, write: Callable[[Path], None]
    ) -> Path:
        path = save(store, version, number, write)
        if number == 6 and not seen:
            seen.append(sorted(folder.name for folder in store.root.iterdir()))
            raise RuntimeError("the process ends here")
        return path

    monkeypatch.setattr(CheckpointStore, "save", save_and_die)
    fleet = make_fleet(tmp_path, checkpoint__keep=1)
    assert run(fleet, limit_s=600.0) == ""
    assert seen == [["0.3", "0.6"]]
    assert [path.name for path in fleet.run_dir.checkpoints.iterdir()] == ["1.9"]
    assert audit(fleet.run_dir.path).is_clean


@pytest.mark.parametrize("is_moved", [False, True])
def test_a_copied_or_moved_run_goes_on_at_its_new_place(tmp_path: Path, is_moved: bool) -> None:
    first = make_fleet(tmp_path / "here")
    assert run(first, limit_s=600.0) == ""
    place = first.run_dir.path
    there = tmp_path / "there" / place.name
    there.parent.mkdir()
    (shutil.move if is_moved else shutil.copytree)(place, there)
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    again = make_fleet(tmp_path / "there", is_resumed=True, stop__policy_versions=12)
    assert run(again, limit_s=600.0) == ""
    assert versions(again) == list(range(1, 13))
    assert not events(again, "checkpoint_passed_over")
    assert audit(there).is_clean
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before
    for path in journal_files(there / "journal"):
        assert str(tmp_path).encode() not in path.read_bytes(), "no path in the journal names a place"
