"""Leases, owners, and what is issued again."""

from __future__ import annotations

from ring_async.core.work.leases import LeaseTable
from ring_async.types import Prompt, Reservation, SamplingParams
from work_counted import instructions


def make_reservation(group_id: str = "sum-0", *, lease_s: float = 10.0) -> Reservation:
    return Reservation(group_id, Prompt(group_id, "sum", "1 + 1 ="), 8, 7, SamplingParams(), 0, lease_s)


def test_a_group_is_open_until_complete():
    leases = LeaseTable()
    leases.issue(make_reservation(), "rollout-0", now_s=0.0)
    assert leases.is_open("sum-0")
    assert leases.complete("sum-0").owner == "rollout-0"
    assert leases.num_open == 0
    assert leases.complete("sum-0") is None


def test_leases_run_out_unless_renewed():
    leases = LeaseTable()
    leases.issue(make_reservation("sum-0"), "rollout-0", now_s=0.0)
    leases.issue(make_reservation("sum-1"), "rollout-0", now_s=0.0)
    assert leases.renew("rollout-0", ["sum-0"], now_s=8.0) == ()
    (late,) = leases.expire(now_s=11.0)
    assert (late.reservation.group_id, late.cause, late.is_failed) == ("sum-1", "lease_expired", False)
    assert leases.renew("rollout-0", ["sum-0", "sum-1"], now_s=12.0) == ("sum-1",)


def test_a_group_that_came_back_is_issued_again_before_anything_else_in_its_old_order():
    leases = LeaseTable()
    for index in range(3):
        leases.issue(make_reservation(f"sum-{index}"), "rollout-0", now_s=0.0)
    leases.owner_lost("rollout-0", "owner_lost")
    again = [leases.next_again() for _ in range(3)]
    assert [(reservation.group_id, attempt) for reservation, attempt in again] == [
        ("sum-0", 2),
        ("sum-1", 2),
        ("sum-2", 2),
    ]
    assert leases.next_again() is None


def test_only_the_present_owner_can_give_back():
    leases = LeaseTable()
    leases.issue(make_reservation(), "rollout-1", now_s=0.0)
    assert leases.give_back(["sum-0"], "late", owner="rollout-0") == []
    assert leases.is_open("sum-0")


def test_a_group_tried_too_often_is_failed_and_not_issued_again():
    leases = LeaseTable(max_attempts=2)
    leases.issue(make_reservation(), "rollout-0", now_s=0.0)
    assert [back.is_failed for back in leases.give_back(["sum-0"], "verifier:timeout")] == [False]
    reservation, attempt = leases.next_again()
    leases.issue(reservation, "rollout-0", now_s=1.0, attempt=attempt)
    assert [back.is_failed for back in leases.give_back(["sum-0"], "verifier:timeout")] == [True]
    assert leases.next_again() is None


def test_the_first_owners_copy_may_arrive_while_the_group_waits_to_be_issued_again():
    leases = LeaseTable()
    leases.issue(make_reservation(), "rollout-0", now_s=0.0)
    leases.owner_lost("rollout-0", "owner_lost")
    assert leases.complete("sum-0") is not None
    assert leases.next_again() is None


def test_a_reservation_issued_again_says_that_partial_responses_may_be_held():
    leases = LeaseTable()
    leases.issue(make_reservation(), "rollout-0", now_s=0.0)
    leases.owner_lost("rollout-0", "owner_lost")
    reservation, _ = leases.next_again()
    assert reservation.is_reissued
    leases.restore([make_reservation("sum-1")])
    assert leases.next_again()[0].is_reissued


def test_a_dropped_group_is_not_issued_again_and_only_its_owner_can_drop_it():
    leases = LeaseTable()
    leases.issue(make_reservation(), "rollout-1", now_s=0.0)
    assert leases.drop("sum-0", "rollout-0") is None
    assert leases.drop("sum-0", "rollout-1").group_id == "sum-0"
    assert (leases.num_open, leases.num_waiting, leases.drop("sum-0", "rollout-1")) == (0, 0, None)


