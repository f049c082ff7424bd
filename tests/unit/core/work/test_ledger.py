"""The account of every trajectory."""

import pytest

from ring_async.core.work.ledger import Ledger, LedgerError
from ring_async.core.work.ledger_records import GroupReissued, GroupReserved, GroupReturned, Noted, StatesMoved
from ring_async.core.work.portions import in_portions
from ring_async.testing.builders import make_reservation
from ring_async.trajectory_states import TrajectoryState


def make_ledger(num_groups=1, group_size=2):
    ledger = Ledger()
    for number in range(num_groups):
        ledger.apply(GroupReserved(make_reservation(f"g{number}", group_size=group_size), "rollout-0"))
    return ledger


def move(ledger, trajectory_id, *states, cause=""):
    for state in states:
        applied = ledger.apply(StatesMoved((TrajectoryState(trajectory_id, state, cause, 4),)))
    ledger.check()
    return applied


def test_a_trajectory_is_in_one_state_at_a_time():
    ledger = make_ledger(2)
    assert ledger.counts()["reserved"] == ledger.counts()["generating"] == 4
    move(ledger, "g0/0", "generated", "scored", "buffered", "consumed", "consumed", "retired")
    move(ledger, "g0/1", "buffered")
    counts = ledger.counts()
    assert (counts["generating"], counts["buffered"], counts["retired"], counts["reserved"]) == (2, 1, 1, 4)
    assert ledger.state_of("g0/0") == "retired"
    assert ledger.state_of("g9/0") is None


def test_repeats_and_late_messages_change_nothing():
    ledger = make_ledger()
    move(ledger, "g0/0", "buffered", "consumed")
    before = ledger.snapshot()
    for late in ("generated", "scored", "buffered", "consumed"):
        assert move(ledger, "g0/0", late).moved == ()
    ledger.apply(GroupReserved(make_reservation("g0"), "rollout-1"))
    assert ledger.snapshot() == before


def test_a_group_ends_with_its_last_trajectory():
    ledger = make_ledger()
    assert move(ledger, "g0/0", "dropped", cause="no_signal").ended_groups == ()
    assert move(ledger, "g0/1", "dropped", cause="no_signal").ended_groups == ("g0",)
    assert not ledger.live
    assert ledger.causes() == {"dropped(no_signal)": 2}
    assert move(ledger, "g0/1", "buffered").moved == ()


@pytest.mark.parametrize(("first", "second"), [("evicted", "retired"), ("dropped", "evicted"), ("retired", "failed")])
def test_one_end_is_final(first, second):
    ledger = make_ledger()
    move(ledger, "g0/0", "buffered", first)
    before = ledger.snapshot()
    with pytest.raises(LedgerError, match=f"g0/0: {first} cannot become {second}"):
        move(ledger, "g0/0", second)
    assert ledger.snapshot() == before


def test_nothing_retires_that_was_never_buffered():
    with pytest.raises(LedgerError, match="generating cannot become retired"):
        move(make_ledger(), "g0/0", "retired")


def test_what_was_counted_failed_may_arrive_after_all():
    ledger = make_ledger()
    ledger.apply(GroupReturned("g0", "lease_expired"))
    assert ledger.counts()["failed"] == 2
    move(ledger, "g0/1", "buffered")
    counts = ledger.counts()
    assert (counts["failed"], counts["buffered"], counts["reserved"]) == (1, 1, 2)


def test_returning_a_group_spares_what_is_durable():
    ledger = make_ledger(group_size=3)
    move(ledger, "g0/1", "buffered")
    ledger.apply(GroupReturned("g0", "owner_lost"))
    assert [ledger.state_of(f"g0/{k}") for k in range(3)] == ["failed", "buffered", "failed"]
    assert ledger.causes() == {"failed(owner_lost)": 2}


def test_a_reissued_group_has_a_new_owner_and_the_same_account():
    ledger = make_ledger()
    ledger.apply(GroupReissued("g0", "rollout-7"))
    assert ledger.live["g0"].owner == "rollout-7"
    assert ledger.counts()["reissued"] == 1
    ledger.check()


def test_what_only_replay_knows_is_adopted_and_counted():
    ledger = make_ledger(0)
    move(ledger, "stray/1", "buffered")
    assert (ledger.counts()["adopted"], ledger.counts()["reserved"]) == (2, 2)


