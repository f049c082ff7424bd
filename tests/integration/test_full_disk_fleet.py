"""The disk of a whole run is full for a while: nothing is wrong afterwards, and the run goes on by itself.

All actors run in one process under a virtual clock. The full disk is the kernel's: no file of this process may grow, so
journal, replay's store, metrics and events meet failing writes at the same time.
"""

from __future__ import annotations

import asyncio
import functools
from pathlib import Path

import pytest

from one_process_run import events, lines, make_small_fleet, run, until_version
from ring_async.errors import StorageError
from ring_async.storage.audit import audit
from ring_async.storage.journal import Journal
from ring_async.storage.replay_store import ReplayStore, Writes
from ring_async.testing.full_disk import files_limited_to
from ring_async.testing.one_process import OneProcessFleet

FULL_S = 5.0


make_fleet = functools.partial(make_small_fleet, stop__policy_versions=12, token_s=0.2)


@pytest.mark.parametrize("from_version", [1, 5])
def test_a_disk_that_is_full_for_a_while_costs_only_that_while(tmp_path: Path, from_version: int) -> None:
    """A checkpoint is due at version 6: the second time, it meets the full disk as well."""

    async def fill(fleet: OneProcessFleet) -> None:
        await until_version(fleet, from_version)
        with files_limited_to(0):
            await asyncio.sleep(FULL_S)

    fleet = make_fleet(tmp_path)
    assert run(fleet, fill, limit_s=600.0) == ""
    report = audit(fleet.run_dir.path)
    assert report.is_clean, report.to_text()
    assert [step["policy_version"] for step in lines(fleet.run_dir.metrics)] == list(range(1, 13))
    assert not events(fleet, "actor_lost")


def test_a_journal_without_room_refuses_nobody_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the journal meets the full disk, while replay commits and reports what the ledger cannot take in yet."""
    full_until_s, refused = 0.0, 0
    write = Journal._write

    def write_if_there_is_room(journal: Journal, data: bytes) -> None:
        nonlocal refused
        if asyncio.get_running_loop().time() < full_until_s:
            refused += 1
            with files_limited_to(0):
                write(journal, data)
        write(journal, data)

    async def fill(fleet: OneProcessFleet) -> None:
        nonlocal full_until_s
        await until_version(fleet, 3)
        full_until_s = asyncio.get_running_loop().time() + FULL_S

    monkeypatch.setattr(Journal, "_write", write_if_there_is_room)
    fleet = make_fleet(tmp_path)
    assert run(fleet, fill, limit_s=600.0) == ""
    assert refused > 0
    report = audit(fleet.run_dir.path)
    assert report.is_clean, report.to_text()
    assert report.counts["adopted"] == 0


def test_groups_that_met_a_full_store_are_committed_although_no_other_arrives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Admission has granted all it may: nothing arrives behind the groups that wait for room."""
    full_until_s, refused = 0.0, 0
    commit = ReplayStore.commit

    def commit_if_there_is_room(store: ReplayStore, writes: Writes) -> None:
        nonlocal refused
        if writes.puts and asyncio.get_running_loop().time() < full_until_s:
            refused += 1
            raise StorageError("no room")
        commit(store, writes)

    async def fill(fleet: OneProcessFleet) -> None:
        nonlocal full_until_s
        await until_version(fleet, 3)
        loop = asyncio.get_running_loop()
        full_until_s = loop.time() + 10.0
        await asyncio.sleep(10.0)
        version = fleet.controller.status().policy_version
        while fleet.controller.status().policy_version == version:
            await asyncio.sleep(0.5)
            assert loop.time() < full_until_s + 15.0, "the groups that wait were not tried again"

    monkeypatch.setattr(ReplayStore, "commit", commit_if_there_is_room)
    fleet = make_fleet(tmp_path)
    assert run(fleet, fill, limit_s=600.0) == ""
    assert refused > 0
    assert audit(fleet.run_dir.path).is_clean