def test_an_owner_keeps_the_groups_it_says_it_holds():
    leases = LeaseTable()
    for index, owner in enumerate(("rollout-0", "rollout-0", "rollout-1")):
        leases.issue(make_reservation(f"sum-{index}"), owner, now_s=0.0)
    assert leases.owners() == {"rollout-0", "rollout-1"}
    (missing,) = leases.keep_held("rollout-0", ("sum-1", "sum-2"), "not_held")
    assert (missing.reservation.group_id, missing.cause) == ("sum-0", "not_held")
    assert leases.renew("rollout-0", ["sum-1", "sum-2"], now_s=1.0) == ("sum-2",), "rollout-1's stays rollout-1's"
    assert leases.num_waiting == 1


def test_leases_do_not_run_out_while_renewals_cannot_be_read():
    leases = LeaseTable()
    leases.issue(make_reservation(lease_s=10.0), "rollout-0", now_s=0.0)
    leases.postpone(100.0)
    assert leases.expire(110.0) == []
    assert len(leases.expire(110.5)) == 1


def test_a_death_is_held_against_a_group_only_before_its_first_renewal():
    leases = LeaseTable()

    def issued_again(now_s: float) -> None:
        reservation, attempt = leases.next_again()
        leases.issue(reservation, "rollout-0", now_s, attempt)

    leases.issue(make_reservation(), "rollout-0", now_s=0.0)
    for second in range(1, 11):
        leases.renew("rollout-0", ["sum-0"], now_s=float(second))
        assert not leases.owner_lost("rollout-0", "owner_lost")[0].is_failed
        issued_again(float(second))
    for _ in range(2):
        assert not leases.owner_lost("rollout-0", "owner_lost")[0].is_failed
        issued_again(11.0)
    assert leases.owner_lost("rollout-0", "owner_lost")[0].is_failed, "the third death soon after the group came"


def test_what_one_group_costs_does_not_grow_with_those_that_are_open_or_wait():
    costs = []
    for num in (10, 500):
        leases = LeaseTable()
        leases.restore([make_reservation(f"again-{index}") for index in range(num)])
        for index in range(num):
            leases.issue(make_reservation(f"sum-{index}"), f"rollout-{index % 5}", now_s=0.0)
        leases.issue(make_reservation("one", lease_s=1.0), "rollout-x", now_s=0.0)

        def events(leases=leases):
            assert leases.complete("again-7").owner == ""
            assert leases.complete("sum-7").owner == "rollout-2"
            assert [back.reservation.group_id for back in leases.expire(2.0)] == ["one"]
            assert leases.owner_lost("nobody", "owner_lost") == []
            assert leases.num_held("rollout-2") in {1, 99}

        costs.append(instructions(events))
    assert costs[1] < 1.2 * costs[0]


def test_a_renewed_lease_ends_when_it_says():
    leases = LeaseTable()
    leases.issue(make_reservation(lease_s=10.0), "rollout-0", now_s=0.0)
    for now_s in (8.0, 16.0, 24.0):
        leases.renew("rollout-0", ["sum-0"], now_s)
        assert leases.expire(now_s + 9.0) == []
    assert leases.expire(34.0) == []
    assert [back.cause for back in leases.expire(34.5)] == ["lease_expired"]
    assert leases.expire(1_000.0) == []


def test_leases_that_are_withdrawn_again_and_again_leave_nothing_behind():
    leases = LeaseTable()
    for _ in range(5_000):
        leases.issue(make_reservation(), "rollout-0", now_s=0.0)
        leases.withdraw([make_reservation()])
        leases.next_again()
    leases.issue(make_reservation(lease_s=10.0), "rollout-0", now_s=0.0)
    assert len(leases._ends) < 2_000
    assert [one.reservation.group_id for one in leases.expire(11.0)] == ["sum-0"]
