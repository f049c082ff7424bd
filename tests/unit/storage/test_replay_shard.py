"""One shard: durable first, idempotent, and the same after a restart at any point."""

import pytest

from ring_async.core.advantages import AdvantageRules
from ring_async.core.replay.buffer_rules import BufferRules
from ring_async.core.replay.token_budget import Shortfall
from ring_async.core.work.ledger import Ledger, LedgerError
from ring_async.core.work.ledger_records import GroupReserved, StatesMoved
from ring_async.errors import RefusedError, StorageError
from ring_async.storage.replay_shard import ReplayShard
from ring_async.storage.replay_store import ReplayStore
from ring_async.testing.builders import make_group, make_reservation
from ring_async.types import PolicyVersion

RULES = BufferRules(token_budget=10, token_capacity=32, max_staleness=2, order="fifo")


class Rig:
    def __init__(self, folder):
        self.folder = folder
        self.shard = None
        self.restart()

    def restart(self):
        if self.shard is not None:
            self.shard.close()
        self.shard = ReplayShard(ReplayStore(self.folder, 64 << 20), RULES, AdvantageRules())

    def put(self, *group_ids, **fields):
        receipts = self.shard.put([make_group(group_id, **({"lengths": [6, 6]} | fields)) for group_id in group_ids])
        return [receipt.outcome for receipt in receipts]

    def train(self, number, incarnation=0):
        return self.shard.batch(number, PolicyVersion(incarnation, number - 1))


@pytest.fixture
def rig(tmp_path):
    rig = Rig(tmp_path)
    yield rig
    rig.shard.close()


def intervals(batch):
    return [(s.trajectory_id, s.interval.start, s.interval.end) for s in batch.plan.sequences]


def test_the_first_copy_wins_also_after_a_restart(rig):
    assert rig.put("a", "a") == ["buffered", "duplicate"]
    assert rig.put("b", rewards=[1, 1]) == ["dropped"]
    rig.restart()
    assert rig.put("a", "b") == ["duplicate", "duplicate"]
    assert rig.shard.buffer.trainable_tokens == 12


def test_a_batch_asked_for_again_is_the_same(rig):
    rig.put("a", "b")
    first = rig.train(1)
    assert first.loss_mask.sum() == 10
    assert intervals(rig.train(1)) == intervals(first)
    rig.restart()
    again = rig.train(1)
    assert intervals(again) == intervals(first)
    assert (again.input_ids == first.input_ids).all()
    assert intervals(rig.train(2))[0] == ("a/1", 4, 6)


def test_a_new_incarnation_is_given_the_logged_batches_in_its_own_name(rig):
    rig.put("a", "b")
    first, _ = rig.train(1), rig.train(2)
    again = rig.train(1, incarnation=1)
    assert again.plan.policy_version == PolicyVersion(1, 0)
    assert intervals(again) == intervals(first)
    with pytest.raises(RefusedError, match=r"0\.1 is of a lost lineage; incarnation 1 took over"):
        rig.train(2)


def test_what_cannot_be_given_is_refused_with_the_reason(rig):
    rig.put("a", "b", "c")
    with pytest.raises(RefusedError, match="batch 3 was asked for, but the next one is 1"):
        rig.train(3)
    rig.train(1)
    with pytest.raises(RefusedError, match=r"planned at version 0\.0, asked for at 0\.5"):
        rig.shard.batch(1, PolicyVersion(0, 5))
    rig.shard.cover(1)
    rig.shard.flush()
    with pytest.raises(RefusedError, match="batch 1 is covered by a checkpoint"):
        rig.train(1)


def test_a_cover_goes_with_the_next_put(rig):
    rig.put("a", "b")
    rig.train(1), rig.train(2)
    rig.shard.cover(2)
    assert len(rig.shard.buffer) == 2
    rig.put("c")
    assert rig.shard.buffer.group_ids() == ("b", "c")
    assert rig.shard.buffer.covered == 2


def test_the_controller_hears_of_everything_once_it_is_durable(rig):
    rig.put("a")
    rig.put("b", rewards=[0, 0])
    rig.restart()
    reports = rig.shard.unheard_after(0)
    assert [(number, [(s.trajectory_id, s.state) for s in states]) for number, states in reports] == [
        (1, [("a/0", "buffered"), ("a/1", "buffered")]),
        (2, [("b/0", "dropped"), ("b/1", "dropped")]),
    ]
    rig.shard.heard([1])
    rig.put("c")
    rig.restart()
    assert [number for number, _ in rig.shard.unheard_after(0)] == [2, 3]


def test_what_is_held_can_only_be_told_after_the_reports_that_led_there(rig):
    rig.put("a")
    rig.train(1)
    rig.shard.cover(1)
    rig.shard.flush()
    rig.restart()
    present = StatesMoved(rig.shard.present_states())
    assert {state.state for state in present.states} == {"retired", "consumed"}
    reserved = GroupReserved(make_reservation("a", group_size=2), "rollout-0")
    ledger = Ledger()
    ledger.apply(reserved)
    with pytest.raises(LedgerError, match="a/0: generating cannot become retired"):
        ledger.check_record(present)
    for _, states in rig.shard.unheard_after(0):
        ledger.apply(StatesMoved(states))
    assert ledger.apply(present).moved == ()


def test_a_reports_number_is_never_used_again(rig):
    rig.put("a")
    rig.train(1)
    rig.shard.heard([2])
    rig.train(1, incarnation=1)  # a commit that moves no trajectory
    rig.restart()
    assert [number for number, _ in rig.shard.unheard_after(0)] == [1]
    rig.put("b")
    assert [number for number, _ in rig.shard.unheard_after(0)] == [1, 3]


def test_a_failed_commit_changes_nothing(rig, monkeypatch):
    rig.put("a", "b")

    def full(writes):
        raise StorageError("no space")

    with monkeypatch.context() as patched:
        patched.setattr(rig.shard.store, "commit", full)
        with pytest.raises(StorageError):
            rig.put("c")
        with pytest.raises(StorageError):
            rig.train(1)
        assert rig.shard.buffer.last_plan == 0
        assert rig.shard.buffer.trainable_tokens == 24
    assert rig.put("c") == ["buffered"]
    assert not isinstance(rig.train(1), Shortfall)
