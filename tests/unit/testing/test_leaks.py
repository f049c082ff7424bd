"""The census finds each kind of leak, and gives what is on its way out the time to go."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ring_async.testing.leaks import leaks_since, take_census


def test_nothing_left_costs_nothing():
    assert leaks_since(take_census()) == []


def test_a_surviving_thread_is_found_by_name():
    before, release = take_census(), threading.Event()
    thread = threading.Thread(target=release.wait, name="forgotten", daemon=True)
    thread.start()
    try:
        assert leaks_since(before, grace_s=0) == ["thread forgotten (daemon)"]
    finally:
        release.set()
        thread.join()
    assert leaks_since(before) == []


def test_a_thread_on_its_way_out_is_waited_for():
    before, release = take_census(), threading.Event()
    threading.Thread(target=release.wait, args=(0.03,)).start()
    assert leaks_since(before) == []


def test_an_open_descriptor_is_found_with_its_target(tmp_path: Path):
    before = take_census()
    with (tmp_path / "open.txt").open("w"):
        (leak,) = leaks_since(before, grace_s=0)
        assert leak.endswith(f": {tmp_path}/open.txt")
    reader, writer = os.pipe()
    assert len(leaks_since(before, grace_s=0)) == 2
    os.close(reader)
    os.close(writer)
    assert leaks_since(before) == []


def test_a_descriptor_reused_for_another_file_is_a_leak(tmp_path: Path):
    with (tmp_path / "a").open("w") as first:
        number = first.fileno()
        before = take_census()
    with (tmp_path / "b").open("w") as second:
        assert second.fileno() == number
        assert len(leaks_since(before, grace_s=0)) == 1


def test_surviving_and_unreaped_children_are_found():
    before = take_census()
    with subprocess.Popen(["/bin/cat", "-u"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdin.write(b"x")
        child.stdin.flush()
        child.stdout.read(1)  # it runs its own program by now
        assert f"process {child.pid}: /bin/cat -u" in leaks_since(before, grace_s=0)
        child.stdin.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert f"process {child.pid}: (cat, ended but not waited for)" in leaks_since(before, grace_s=0)
    assert leaks_since(before) == []


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no /dev/shm here")
def test_an_orphaned_segment_is_found():
    before = take_census()
    segment = Path("/dev/shm") / f"ring-async-test-{os.getpid()}"
    segment.write_bytes(b"12345")
    try:
        assert f"shared memory {segment}: 5 bytes" in leaks_since(before, grace_s=0)
    finally:
        segment.unlink()
    assert leaks_since(before) == []


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no /dev/shm here")
def test_a_segment_that_another_program_holds_is_not_ours(monkeypatch: pytest.MonkeyPatch):
    before = take_census()
    segment = Path("/dev/shm") / f"ring-async-test-{os.getpid()}-held"
    hold = f"f = open({str(segment)!r}, 'w'); print(1, flush=True); input()"
    child = subprocess.Popen([sys.executable, "-S", "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        child.stdout.readline()
        assert any(str(segment) in leak for leak in leaks_since(before, grace_s=0))
        monkeypatch.setattr("ring_async.testing.leaks._descendants", lambda pid: iter(()))
        assert not any(str(segment) in leak for leak in leaks_since(before, grace_s=0))
    finally:
        child.communicate(b"\n")
        segment.unlink()
