"""The audit: clean where all is well, and it finds each kind of loss."""

import lmdb
import msgspec
import pytest

from ring_async.batches import TokenInterval
from ring_async.core.advantages import AdvantageRules
from ring_async.core.replay.buffer_rules import BufferRules
from ring_async.core.replay.offers import Mirror
from ring_async.core.replay.plan_log import PlanEntry
from ring_async.core.staleness import Lineage
from ring_async.core.work.ledger_records import GroupReserved, StatesMoved
from ring_async.errors import NotARunError
from ring_async.storage.audit import audit
from ring_async.storage.journal import Journal
from ring_async.storage.replay_shard import ReplayShard
from ring_async.storage.replay_store import ReplayStore, Writes
from ring_async.testing.builders import make_group, make_reservation
from ring_async.trajectory_states import TrajectoryState
from ring_async.types import PolicyVersion


@pytest.fixture
def run_dir(tmp_path):
    """Six groups through three batches, the first covered; some of it not yet heard by the ledger."""
    journal = Journal(tmp_path / "journal")
    rules = BufferRules(token_budget=10, token_capacity=32, max_staleness=3, order="fifo")
    shard = ReplayShard(ReplayStore(tmp_path / "replay" / "replay-0", 64 << 20), rules, AdvantageRules())
    for number in range(6):
        group_id = f"g{number}"
        journal.append(GroupReserved(make_reservation(group_id), "rollout-0"))
        shard.put([make_group(group_id, lengths=[6, 6], rewards=[1, 1] if number == 5 else [1, 0])])
    for number in (1, 2, 3):
        shard.batch(number, PolicyVersion(0, number - 1))
    shard.cover(1)
    shard.flush()
    reports = shard.unheard_after(0)
    for number, states in reports[:-2]:
        journal.append(StatesMoved(states))
        shard.heard([number])
    shard.put([make_group("g6", lengths=[6, 6])])
    journal.append(GroupReserved(make_reservation("g6"), "rollout-0"))
    shard.close()
    journal.close()
    return tmp_path


def rules_broken(run_dir):
    return {violation.rule for violation in audit(run_dir).violations}


def change(run_dir, writes):
    store = ReplayStore(run_dir / "replay" / "replay-0", 64 << 20)
    store.commit(writes)
    store.close()


def plan_of(run_dir, number) -> PlanEntry:
    store = ReplayStore(run_dir / "replay" / "replay-0", 64 << 20, is_readonly=True)
    with store.read() as reader:
        entry = reader.plan(number)
    store.close()
    return entry


def replace_plan(run_dir, number, **fields):
    entry = plan_of(run_dir, number)
    change(run_dir, Writes(plans=[msgspec.structs.replace(entry, plan=msgspec.structs.replace(entry.plan, **fields))]))


def test_a_good_run_is_clean(run_dir):
    report = audit(run_dir)
    assert report.is_clean, report.to_text()
    assert report.figures["batches planned"] == 3
    assert report.figures["loss tokens planned"] == 30
    assert report.counts["reserved"] == 14
    assert report.to_plain()["is_clean"] is True
    assert "clean" in report.to_text()


def test_a_lost_group_is_found(run_dir):
    environment = lmdb.open(str(run_dir / "replay" / "replay-0"), max_dbs=8)
    with environment.begin(write=True) as transaction:
        for table in (b"groups", b"progress"):
            transaction.delete(b"g1", db=environment.open_db(table, txn=transaction))
    environment.close()
    assert "nothing acknowledged is missing" in rules_broken(run_dir)


def test_a_short_batch_is_found(run_dir):
    replace_plan(run_dir, 2, token_budget=11)
    assert "a batch holds exactly Φ loss tokens" in rules_broken(run_dir)


def test_a_token_trained_twice_is_found(run_dir):
    first, second = plan_of(run_dir, 1).plan, plan_of(run_dir, 2).plan
    replace_plan(run_dir, 2, sequences=(first.sequences[0], *second.sequences[1:]))
    assert "no token is trained more than max_reuse times" in rules_broken(run_dir)


def test_a_token_passed_over_is_found(run_dir):
    second = plan_of(run_dir, 2).plan
    late = msgspec.structs.replace(second.sequences[0], interval=TokenInterval("g0/1", 5, 6))
    replace_plan(run_dir, 2, sequences=(late, *second.sequences[1:]))
    assert "intervals tile a response" in rules_broken(run_dir)


def test_a_stale_batch_is_found(run_dir):
    replace_plan(run_dir, 3, policy_version=PolicyVersion(0, 9))
    assert "nothing is trained beyond max_staleness" in rules_broken(run_dir)


def test_a_ledger_that_says_otherwise_is_found(run_dir):
    journal = Journal(run_dir / "journal")
    journal.append(StatesMoved((TrajectoryState("g4/0", "evicted", "stale", 6),)))
    journal.close()
    assert "ledger and replay agree" in rules_broken(run_dir)


def test_what_was_never_reserved_is_found(run_dir):
    shard = ReplayShard(
        ReplayStore(run_dir / "replay" / "replay-0", 64 << 20), BufferRules(10, 32, max_staleness=3), AdvantageRules()
    )
    shard.put([make_group("stray", lengths=[6, 6])])
    shard.close()
    assert "everything that replay holds was reserved" in rules_broken(run_dir)


def test_a_folder_that_is_no_run_is_an_error(tmp_path):
    (tmp_path / "journal").mkdir()
    with pytest.raises(NotARunError, match=f"{tmp_path}: nothing to audit") as caught:
        audit(tmp_path)
    assert caught.value.exit_code == 2


def test_a_shard_that_has_followed_no_plan_yet_is_not_accused(tmp_path):
    """The planner has logged batch 1 out of another shard's group, and that shard was killed before it heard of it."""
    rules = BufferRules(token_budget=12, token_capacity=32, max_staleness=3, order="fifo", num_shards=2)
    journal = Journal(tmp_path / "journal")
    journal.append(GroupReserved(make_reservation("g0"), "rollout"))
    planner, other = (
        ReplayShard(ReplayStore(tmp_path / "replay" / f"replay-{index}", 16 << 20), rules, AdvantageRules())
        for index in range(2)
    )
    other.put([make_group("g0", lengths=[6, 6])])
    mirror = Mirror(rules, Lineage())
    mirror.take_in(other.offer(1, PolicyVersion(0, 0), Lineage(), {}, mirror.mark))
    assert planner.plan(1, PolicyVersion(0, 0), others=[mirror.groups]).plan_number == 1
    for shard in (planner, other):
        shard.close()
    journal.close()
    report = audit(tmp_path)
    assert report.is_clean, report.to_text()
