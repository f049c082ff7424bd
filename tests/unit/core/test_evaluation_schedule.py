"""Which versions are evaluated."""

from __future__ import annotations

import pytest

from ring_async.core.evaluation_schedule import EvaluationSchedule
from ring_async.types import PolicyVersion


def due(every: int, *versions: tuple[int, int]) -> list[int]:
    schedule = EvaluationSchedule(every)
    return [number for incarnation, number in versions if schedule.is_due(PolicyVersion(incarnation, number))]


def test_the_start_and_every_nth_version():
    assert due(3, *((0, number) for number in range(11))) == [0, 3, 6, 9]
    assert due(1, *((0, number) for number in range(4))) == [0, 1, 2, 3]


def test_a_multiple_that_was_not_heard_of_is_made_up_for_by_the_next():
    assert due(10, (0, 4), (0, 9), (0, 12), (0, 19), (0, 45)) == [4, 12, 45]


def test_what_was_heard_before_is_not_due_again():
    assert due(5, (0, 10), (0, 10), (0, 5), (0, 11)) == [10]


def test_a_new_lineage_passes_multiples_of_its_own():
    assert due(10, (0, 38), (0, 55), (1, 41), (1, 49), (1, 50), (1, 51), (2, 40)) == [38, 55, 50, 40]


@pytest.mark.parametrize(("heard", "number"), [((), 0), (((0, 0),), 10), (((0, 19),), 20), (((0, 20),), 30)])
def test_the_next_one_is_known(heard: tuple[tuple[int, int], ...], number: int):
    schedule = EvaluationSchedule(10)
    for version in heard:
        schedule.is_due(PolicyVersion(*version))
    assert schedule.next_number == number
