"""A disk that fills up under replay: it says so, takes nothing in, loses nothing, and goes on when there is space.

The "disk" is the largest file size of a child process, so that no disk is filled. Under it LMDB meets a real failing
write in the middle of a commit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

CHILD = """
import json, resource, sys
from pathlib import Path
from ring_async.core.advantages import AdvantageRules
from ring_async.core.replay.buffer_rules import BufferRules
from ring_async.errors import StorageError
from ring_async.storage.replay_shard import ReplayShard
from ring_async.storage.replay_store import ReplayStore
from ring_async.testing.builders import make_group

shard = ReplayShard(ReplayStore(Path(sys.argv[1]), 1 << 30), BufferRules(1_000_000, 65_536), AdvantageRules())
limit = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 20, limit[1]))
taken, errors = [], []
for number in range(80):
    group = make_group(f"g{number}", lengths=20_000)
    try:
        shard.put([group])
        taken.append(f"g{number}")
    except StorageError as error:
        errors.append(str(error))
        if len(errors) == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
print(json.dumps({"taken": taken, "errors": errors, "held": sorted(shard.buffer.group_ids())}))
"""


def test_a_full_disk_loses_nothing_and_needs_no_restart(tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "replay" / "replay-0")],
        capture_output=True, text=True, check=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    told = json.loads(child.stdout)
    assert len(told["errors"]) == 3
    assert str(tmp_path) in told["errors"][0]
    assert "bytes needed" in told["errors"][0]
    assert len(told["taken"]) == 77
    assert "g79" in told["taken"]
    assert told["held"] == sorted(told["taken"])
    from ring_async.storage.audit import audit

    report = audit(tmp_path)
    assert report.is_clean, report.to_text()
    assert report.figures["groups stored"] == 77