def test_a_snapshot_is_the_whole_ledger():
    ledger = make_ledger(3)
    move(ledger, "g0/0", "buffered", "evicted", cause="stale")
    ledger.apply(GroupReturned("g1", "verifier:timeout"))
    ledger.apply(Noted("cursor", {"sums": 3}))
    copy = Ledger()
    copy.apply(ledger.snapshot())
    assert copy.snapshot() == ledger.snapshot()
    move(copy, "g0/1", "buffered")


def test_the_check_finds_a_wrong_count():
    ledger = make_ledger()
    ledger._counts["generating"] += 1
    with pytest.raises(LedgerError, match="add up to 3"):
        ledger.check()


@pytest.mark.parametrize("bad", ["g0", "g0/", "g0/x", "/1x"])
def test_a_state_of_a_malformed_id_is_refused(bad):
    with pytest.raises(LedgerError, match="not of the form group/index"):
        make_ledger().apply(StatesMoved((TrajectoryState(bad, "buffered"),)))


def test_portions_are_bounded_and_keep_the_states_of_a_group_together():
    states = [TrajectoryState(f"g{n // 3}/{n % 3}", "buffered") for n in range(7_000)]
    portions = in_portions(states)
    assert [state for portion in portions for state in portion] == states
    assert [len(portion) for portion in portions] == [2_049, 2_049, 2_049, 853]
    assert in_portions([]) == []


def test_the_cause_of_a_failure_counts_no_more_once_the_group_arrives_after_all():
    ledger = make_ledger()
    ledger.apply(GroupReturned("g0", "lease_expired"))
    assert ledger.causes() == {"failed(lease_expired)": 2}
    restored = Ledger()
    restored.apply(ledger.snapshot())
    for one in (ledger, restored):
        move(one, "g0/0", "buffered", "consumed", "retired")
        assert one.causes() == {"failed(lease_expired)": 1, "retired": 1}


def test_a_refused_prompt_is_dropped_not_failed():
    ledger = make_ledger()
    ledger.apply(GroupReturned("g0", "prompt_refused", is_dropped=True))
    assert ledger.counts()["dropped"] == 2
    assert ledger.causes() == {"dropped(prompt_refused)": 2}


def test_a_late_word_of_a_group_that_ended_long_ago_is_no_news(monkeypatch):
    monkeypatch.setattr("ring_async.core.work.ended_groups.MAX_REMEMBERED_GROUPS", 3)
    ledger = Ledger()
    for number in range(5):
        ledger.apply(GroupReserved(make_reservation(f"sums-{number:08d}", group_size=1), "rollout-0"))
        move(ledger, f"sums-{number:08d}/0", "buffered", "consumed", "retired")
    restored = Ledger()
    restored.apply(ledger.snapshot())
    for one in (ledger, restored):
        before = one.counts()
        assert move(one, "sums-00000000/0", "buffered").moved == ()
        assert one.counts() == before
        move(one, "sums-00000007/0", "buffered")  # replay knows a group that the journal never held
        assert one.counts()["adopted"] == 1


def proven_ledger(num_groups):
    ledger = make_ledger(num_groups)
    ledger.check_changes()
    return ledger


def test_a_proof_of_what_changed_looks_at_what_was_touched_alone():
    for num_groups in (10, 500):
        ledger = proven_ledger(num_groups)
        assert ledger.check_changes() == 0
        ledger.apply(StatesMoved((TrajectoryState("g3/0", "buffered"), TrajectoryState("g3/1", "buffered"))))
        ledger.apply(GroupReturned("g4", "lease_expired"))
        assert ledger.check_changes() == 2
    ledger.check()


def test_a_proof_of_what_changed_finds_a_miscount():
    ledger = proven_ledger(10)
    ledger.apply(GroupReturned("g4", "lease_expired"))
    ledger._counts["generating"] += 1
    ledger._counts["failed"] -= 1
    with pytest.raises(LedgerError, match=r"\d+ trajectories counted generating, but \d+ are"):
        ledger.check_changes()


def test_a_restored_ledger_is_proven_from_nothing():
    ledger = proven_ledger(10)
    again = Ledger()
    for record in ledger.snapshot_in_parts():
        again.apply(record)
    assert again.check_changes() == 10
    again._counts["generating"] += 1
    again._num_reserved += 1
    with pytest.raises(LedgerError):
        again.check()
