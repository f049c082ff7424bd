"""A real fleet whose controller is killed with signal 9: the other processes go on, and the run ends as it should."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from live_fleet import LOCAL, SMALL, LiveFleet, cli, fleet
from ring_async.storage.audit import audit
from ring_async.training.checkpoint import CheckpointStore

NAME = "orphans"
OTHERS = ("learner-0", "replay-0", "reward-0", "rollout-0")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_fleet_goes_on_without_its_controller_and_ends_on_hangup(tmp_path: Path):
    """Over tcp: the successor must listen at the port that the others know."""
    with fleet(tmp_path, NAME, "stop.policy_versions=100000", "transport.kind=tcp") as live:
        live.wait_version(3, timeout_s=300.0)
        before = {actor_id: live.pid_of(actor_id) for actor_id in OTHERS}
        addresses = addresses_of(live)
        for _ in range(2):
            print(f"two versions after {kill_controller(live):.1f} s from the kill")
        assert {actor_id: live.pid_of(actor_id) for actor_id in OTHERS} == before
        assert addresses_of(live) == addresses, "people and Prometheus know the old ones"
        assert not live.events("actor_lost")
        steps = live.steps()
        assert [step["policy_version"] for step in steps] == list(range(1, len(steps) + 1))
        assert {step["incarnation"] for step in steps} == {0}

        second = cli("up", str(LOCAL), f"run.name={NAME}", f"run.dir={tmp_path}", *SMALL, "--resume", timeout_s=300.0)
        assert second.returncode == 1
        assert "is up already" in second.stderr

        live.process.send_signal(signal.SIGHUP)
        assert live.wait_end(300.0) == 0, live.output()
    outcome = json.loads(live.run_dir.outcome.read_text())
    assert outcome["failure"] == ""
    assert outcome["killed"] == []
    last = live.steps()[-1]["policy_version"]
    assert CheckpointStore(live.run_dir.checkpoints).read(Path(outcome["checkpoint"])).policy_version.number == last
    report = audit(live.run_dir.path)
    assert report.is_clean, report.to_text()


def addresses_of(live: LiveFleet) -> dict[str, str]:
    endpoints = live.run_dir.read_endpoints()
    return {key: endpoints[key] for key in ("api", "token", "control")}


def kill_controller(live: LiveFleet) -> float:
    """Kill the controller; returns the seconds until its successor has written a line that is two versions newer."""
    number = live.steps()[-1]["policy_version"]
    began_s = time.monotonic()
    live.kill("controller-0")
    live.wait_version(number + 2, timeout_s=300.0)
    return time.monotonic() - began_s
