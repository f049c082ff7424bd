"""R8: a pause longer than 2 x batch_deadline_s, while the learner still waits for a batch."""
from restartable_fleet import *
import pytest
logging.getLogger().setLevel(logging.ERROR)
@pytest.mark.parametrize("mode,s,after", [("sync", 4, 0.1), ("async", 1, 0.5), ("async", 1, 1.5)])
def test_pause(tmp_path, mode, s, after):
    t = {}
    async def deed(f):
        await until_version(f, 2)
        await asyncio.sleep(after)
        await f.controller.pause()
        await asyncio.sleep(3600.0)
        st = f.controller.status().plain()
        t["status after an hour"] = (st["state"], st["policy_version"])
        await f.controller.resume()
    f = fleet(tmp_path, mode=mode, replay__max_staleness=s, budget__token_budget=512, stop__policy_versions=8, token_s=0.2, checkpoint__every_versions=100)
    failure = run(f, deed, limit_s=20000)
    print(mode, s, after, t, "FAILURE:", failure)
    print([(x["policy_version"], x["incarnation"], round(x["wall_s"])) for x in lines(f.run_dir.metrics)])
    for e in lines(f.run_dir.events):
        if e["kind"] in ("failed", "actor_lost"): print(round(e["time"] % 1000, 2), {k: str(v)[:230] for k, v in e.items() if k != "time"})
    assert 0
