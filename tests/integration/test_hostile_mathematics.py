"""Answers made to keep the math verifier busy, judged in worker processes as in a run: each gets a verdict in time."""

import asyncio

import pytest

from tests.support.hostile_mathematics import hostile_answers, judge_all


@pytest.mark.timeout(180)
def test_every_hostile_answer_gets_a_verdict_within_its_deadline():
    failures, seconds = asyncio.run(judge_all(300, seed=11, num_workers=2))
    assert failures == []
    assert len(seconds) == 300


def test_a_seed_repeats_its_answers():
    assert list(hostile_answers(50, seed=3)) == list(hostile_answers(50, seed=3))
    assert list(hostile_answers(50, seed=3)) != list(hostile_answers(50, seed=4))
