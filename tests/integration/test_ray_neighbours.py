"""A run's own Ray beside strangers: it ignores another Ray's address, listens on localhost alone, and a wrong address
ends in a sentence.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ring_async.errors import ConfigError
from ring_async.placement.ray_cluster import ray_cluster
from ring_async.testing.builders import make_config

START = """
import json, os
from ring_async.placement.ray_cluster import ray_cluster
from ring_async.testing.builders import make_config

def listening():
    "Addresses, in hex, on which this process and its descendants listen."
    parents = {}
    for entry in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat") as stat:
                parents[int(entry)] = int(stat.read().rpartition(")")[2].split()[1])
        except OSError:
            pass
    family = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    inodes = set()
    for pid in family:
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            try:
                inodes.add(os.readlink(f"/proc/{pid}/fd/{descriptor}").removeprefix("socket:[").rstrip("]"))
            except OSError:
                pass
    found = set()
    for table in ("tcp", "tcp6"):
        with open(f"/proc/net/{table}") as lines:
            for fields in map(str.split, list(lines)[1:]):
                if fields[3] == "0A" and fields[9] in inodes:
                    found.add(fields[1].partition(":")[0])
    return sorted(found)

with ray_cluster(make_config()) as resources:
    print(json.dumps({"cpus": resources["CPU"], "listening": listening()}))
"""

LOCALHOSTS = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
"""127.0.0.1 as IPv4 and within IPv6, and ::1, as /proc/net writes them."""


def test_a_runs_own_ray_listens_on_localhost_and_ignores_an_address_left_behind():
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # a short path: Ray's sockets lie below it
        left_behind = Path(folder, "ray", "ray_current_cluster")
        left_behind.parent.mkdir()
        left_behind.write_text("127.0.0.1:1")
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        done = subprocess.run(
            [sys.executable, "-c", START], capture_output=True, text=True, timeout=180, check=False,
            env=environment | {"RAY_TMPDIR": folder},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["listening"]
    assert set(said["listening"]) <= LOCALHOSTS


def test_an_address_where_nobody_listens_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    told = rf"RAY_ADDRESS: no cluster to join at 127\.0\.0\.1:{port}: .*refused"
    with pytest.raises(ConfigError, match=told), ray_cluster(make_config()):
        pass
