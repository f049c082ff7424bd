"""The table of a chaos run, and when a run counts as good."""

from __future__ import annotations

import pytest

from ring_async.chaos.table import ChaosReport, Strike, append_strikes, read_strikes, rows_of
from ring_async.core.replay.plan_log import Violation


def strike(recovered_s, *bystanders, lost=0, doubled=0):
    return Strike("kill -9", "reward", "at work", recovered_s, bystanders, lost, doubled)


def test_strikes_of_one_kind_make_one_row():
    report = ChaosReport(7, [strike(1.0), strike(3.0, "rollout-0", lost=2), strike(None, doubled=1)])
    (row,) = rows_of(report.strikes)
    assert row == {
        "fault": "kill -9", "victims": "reward", "phase": "at work", "tried": 3, "recovered": 2,
        "lost": 2, "doubled": 1, "bystanders_restarted": 1, "p50_s": 2.0, "p95_s": pytest.approx(2.9),
    }  # fmt: skip
    assert "| kill -9 | reward | at work | 3 | 2 | 2 | 1 | 1 | 2.0 | 2.9 |" in report.markdown()
    assert not report.is_good, "one did not recover"


def test_what_is_missing_and_what_is_doubled_are_told_apart():
    report = ChaosReport(7, [strike(1.0)])
    assert report.is_good
    report.violations = [
        Violation("a group lies in one shard", "g1", ""),
        Violation("carry loses no token", "g2/0", "tokens from 4 were never trained"),
        Violation("nothing acknowledged is missing", "g3", ""),
    ]
    assert (report.num_doubled, report.num_lost, report.is_good) == (1, 2, False)
    assert "Lost 2, doubled 1" in report.markdown()
    assert report.plain()["violations"][1]["detail"] == "tokens from 4 were never trained"


@pytest.mark.parametrize("flaw", [{"orphans": (17,)}, {"ending": "exit code 3"}])
def test_what_is_left_and_a_bad_end_count(flaw):
    assert not ChaosReport(7, [strike(1.0)], **flaw).is_good


def test_strikes_of_several_runs_add_up_in_one_file(tmp_path):
    path = tmp_path / "parts" / "strikes.jsonl"
    assert read_strikes(path) == []
    append_strikes(path, [strike(1.0, "rollout-0")])
    append_strikes(path, [strike(None), strike(2.0, lost=1)])
    assert read_strikes(path) == [strike(1.0, "rollout-0"), strike(None), strike(2.0, lost=1)]
