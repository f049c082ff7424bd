"""Faults begin, and end as they began."""

from __future__ import annotations

import time

import pytest

from ring_async.errors import VerifierError
from ring_async.testing.builders import make_prompt
from ring_async.testing.chaos.faults import WallClock
from ring_async.testing.chaos.moody import Mood, Moody, in_mood
from ring_async.testing.virtual_clock import run_virtual
from ring_async.verifiers.base import Response
from ring_async.verifiers.scoring import score_one


def judge(text: str) -> float:
    return run_virtual(score_one(Moody("exact"), make_prompt(), Response(text), timeout_s=2.0)).reward


def test_an_honest_verifier_answers_and_each_mood_is_told():
    assert (judge("1 1"), judge("1 2")) == (1.0, 0.0)
    for mood, text, cause in [
        (Mood.HANGS, "1", "timeout"), (Mood.CRASHES, "1", "crash"), (Mood.LIES, "0", "non_finite"),
        (Mood.LIES, "2", "out_of_bounds"), (Mood.LIES, "3", "bad_verdict"),
    ]:  # fmt: skip
        with in_mood("exact", mood), pytest.raises(VerifierError) as failure:
            judge(text)
        assert failure.value.cause == cause
        with in_mood("another", mood):
            assert judge("1 1") == 1.0
    assert judge("1 1") == 1.0


def test_the_wall_clock_is_set_and_put_right_again():
    real, clock = time.time, WallClock()
    try:
        before = time.time()
        clock.step(3600.0)
        assert time.time() - before >= 3600.0
        clock.step(-7200.0)
        assert time.time() < before
    finally:
        clock.close()
    assert time.time is real
