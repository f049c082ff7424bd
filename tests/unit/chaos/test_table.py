"""The table of a chaos run, and when a run counts as good."""

from __future__ import annotations

import pytest

from ring_async.chaos.plan import Fault, Injection, Phase
from ring_async.chaos.table import ChaosReport, Strike
from ring_async.core.roster import Role


def strike(recovered_s, *bystanders, number=1):
    return Strike(Injection(number, Fault.KILL, (Role.REWARD,), Phase.WORK, 1.0), recovered_s, bystanders)


def test_strikes_of_one_kind_make_one_row():
    report = ChaosReport(7, [strike(1.0), strike(3.0, "rollout-0"), strike(None)])
    (row,) = report.rows()
    assert row == {
        "fault": "kill -9", "victims": "reward", "phase": "at work", "tried": 3, "recovered": 2,
        "bystanders_restarted": 1, "p50_s": 2.0, "p95_s": pytest.approx(2.9),
    }  # fmt: skip
    assert "| kill -9 | reward | at work | 3 | 2 | 1 | 2.0 | 2.9 |" in report.markdown()
    assert not report.is_good, "one did not recover"


def test_what_is_missing_and_what_is_doubled_are_told_apart():
    report = ChaosReport(7, [strike(1.0)])
    assert report.is_good
    report.violations = [
        ("a group lies in one shard", "g1", ""),
        ("carry loses no token", "g2/0", "tokens from 4 were never trained"),
        ("nothing acknowledged is missing", "g3", ""),
    ]
    assert (report.num_doubled, report.num_lost, report.is_good) == (1, 2, False)
    assert "Lost 2, doubled 1" in report.markdown()
    assert report.plain()["violations"][1]["detail"] == "tokens from 4 were never trained"


@pytest.mark.parametrize("flaw", [{"orphans": (17,)}, {"ending": "exit code 3"}])
def test_what_is_left_and_a_bad_end_count(flaw):
    assert not ChaosReport(7, [strike(1.0)], **flaw).is_good
