"""A busy machine fails nobody: the same program has the same verdict alone and beside others that want the processors.

`tests/support/verdicts_under_load.py` does this at length; here it is short.
"""

import asyncio
import os
import shutil
import signal
import threading
from pathlib import Path

import pytest

from ring_async.config.schema import VerifierSection
from ring_async.errors import VerifierError
from ring_async.sandbox.activity import look_at
from ring_async.sandbox.pool import SandboxPool
from ring_async.sandbox.program import Program, SandboxLimits
from ring_async.types import Prompt
from ring_async.verifiers.base import Response
from ring_async.verifiers.registry import make_verifier
from ring_async.verifiers.scoring import score_group
from tests.support.load import busy

pytestmark = [
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed"),
    pytest.mark.may_leak("pools replace their sandboxes during a test; each is closed at its end"),
]

COMPUTES = "import time\nwhile time.process_time() < 0.15: pass\nprint(input())"
TESTS = {"tests": [{"stdin": str(number), "stdout": str(number)} for number in range(4)]}


def test_eight_at_once_on_a_busy_machine_all_pass():
    verifier = make_verifier("code", VerifierSection(use="code"), num_workers=8)
    try:
        with busy(4):
            judged = asyncio.run(
                score_group(verifier, Prompt("p", "s", "?", TESTS), [Response(f"```python\n{COMPUTES}\n```")] * 8, 2.0)
            )
    finally:
        verifier.close()
    assert [(verdict.reward, verdict.explanation) for verdict in judged] == [(1.0, "4 of 4 tests passed")] * 8


def test_computing_too_long_and_sleeping_too_long_are_wrong_under_load():
    verifier = make_verifier("code", VerifierSection(use="code", options={"limits": {"cpu_s": 0.5, "wall_s": 1}}))
    prompt = Prompt("p", "s", "?", {"tests": [{"stdout": "1"}]})
    sources = ("while True: pass", "import time\ntime.sleep(60)", "import os\nos.read(os.pipe()[0], 1)")
    try:
        with busy(4):
            judged = asyncio.run(
                score_group(verifier, prompt, [Response(f"```python\n{source}\n```") for source in sources], 5.0)
            )
    finally:
        verifier.close()
    assert [verdict.reward for verdict in judged] == [0.0] * 3
    assert "more than the CPU time allowed" in judged[0].explanation
    assert ["not done after" in verdict.explanation for verdict in judged[1:]] == [True] * 2


def test_a_machine_that_gives_a_program_no_time_is_at_fault(monkeypatch):
    monkeypatch.setattr("ring_async.sandbox.session._PATIENCE", 0)
    monkeypatch.setattr("ring_async.sandbox.session._GRACE_S", 0.3)
    pool = SandboxPool(1, SandboxLimits(cpu_s=60, wall_s=60))
    try:
        with pytest.raises(VerifierError) as caught, pool.session(Program("while True: pass")) as session:
            session.run()
    finally:
        pool.close()
    assert caught.value.cause == "sandbox_stalled"


@pytest.mark.parametrize(("victim", "cause"), [(-1, "sandbox_killed"), (1, "sandbox_died")])
def test_killed_from_outside_is_not_wrong(victim, cause):
    pool = SandboxPool(1)
    caught = []
    try:
        with pool.session(Program("import time\ntime.sleep(8)")) as session:
            thread = threading.Thread(target=lambda: caught.append(_cause(session)))
            thread.start()
            while len(tree := _descendants(session._box._pid)) < 3:
                pass
            os.kill(tree[victim], signal.SIGKILL)
            thread.join()
    finally:
        pool.close()
    assert caught == [cause]


def test_one_look_tells_computing_from_sleeping():
    pool = SandboxPool(1)
    try:
        for source, is_idle in (("while True: pass", False), ("import time\ntime.sleep(8)", True)):
            with pool.session(Program(source)) as session:
                thread = threading.Thread(target=lambda: _cause(session))
                thread.start()
                while len(_descendants(session._box._pid)) < 3 or look_at(session._box._pid).is_idle != is_idle:
                    pass
                session._box._spawner.kill(session._box._pid)
                thread.join()
    finally:
        pool.close()


def _cause(session):
    try:
        session.run()
    except VerifierError as error:
        return error.cause
    return None


def _descendants(pid):
    """Process ids: bubblewrap, the harness, and what it started, the youngest last."""
    found = [pid]
    for current in found:
        try:
            found += map(int, Path(f"/proc/{current}/task/{current}/children").read_text().split())
        except OSError:
            continue
    return found
