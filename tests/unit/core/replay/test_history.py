"""How much of replay's past may be folded."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ring_async.core.replay.history import KEPT_PLANS, last_foldable


def foldable(**settings: Any) -> int:
    shared: dict[str, Any] = {"last_plan": 2_000, "covered": 1_990, "followed": math.inf, "max_staleness": 4}
    return last_foldable(**({"is_crowded": False} | shared | settings))


def test_the_newest_plans_stay_while_there_is_room() -> None:
    assert foldable() == 2_000 - KEPT_PLANS


def test_a_crowded_store_keeps_what_somebody_may_need() -> None:
    assert foldable(is_crowded=True) == 1_990 - 4 - 1


def test_a_young_run_folds_nothing() -> None:
    assert foldable(last_plan=20, covered=10) <= 0


@given(
    last_plan=st.integers(0, 5_000), lag=st.integers(0, 5_000), followed=st.integers(0, 5_000),
    max_staleness=st.integers(0, 50), is_crowded=st.booleans(),
)  # fmt: skip
def test_no_learner_no_shard_and_no_trajectory_needs_what_is_folded(
    last_plan: int, lag: int, followed: int, max_staleness: int, is_crowded: bool
) -> None:
    covered = max(0, last_plan - lag)
    found = last_foldable(
        last_plan=last_plan, covered=covered, followed=followed, max_staleness=max_staleness, is_crowded=is_crowded
    )
    assert found < max(1, covered)
    assert found <= followed
    assert found + max_staleness < max(1, last_plan)
