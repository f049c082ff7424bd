"""A disk that turns read-only under replay: nothing is taken in or lost, and it goes on once the disk can be written.

The disk is a tmpfs in a mount namespace of a child process. A mount cannot turn read-only while a file on it is open to
be written, as a failing disk can, so the first failing write is one beyond the largest file size allowed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]

CHILD = """
import json, resource, subprocess, sys
from pathlib import Path
from ring_async.core.advantages import AdvantageRules
from ring_async.core.replay.buffer_rules import BufferRules
from ring_async.errors import StorageError
from ring_async.storage.replay_shard import ReplayShard
from ring_async.storage.replay_store import ReplayStore
from ring_async.testing.builders import make_group
from ring_async.types import PolicyVersion

disk = Path(sys.argv[1])

def mount(*words):
    subprocess.run(["mount", *words, str(disk)], check=True)

def refused(deed):
    try:
        deed()
    except StorageError as error:
        return str(error)
    return ""

def put(name):
    shard.put([make_group(name, lengths=500)])

mount("-t", "tmpfs", "none")
store = disk / "replay" / "replay-0"
shard = ReplayShard(ReplayStore(store, 64 << 20), BufferRules(2_000, 4_096), AdvantageRules())
for number in range(4):
    put(f"g{number}")
learner = PolicyVersion(0, 0)
assert shard.plan(1, learner).plan_number == 1
limit = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1, limit[1]))
errors = [refused(lambda: put("g4"))]
resource.setrlimit(resource.RLIMIT_FSIZE, limit)
mount("-o", "remount,ro,bind")
before = shard.buffer.trainable_tokens
errors += [refused(lambda: put("g4")), refused(lambda: shard.batch(2, PolicyVersion(0, 1)))]
held = sorted(shard.buffer.group_ids())
assert (shard.buffer.last_plan, shard.buffer.trainable_tokens) == (1, before)
mount("-o", "remount,rw,bind")
put("g4")
batch = shard.batch(2, PolicyVersion(0, 1))
shard.close()
again = ReplayShard(ReplayStore(store, 64 << 20), shard.buffer.rules, AdvantageRules())
print(json.dumps({
    "errors": errors, "held": held, "loss_tokens": int(batch.loss_mask.sum()),
    "last_plan": again.buffer.last_plan, "again": sorted(again.buffer.group_ids()),
}))
"""


def can_mount(folder: Path) -> bool:
    if not shutil.which("unshare"):
        return False
    trial = [*NAMESPACE, "mount", "-t", "tmpfs", "none", str(folder)]
    return not subprocess.run(trial, capture_output=True, check=False).returncode


def test_a_read_only_disk_loses_nothing_and_needs_no_restart(tmp_path: Path) -> None:
    if not can_mount(tmp_path):
        pytest.skip("mount namespaces are not to be had here")
    child = subprocess.run(
        [*NAMESPACE, sys.executable, "-c", CHILD, str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    told = json.loads(child.stdout)
    assert all(str(tmp_path / "replay" / "replay-0") in error for error in told["errors"]), told["errors"]
    assert "bytes needed" in told["errors"][0]
    assert "Read-only file system" in told["errors"][1]
    assert told["held"] == ["g0", "g1", "g2", "g3"]
    assert told["again"] == ["g0", "g1", "g2", "g3", "g4"]
    assert told["loss_tokens"] == 2_000
    assert told["last_plan"] == 2
