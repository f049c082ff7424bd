"""Real processes struck with signals: the command a person types, on a small run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from live_fleet import LOCAL, SMALL, cli

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

SEED = 11
NUM_STRIKES = 20


def test_nothing_is_lost_and_everything_recovers(tmp_path: Path) -> None:
    """CI's share of chaos; `make chaos` strikes for an hour."""
    done = cli(
        "chaos", str(LOCAL), *SMALL, "monitoring.heartbeat_timeout_s=8", "--seed", str(SEED),
        "--strikes", str(NUM_STRIKES), "--minutes", "30", "--runs", str(tmp_path), "--json", timeout_s=2400.0,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stderr}\n{done.stdout}"
    report = json.loads(done.stdout)
    assert report["tried"] == NUM_STRIKES
    assert (report["lost"], report["doubled"], report["orphans"], report["ending"]) == (0, 0, [], "")
    assert all(row["recovered"] == row["tried"] for row in report["rows"])
