"""The bound on unfinished responses: never one that could still be trained, always one that could not."""

from __future__ import annotations

import pytest

from ring_async.core.work.retention import Retention
from ring_async.types import PolicyVersion


def version(number: int) -> PolicyVersion:
    return PolicyVersion(0, number)


@pytest.mark.parametrize(("max_staleness", "first_overdue"), [(4, 8), (1, 5), (0, 4), (None, None)])
def test_a_response_is_overdue_from_the_first_version_that_could_not_train_it(
    max_staleness: int | None, first_overdue: int | None
) -> None:
    retention = Retention(max_staleness)
    assert retention.goes_on("g/0", version(3), version(3))
    overdue = [number for number in range(3, 12) if retention.overdue(version(number))]
    assert overdue == ([] if first_overdue is None else list(range(first_overdue, 12)))


def test_those_that_ended_or_began_anew_are_not_overdue() -> None:
    retention = Retention(1)
    for index in range(3):
        retention.goes_on(f"g/{index}", version(0), version(0))
    retention.end("g/0")
    retention.goes_on("g/1", version(5), version(5))
    assert retention.overdue(version(5)) == ("g/2",)


def test_a_response_is_given_up_once_and_then_carried_to_its_end() -> None:
    retention = Retention(1)
    assert retention.goes_on("g/0", version(0), version(0))
    assert retention.overdue(version(2)) == ("g/0",)
    assert not retention.goes_on("g/0", version(0), version(2))
    assert retention.overdue(version(9)) == ()
    assert retention.goes_on("g/0", version(2), version(9))
    retention.end("g/0")
    assert not retention.goes_on("g/0", version(0), version(2)), "another response of that name"
