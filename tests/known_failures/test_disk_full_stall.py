"""R1: after 'disk full' nothing retries the pending groups unless another group arrives."""
from restartable_fleet import *
from ring_async.storage.replay_store import ReplayStore
from ring_async.errors import StorageError
logging.getLogger().setLevel(logging.ERROR)
import pytest

@pytest.mark.parametrize("deadline_s", [300.0])
def test_stall(tmp_path, deadline_s):
    full = {"until": None}
    orig = ReplayStore.commit
    failed = []
    def commit(self, writes):
        now = asyncio.get_running_loop().time() if asyncio._get_running_loop() else 0
        if writes.puts and full["until"] and now < full["until"]:
            failed.append(round(now, 2))
            raise StorageError("No space left on device (scripted)")
        return orig(self, writes)
    ReplayStore.commit = commit
    t = {}
    async def deed(f):
        await until_version(f, 3)
        loop = asyncio.get_running_loop()
        t["full"] = loop.time(); full["until"] = loop.time() + 10.0     # full for ten seconds, then there is space
        t["version then"] = f.controller.status().plain()["policy_version"]
        await asyncio.sleep(12.0)
        t["version at +12"] = f.controller.status().plain()["policy_version"]
        await asyncio.sleep(58.0)
        st = f.controller.status().plain()
        t["version at +70"] = st["policy_version"]; t["open at +70"] = st["reservations_open"]; t["replay at +70"] = {k: getattr(f.actors["replay-0"].counters(), k) for k in ("pending_groups", "trainable_tokens")}
        t["waits"] = {a.actor_id: a.waits.longest() for a in f.actors.values() if hasattr(a, "waits")}
        await until_version(f, t["version at +70"] + 1)
        t["next version at"] = round(loop.time() - t["full"], 1)
    try:
        f = fleet(tmp_path, stop__policy_versions=12, replay__batch_deadline_s=deadline_s, replay__max_staleness=4, token_s=0.2)
        failure = run(f, deed, limit_s=20000)
    finally:
        ReplayStore.commit = orig
    for k, v in t.items(): print(k, v)
    print("failed puts at", failed, "FAILURE:", failure)
    for e in events(f, "actor_lost"): print(e["notice"][:200])
    assert 0
