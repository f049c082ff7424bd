"""A reward actor that is killed takes its scoring workers and sandboxes along."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ACTOR = """
import asyncio, sys, time
from ring_async.config.schema import VerifierSection
from ring_async.types import Prompt
from ring_async.verifiers.base import Response
from ring_async.verifiers.registry import make_verifier
from ring_async.sandbox.pool import SandboxPool
from ring_async.sandbox.program import Program
from ring_async.verifiers.scoring import score_group

math = make_verifier("math", VerifierSection(use="math"))
prompt = Prompt("p", "s", "?", {"answer": "5"})
asyncio.run(score_group(math, prompt, [Response("<answer>5</answer>")], 30.0))
if sys.argv[1] == "sandbox":
    pool = SandboxPool(2)
    with pool.session(Program("print(1)")) as session:
        session.run()
print("ready", flush=True)
time.sleep(60)
"""


def descendants(pid):
    found, pending = set(), [pid]
    while pending:
        try:
            for task in Path(f"/proc/{pending.pop()}/task").iterdir():
                pending += map(int, (task / "children").read_text().split())
        except OSError:
            continue
        found |= set(pending)
    return found


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("kind", ["workers", "sandbox"])
def test_nothing_outlives_a_killed_actor(kind):
    if kind == "sandbox" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    with subprocess.Popen([sys.executable, "-c", ACTOR, kind], stdout=subprocess.PIPE) as actor:
        assert actor.stdout.readline() == b"ready\n"
        started = descendants(actor.pid)
        assert len(started) >= (2 if kind == "workers" else 6)
        os.kill(actor.pid, signal.SIGKILL)
        actor.wait()
    deadline = time.monotonic() + 20
    while any(map(is_running, started)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [pid for pid in started if is_running(pid)] == []
