"""Who takes part in a broadcast, under every way of failing: events in, effects out."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ring_async.core.weights.broadcast_rounds import (
    BACKOFF_S,
    ENDING_S,
    AbortRound,
    BroadcastRounds,
    CancelRound,
    DropMember,
    OfferRound,
    Settled,
    StartRound,
)
from ring_async.types import PolicyVersion

GATE_S, ROUND_S, LOST_S = 5.0, 20.0, 3.0


def version(number: int) -> PolicyVersion:
    return PolicyVersion(0, number)


def make_rounds(*members: str) -> BroadcastRounds:
    rounds = BroadcastRounds(gate_s=GATE_S, round_s=ROUND_S, lost_s=LOST_S)
    for member in members:
        rounds.join(member, None, 0.0)
    return rounds


def finish(rounds: BroadcastRounds, number: int, *members: str, now_s: float = 0.0) -> list:
    for member in members:
        rounds.ready(number, member, now_s)
    rounds.sent(number, now_s)
    effects = []
    for member in members:
        effects = rounds.staged(number, member, now_s)
    return effects


def test_a_round_is_offered_gated_sent_and_settled():
    rounds = make_rounds("a", "b")
    assert rounds.publish(version(1), 0.0) == [OfferRound(1, version(1), ("a", "b"), 1, True)]
    assert rounds.ready(1, "a", 0.1) == []
    assert rounds.waiting_for == "gathering round 1: b"
    assert rounds.ready(1, "b", 0.2) == [StartRound(1)]
    assert rounds.staged(1, "b", 0.3) == []
    assert rounds.sent(1, 0.4) == []
    assert rounds.waiting_for == "sending round 1: a"
    assert rounds.staged(1, "a", 0.5) == [Settled()]
    assert rounds.waiting_for is None


def test_the_same_members_use_their_communicator_again():
    rounds = make_rounds("a", "b")
    rounds.publish(version(1), 0.0)
    finish(rounds, 1, "a", "b")
    assert rounds.publish(version(2), 1.0) == [OfferRound(2, version(2), ("a", "b"), 1, False)]


def test_without_members_a_version_settles_at_once():
    assert make_rounds().publish(version(1), 0.0) == [Settled()]


def test_a_late_joiner_gets_the_current_version_alone():
    rounds = make_rounds("a")
    rounds.publish(version(1), 0.0)
    finish(rounds, 1, "a")
    assert rounds.join("late", None, 1.0) == [OfferRound(2, version(1), ("late",), 2, True)]
    assert finish(rounds, 2, "late") == [Settled()]
    assert rounds.publish(version(2), 1.5) == [OfferRound(3, version(2), ("a", "late"), 3, True)]


def test_who_joins_during_a_round_takes_part_in_the_next():
    rounds = make_rounds("a")
    rounds.publish(version(1), 0.0)
    assert rounds.join("late", None, 0.1) == []
    assert finish(rounds, 1, "a") == [OfferRound(2, version(1), ("late",), 2, True)]


def test_who_holds_the_version_already_is_not_bothered():
    rounds = make_rounds()
    rounds.publish(version(1), 0.0)
    assert rounds.join("a", version(1), 0.1) == [Settled()]


def test_a_member_that_misses_the_gate_is_dropped_and_the_others_go_on():
    rounds = make_rounds("a", "b", "c")
    rounds.publish(version(1), 0.0)
    rounds.ready(1, "a", 0.1)
    rounds.ready(1, "c", 0.1)
    for member in ("a", "b", "c"):
        rounds.hear(member, GATE_S)
    assert rounds.tick(GATE_S) == []
    assert rounds.tick(GATE_S + 0.1) == [
        CancelRound(1, ("a", "b", "c")),
        DropMember("b", "not ready in time"),
        OfferRound(2, version(1), ("a", "c"), 2, True),
    ]


def test_a_member_that_falls_silent_in_mid_broadcast_is_dropped_after_lost_s():
    rounds = make_rounds("a", "b")
    rounds.publish(version(1), 0.0)
    rounds.ready(1, "a", 0.0)
    rounds.ready(1, "b", 0.0)
    rounds.hear("a", 3.0)
    assert rounds.tick(LOST_S + 0.1) == [AbortRound(1, ("a", "b"), "lost b"), DropMember("b", "not staged in time")]
    assert rounds.tick(LOST_S + 0.2) == []
    assert rounds.broken(1, "aborted", LOST_S + 0.3) == [OfferRound(2, version(1), ("a",), 2, True)]


def test_a_worker_that_does_not_let_go_is_abandoned():
    rounds = make_rounds("a")
    rounds.publish(version(1), 0.0)
    rounds.ready(1, "a", 0.0)
    now_s = LOST_S + 0.1
    rounds.tick(now_s)
    assert rounds.join("a", None, now_s) == []
    rounds.hear("a", now_s + ENDING_S)
    assert rounds.tick(now_s + ENDING_S + 0.1) == [OfferRound(2, version(1), ("a",), 2, True)]
    assert rounds.broken(1, "aborted", now_s + 60) == []


def test_a_round_that_takes_too_long_drops_whoever_has_not_staged():
    rounds = make_rounds("a", "b")
    rounds.publish(version(1), 0.0)
    rounds.ready(1, "a", 0.0)
    rounds.ready(1, "b", 0.0)
    rounds.staged(1, "a", 1.0)
    rounds.hear("a", ROUND_S)
    rounds.hear("b", ROUND_S)
    effects = rounds.tick(ROUND_S + 0.1)
    assert effects == [AbortRound(1, ("a", "b"), "lost b"), DropMember("b", "not staged in time")]
    assert rounds.broken(1, "aborted", ROUND_S + 0.2) == [Settled()]


def test_a_member_that_starts_anew_ends_the_round_of_its_former_life():
    rounds = make_rounds("a")
    rounds.publish(version(1), 0.0)
    rounds.ready(1, "a", 0.0)
    assert rounds.join("a", None, 0.5) == [AbortRound(1, ("a",), "a started anew")]
    assert rounds.broken(1, "aborted", 0.6) == [OfferRound(2, version(1), ("a",), 2, True)]


def test_an_error_of_the_senders_own_work_leads_to_another_round():
    rounds = make_rounds("a")
    rounds.publish(version(1), 0.0)
    rounds.ready(1, "a", 0.0)
    assert rounds.broken(1, "unhandled cuda error", 0.1) == [AbortRound(1, ("a",), "unhandled cuda error")]
    assert rounds.tick(0.1 + BACKOFF_S / 2) == []
    assert rounds.tick(0.1 + BACKOFF_S) == [OfferRound(2, version(1), ("a",), 2, True)]


def test_a_member_that_fails_does_not_keep_the_version_from_the_others():
    rounds = make_rounds("a", "b")
    rounds.publish(version(1), 0.0)
    assert rounds.failed(1, "b", "no memory", 0.1) == [
        CancelRound(1, ("a", "b")),
        OfferRound(2, version(1), ("a",), 2, True),
    ]
    assert finish(rounds, 2, "a", now_s=0.2) == [Settled()]
    assert rounds.tick(0.1 + BACKOFF_S) == [OfferRound(3, version(1), ("b",), 3, True)]


def test_pauses_double_with_every_failure_and_end_with_success():
    rounds = make_rounds("a")
    rounds.publish(version(1), 0.0)
    now_s = 0.0
    for number, pause in enumerate((1, 2, 4, 8), start=1):
        rounds.failed(number, "a", "no memory", now_s)
        rounds.hear("a", now_s + pause * BACKOFF_S)
        assert rounds.tick(now_s + 0.99 * pause * BACKOFF_S) == [Settled()]
        now_s += pause * BACKOFF_S
        assert any(isinstance(effect, OfferRound) for effect in rounds.tick(now_s))
    finish(rounds, 5, "a", now_s=now_s)
    assert rounds.publish(version(2), now_s) == [OfferRound(6, version(2), ("a",), 5, False)]


def test_without_a_current_version_the_round_ends_and_none_follows():
    rounds = make_rounds("a")
    rounds.publish(version(1), 0.0)
    assert rounds.publish(None, 0.1) == []
    assert finish(rounds, 1, "a") == [Settled()]
    assert rounds.join("b", None, 0.2) == [Settled()]


def test_leaving_at_the_gate_cancels_the_round():
    rounds = make_rounds("a", "b")
    rounds.publish(version(1), 0.0)
    assert rounds.leave("b", 0.1) == [
        CancelRound(1, ("a", "b")),
        DropMember("b", "left"),
        OfferRound(2, version(1), ("a",), 2, True),
    ]


@pytest.mark.parametrize("event", ["ready", "staged", "failed"])
def test_words_about_another_round_are_ignored(event):
    rounds = make_rounds("a")
    rounds.publish(version(1), 0.0)
    arguments = (7, "a", "late", 0.1) if event == "failed" else (7, "a", 0.1)
    assert getattr(rounds, event)(*arguments) == []


def test_a_stranger_is_told_to_join():
    assert not make_rounds("a").hear("b", 0.0)


events = st.lists(
    st.tuples(
        st.sampled_from(["join", "leave", "hear", "publish", "ready", "staged", "failed", "sent", "broken", "tick"]),
        st.sampled_from(["a", "b", "c"]),
        st.floats(0.0, 8.0),
    ),
    max_size=60,
)


@example([("join", "a", 0.0), ("publish", "a", 0.0), ("failed", "a", 0.0)])
@given(events)
def test_no_order_of_events_wedges_it(drawn):
    """After any history, members that behave get the version; rounds and new communicators are numbered upwards."""
    rounds = BroadcastRounds(gate_s=GATE_S, round_s=ROUND_S, lost_s=LOST_S)
    now_s = 0.0
    number, communicator, published = 0, 0, 0
    for kind, member, delay_s in drawn:
        now_s += delay_s
        match kind:
            case "join":
                effects = rounds.join(member, None, now_s)
            case "leave":
                effects = rounds.leave(member, now_s)
            case "hear":
                effects = []
                rounds.hear(member, now_s)
            case "publish":
                published += 1
                effects = rounds.publish(version(published), now_s)
            case "failed":
                effects = rounds.failed(number, member, "why", now_s)
            case "sent" | "tick":
                effects = rounds.tick(now_s) if kind == "tick" else rounds.sent(number, now_s)
            case "broken":
                effects = rounds.broken(number, "why", now_s)
            case _:
                effects = getattr(rounds, kind)(number, member, now_s)
        for effect in effects:
            if isinstance(effect, OfferRound):
                assert effect.round > number
                assert (effect.communicator > communicator) == effect.is_new_communicator
                number, communicator = effect.round, effect.communicator
    rounds.publish(version(published + 1), now_s)
    effects = rounds.join("good", None, now_s)
    for _ in range(100):
        now_s += 1.0
        rounds.hear("good", now_s)
        for effect in effects:
            if isinstance(effect, OfferRound) and effect.members == ("good",):
                rounds.ready(effect.round, "good", now_s)
                rounds.sent(effect.round, now_s)
                (after,) = rounds.staged(effect.round, "good", now_s)
                assert after == Settled() or (isinstance(after, OfferRound) and "good" not in after.members)
                return
        effects = rounds.tick(now_s)
    pytest.fail(f"never offered to the one that lives: {rounds.waiting_for}")
