"""A store of any age fits its map: the past is folded, and the audit still proves all of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ring_async.core.advantages import AdvantageRules
from ring_async.core.replay import history
from ring_async.core.replay.buffer_rules import BufferRules
from ring_async.core.replay.intake import IntakeOutcome
from ring_async.storage.audit import audit
from ring_async.storage.replay_shard import ReplayShard
from ring_async.storage.replay_store import ReplayStore
from ring_async.testing.builders import make_group
from ring_async.types import Group, PolicyVersion

GROUP_SIZE, LENGTH, GROUPS_PER_PLAN = 4, 8, 8
TABLES = ("plans", "ended", "departed")


def open_shard(folder: Path, map_size_bytes: int = 16 << 20, *, token_budget: int = 256) -> ReplayShard:
    rules = BufferRules(token_budget=token_budget, token_capacity=128, max_staleness=2)
    return ReplayShard(ReplayStore(folder / "replay" / "replay-0", map_size_bytes), rules, AdvantageRules())


def groups_of(plan: int, rewards: tuple[int, ...] = (1, 0, 1, 0)) -> list[Group]:
    return [
        make_group(f"sums-{plan * GROUPS_PER_PLAN + index:08d}", rewards=rewards, lengths=LENGTH, versions=plan - 1)
        for index in range(GROUPS_PER_PLAN)
    ]


def go_through(shard: ReplayShard, plans: range, covered_behind: int = 0) -> None:
    for number in plans:
        shard.put(groups_of(number))
        plan = shard.plan(number, PolicyVersion(0, number - 1))
        assert not hasattr(plan, "reason"), plan
        shard.cover(number - covered_behind)
        shard.flush()
        shard.heard(list(shard.unheard))


def test_old_plans_and_groups_are_folded_and_proven_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "KEPT_PLANS", 6)
    shard = open_shard(tmp_path)
    go_through(shard, range(1, 31))
    with shard.store.read() as reader:
        assert [entry.plan.plan_number for entry in reader.plans_after(0)] == list(range(25, 31))
        assert len(list(reader.all_ended())) == 6 * GROUPS_PER_PLAN
    shard.close()
    report = audit(tmp_path)
    assert report.is_clean, report.to_text()
    assert report.figures["batches planned"] == 30
    assert report.figures["loss tokens planned"] == 30 * 256
    assert report.figures["groups ended"] == 30 * GROUPS_PER_PLAN


def test_disk_per_group_is_flat_once_the_past_is_folded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "KEPT_PLANS", 6)
    shard = open_shard(tmp_path)
    go_through(shard, range(1, 16))
    then = shard.store.bytes_of(*TABLES)
    go_through(shard, range(16, 41))
    assert shard.store.bytes_of(*TABLES) <= 1.1 * then
    shard.close()


def test_a_small_store_never_fills_for_good(tmp_path: Path) -> None:
    """Without folding, a map of 512 KiB is full of old plans and ended groups at batch 41 of this size."""
    shard = open_shard(tmp_path, 512 << 10)
    go_through(shard, range(1, 91))
    shard.close()
    report = audit(tmp_path)
    assert report.is_clean, report.to_text()
    assert report.figures["groups ended"] == 90 * GROUPS_PER_PLAN


def test_responses_cut_in_two_are_proven_across_the_fold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of 252 of 256 tokens cuts a response each time; the plan with its first part is gone in the end."""
    monkeypatch.setattr(history, "KEPT_PLANS", 4)
    shard = open_shard(tmp_path, token_budget=252)
    go_through(shard, range(1, 26), covered_behind=1)
    shard.close()
    again = open_shard(tmp_path, token_budget=252)
    go_through(again, range(26, 31), covered_behind=1)
    again.close()
    report = audit(tmp_path)
    assert report.is_clean, report.to_text()
    assert report.figures["batches planned"] == 30


def test_a_violation_in_folded_plans_is_still_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "KEPT_PLANS", 4)
    shard = open_shard(tmp_path)
    go_through(shard, range(1, 3))
    with shard.store.read() as reader:
        entry = reader.plan(2)
    assert entry is not None
    from msgspec.structs import replace

    from ring_async.storage.replay_store import Writes

    shard.store.commit(Writes(plans=[replace(entry, loss_tokens=(*entry.loss_tokens[:-1], 1))]))
    go_through(shard, range(3, 21))
    shard.close()
    assert "a batch holds exactly Φ loss tokens" in {violation.rule for violation in audit(tmp_path).violations}


def test_groups_dropped_at_once_are_forgotten_too_and_late_copies_are_known_until_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "KEPT_PLANS", 4)
    shard = open_shard(tmp_path)
    [dropped] = groups_of(1_000, rewards=(1, 1, 1, 1))[:1]
    assert [receipt.outcome for receipt in shard.put([dropped])] == [IntakeOutcome.DROPPED]
    go_through(shard, range(1, 4))
    assert [receipt.outcome for receipt in shard.put([dropped])] == [IntakeOutcome.DUPLICATE]
    go_through(shard, range(4, 16))
    with shard.store.read() as reader:
        assert reader.ended(dropped.header.group_id) is None
    shard.close()


def test_plans_that_another_shard_has_not_followed_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "KEPT_PLANS", 4)
    shard = open_shard(tmp_path)
    shard.history.followed = 2
    go_through(shard, range(1, 16))
    assert [part.plan_number for part in shard.parts_after(2, lambda group_id: True, 3)] == [3, 4, 5]
    shard.close()
