"""Recordings for `explain` can be made with the present code, and read back."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from planted_faults import record, rounded
from planted_fleet import Plan
from ring_async.core.explain.explain import explain
from ring_async.core.explain.history import History
from ring_async.core.roster import Role


@pytest.mark.parametrize("settings", [{}, {"mode": "sync"}], ids=["async", "sync"])
def test_a_healthy_fleet_trains_and_its_recording_says_nothing(tmp_path: Path, settings: dict[str, str]):
    history = record(Plan(settings=settings), tmp_path, end_s=45.0)
    again = msgspec.json.decode(msgspec.json.encode(rounded(msgspec.to_builtins(history))), type=History)
    assert len(again.samples) == 6  # one every ten seconds, and one at the end
    assert len(again.steps) >= 2
    assert {one.role for one in again.samples[-1].actors} >= {Role.REPLAY, Role.LEARNER, Role.REWARD, Role.ROLLOUT}
    assert all(total > 0 for total, _ in again.samples[-1].scored.values())
    assert explain(again) == ()
