"""Thousands of faults under the virtual clock: the command that a person types, on all of its seeds."""

from __future__ import annotations

import subprocess
import sys

import pytest

from live_fleet import ROOT

NUM_FAULTS = 2000


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_nothing_is_lost_and_everything_recovers() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ring_async.testing.chaos"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    print(done.stdout)
    assert done.returncode == 0, f"{done.stderr}\n{done.stdout}"
    assert f"{NUM_FAULTS:,} faults in 100 runs" in done.stdout
    assert "lost 0, doubled 0" in done.stdout
