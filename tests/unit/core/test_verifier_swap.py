"""The life of a swap: each event in each state, and what holds whatever the order of events."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ring_async.core.verifier_swap import (
    ActorLost,
    Approved,
    CalledOff,
    CommitDurable,
    CommitDurably,
    CommitFailed,
    CommitTold,
    CountShadow,
    Discard,
    Effect,
    Event,
    Prepare,
    Prepared,
    PrepareRefused,
    RecordAbort,
    RecordCommit,
    ShadowCounted,
    ShadowCounts,
    Swap,
    SwapState,
    TellCommit,
)
from ring_async.errors import RefusedError
from ring_async.types import VerifierInForce

BEFORE = VerifierInForce("math", "module:Old", {}, epoch=2, version="v1")
AFTER = VerifierInForce("math", "module:New", {}, epoch=3)
BUILT = msgspec.structs.replace(AFTER, version="v2")
ACTORS = ("reward-0", "reward-1")


def make_swap(**how: Any) -> Swap:
    return Swap("math-3", AFTER, BEFORE, author="ada", **how)


def both_prepared(**how: Any) -> tuple[Swap, list[Effect]]:
    """A swap after both reward actors have prepared: they began at 10 s, and the last was ready at 12 s."""
    swap = make_swap(**how)
    swap.begin(ACTORS, 10.0)
    assert swap.handle(Prepared("reward-0", "v2", 4), 11.0) == []
    return swap, swap.handle(Prepared("reward-1", "v2", 4), 12.0)


def test_a_swap_without_shadow_is_prepared_committed_and_told():
    swap = make_swap(rescore=True)
    assert swap.begin(ACTORS, 10.0) == [Prepare(actor_id, AFTER, is_shadow=False) for actor_id in ACTORS]
    assert swap.handle(Prepared("reward-0", "v2", 4), 11.0) == []
    assert swap.state is SwapState.PREPARING
    assert swap.handle(Prepared("reward-1", "v2", 4), 12.0) == [CommitDurably(BUILT, rescore=True, is_rollback=False)]
    assert (swap.state, swap.num_cases, swap.prepare_s) == (SwapState.COMMITTING, 4, 2.0)
    assert swap.handle(CommitDurable(), 12.5) == [TellCommit(BUILT)]
    assert swap.handle(CommitTold(), 13.0) == [RecordCommit()]
    assert (swap.state, swap.commit_s, swap.reason) == (SwapState.COMMITTED, 1.0, "")


def test_a_shadow_counts_until_enough_was_judged_by_both():
    swap, effects = both_prepared(shadow=20)
    assert effects == [CountShadow(3)]
    assert swap.handle(ShadowCounted(ShadowCounts(num_trajectories=19)), 13.0) == [CountShadow(3)]
    assert swap.state is SwapState.SHADOWING
    enough = ShadowCounts(num_trajectories=20, num_agreed=18)
    assert swap.handle(ShadowCounted(enough), 14.0) == [CommitDurably(BUILT, rescore=False, is_rollback=False)]
    assert swap.report == enough


def test_a_held_swap_waits_for_a_person():
    swap, effects = both_prepared(is_held=True)
    assert (effects, swap.state) == ([], SwapState.HELD)
    assert swap.handle(Approved(), 90.0) == [CommitDurably(BUILT, rescore=False, is_rollback=False)]
    assert swap.handle(CommitDurable(), 90.5) == [TellCommit(BUILT)]
    assert swap.handle(CommitTold(), 91.0) == [RecordCommit()]
    assert swap.commit_s == 1.0, "the wait for the person is not the commit's"


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([PrepareRefused("reward-0", "golden case 0")], "golden case 0"),
        ([Prepared("reward-0", "v2", 4), PrepareRefused("reward-1", "no answer")], "no answer"),
        ([ActorLost("reward-0"), ActorLost("reward-1")], "no reward actor is there to prepare it"),
        (
            [Prepared("reward-0", "v2", 4), Prepared("reward-1", "v3", 4)],
            "reward actors see different code: versions v2, v3",
        ),
        ([Prepared("reward-0", "v1", 4), Prepared("reward-1", "v1", 4)], "version v1 is in force already"),
        ([CalledOff(), Prepared("reward-0", "v2", 4), ActorLost("reward-1")], "called off"),
    ],
)
def test_what_aborts_while_it_prepares(events: list[Event], reason: str):
    swap = make_swap()
    swap.begin(ACTORS, 0.0)
    effects = [effect for event in events for effect in swap.handle(event, 1.0)]
    assert effects == [RecordAbort(reason), Discard(3)]
    assert (swap.state, swap.reason) == (SwapState.ABORTED, reason)


def test_one_that_dies_while_it_prepares_does_not_stop_the_others():
    swap = make_swap()
    swap.begin(ACTORS, 0.0)
    assert swap.handle(ActorLost("reward-0"), 1.0) == []
    assert swap.handle(Prepared("reward-1", "v2", 4), 2.0) == [CommitDurably(BUILT, rescore=False, is_rollback=False)]


def test_without_reward_actors_nothing_can_be_prepared():
    assert make_swap().begin([], 0.0) == [RecordAbort("no reward actor is there to prepare it"), Discard(3)]


def test_a_rollback_may_lead_to_the_version_in_force():
    swap = make_swap(is_rollback=True, cause="it crashed")
    swap.begin(["reward-0"], 0.0)
    effects = swap.handle(Prepared("reward-0", "v1", 4), 1.0)
    assert effects == [CommitDurably(msgspec.structs.replace(AFTER, version="v1"), rescore=False, is_rollback=True)]


@pytest.mark.parametrize(
    ("num_failed", "num_groups", "is_aborted"), [(7, 7, False), (8, 16, False), (8, 15, True), (9, 9, True)]
)
def test_a_shadow_that_mostly_fails_is_aborted(num_failed: int, num_groups: int, is_aborted: bool):
    swap, _ = both_prepared(shadow=1000)
    counts = ShadowCounts(num_trajectories=4, num_groups=num_groups, failures={"crash": num_failed})
    effects = swap.handle(ShadowCounted(counts), 13.0)
    reason = f"it could not judge {num_failed} of {num_groups} groups ({num_failed} crash)"
    assert effects == ([RecordAbort(reason), Discard(3)] if is_aborted else [CountShadow(3)])


@pytest.mark.parametrize("how", [{"shadow": 5}, {"is_held": True}])
def test_a_person_can_call_off_what_is_compared_or_held(how: dict[str, Any]):
    swap, _ = both_prepared(**how)
    assert swap.handle(CalledOff(), 13.0) == [RecordAbort("called off"), Discard(3)]
    assert swap.handle(ShadowCounted(ShadowCounts(num_trajectories=5)), 14.0) == []
    assert swap.state is SwapState.ABORTED


def test_a_commit_that_is_not_durable_aborts():
    swap, _ = both_prepared()
    assert swap.handle(CommitFailed("disk full"), 13.0) == [RecordAbort("disk full"), Discard(3)]


@pytest.mark.parametrize("word", [Approved(), CalledOff()])
def test_a_word_that_comes_too_late_is_refused(word: Event):
    swap, _ = both_prepared()
    with pytest.raises(RefusedError, match="swap math-3 is committing"):
        swap.handle(word, 13.0)
    swap.handle(CommitFailed("disk full"), 14.0)
    with pytest.raises(RefusedError, match=r"swap math-3 is aborted \(disk full\)"):
        swap.handle(word, 15.0)


@pytest.mark.parametrize("how", [{}, {"shadow": 5}])
def test_only_a_held_swap_can_be_approved(how: dict[str, Any]):
    swap = make_swap(**how)
    swap.begin(ACTORS, 0.0)
    with pytest.raises(RefusedError, match="swap math-3 is preparing; it can be committed once it is held"):
        swap.handle(Approved(), 1.0)


def test_counts_add_up():
    first = ShadowCounts(4, 3, 1.0, 2.0, 0.5, 0.25, 1, {"crash": 1})
    second = ShadowCounts(2, 2, 2.0, 2.0, 0.5, 0.25, 2, {"crash": 1, "timeout": 3})
    assert first + second == ShadowCounts(6, 5, 3.0, 4.0, 1.0, 0.5, 3, {"crash": 2, "timeout": 3})


actors = st.sampled_from(ACTORS)
counts = st.builds(
    ShadowCounts,
    num_trajectories=st.integers(0, 40),
    num_groups=st.integers(0, 20),
    failures=st.dictionaries(st.sampled_from(["crash", "timeout"]), st.integers(0, 20)),
)
events = st.one_of(
    st.builds(Prepared, actors, st.sampled_from(["v1", "v2", "v3"]), st.just(4)),
    st.builds(PrepareRefused, actors, st.just("it cannot")),
    st.builds(ActorLost, actors),
    st.builds(ShadowCounted, counts),
    st.just(Approved()),
    st.just(CalledOff()),
    st.just(CommitDurable()),
    st.builds(CommitFailed, st.just("disk full")),
    st.just(CommitTold()),
)


@given(
    st.lists(events, max_size=30),
    st.integers(0, 30),
    st.booleans(),
    st.booleans(),
    st.sampled_from([ACTORS, (), ACTORS[:1]]),
)
def test_whatever_happens_in_whatever_order(
    happened: list[Event], shadow: int, is_held: bool, is_rollback: bool, there: tuple[str, ...]
):
    swap = make_swap(shadow=shadow, is_held=is_held, is_rollback=is_rollback)
    effects: list[Effect] = swap.begin(there, 0.0)
    words: list[Event] = []
    for now_s, event in enumerate(happened, 1):
        state = swap.state
        try:
            asked = swap.handle(event, float(now_s))
        except RefusedError:
            assert isinstance(event, Approved | CalledOff)
            assert swap.state is state
            continue
        words += [event] if isinstance(event, Approved | CalledOff) else []
        assert not (state.is_end and asked), "a swap that has ended asks for nothing"
        assert not state.is_end or swap.state is state, "a swap that has ended never moves again"
        effects += asked
    commits = [effect for effect in effects if isinstance(effect, CommitDurably)]
    assert len(commits) <= 1
    if commits:
        assert commits[0].verifier.version == swap.verifier.version != ""
        assert CalledOff() not in words, "a swap that was called off is never committed"
        assert (Approved() in words) or not is_held, "a held swap is committed by a person alone"
        assert swap.report.num_trajectories >= shadow
    is_aborted = swap.state is SwapState.ABORTED
    assert [e for e in effects if isinstance(e, RecordAbort | Discard)] == (
        [RecordAbort(swap.reason), Discard(3)] if is_aborted else []
    )
    assert (RecordCommit() in effects) == (swap.state is SwapState.COMMITTED)
    assert bool(swap.reason) == (is_aborted or (CalledOff() in words and swap.state is SwapState.PREPARING))
