"""One launcher at a time for a run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ring_async.errors import RunError
from ring_async.storage.run_dir import RunDir
from ring_async.storage.run_lock import hold_run, holder_of


def test_a_run_has_one_holder_and_the_refusal_names_it(tmp_path: Path):
    run_dir = RunDir(tmp_path / "trial")
    assert holder_of(run_dir) is None
    with hold_run(run_dir):
        assert holder_of(run_dir) == os.getpid()
        with (
            pytest.raises(RunError, match=rf"trial is up already, or starting \(process {os.getpid()}\)"),
            hold_run(run_dir),
        ):
            pass
    with hold_run(run_dir):
        pass


def test_a_lock_goes_with_its_holder_however_that_ends(tmp_path: Path):
    run_dir = RunDir(tmp_path / "trial")
    die = (
        "import os, pathlib, signal\n"
        "from ring_async.storage.run_dir import RunDir\n"
        "from ring_async.storage.run_lock import hold_run\n"
        f"with hold_run(RunDir(pathlib.Path({str(run_dir.path)!r}))):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", die], check=False).returncode == -9
    with hold_run(run_dir):
        assert holder_of(run_dir) == os.getpid()
