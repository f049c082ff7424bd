"""Learner dies after the checkpoint was renamed and the older one removed, before the controller hears of it (checkpoint.keep=1)."""
from restartable_fleet import *
from ring_async.training.checkpoint import CheckpointStore
from ring_async.testing.virtual_clock import VirtualTimeLimitError
logging.getLogger().setLevel(logging.CRITICAL)
import pytest
@pytest.mark.parametrize("keep", [1, 2])
def test_keep(tmp_path, keep):
    orig = CheckpointStore.save; box = {}
    def save(self, version, n, write):
        path = orig(self, version, n, write)
        if n == 6 and "f" in box and not box.get("done"):
            box["done"] = True; raise RuntimeError("SIGKILL: the process ends here")
        return path
    CheckpointStore.save = save
    try:
        f = fleet(tmp_path, stop__policy_versions=12, checkpoint__every_versions=3, checkpoint__keep=keep, token_s=0.2); box["f"] = f
        try: failure = run(f, None, limit_s=400)
        except VirtualTimeLimitError: failure = "STILL RUNNING"
    finally: CheckpointStore.save = orig
    print("keep", keep, "FAILURE:", failure, "on disk:", sorted(p.name for p in f.run_dir.checkpoints.iterdir()), "journal says", f.controller._versions.checkpoint)
    for e in events(f, "actor_lost"): print(e["notice"][:200])
    if keep == 1:
        g = fleet(tmp_path, stop__policy_versions=12, checkpoint__every_versions=3, checkpoint__keep=keep, token_s=0.2, is_resumed=True)
        try: failure = run(g, None, limit_s=400)
        except VirtualTimeLimitError: failure = "STILL RUNNING"
        print("up --resume:", failure)
    assert 0
