from restartable_fleet import *
import pytest
logging.getLogger().setLevel(logging.ERROR)

def dump(f, skip=("joined",)):
    for e in lines(f.run_dir.events):
        if e["kind"] not in skip:
            print({k: str(v)[:230] for k, v in e.items() if k != "time"})

@pytest.mark.parametrize("mode", ["async", "sync"])
def test_no_weights_after_controller_restart(tmp_path, mode):
    """R5: controller restarts, then a rollout (re)starts before the next version: who gives it weights?"""
    t = {}
    async def deed(f):
        await until_version(f, 4)
        await asyncio.sleep(0.3)
        loop = asyncio.get_running_loop()
        f.kill("controller-0"); f.kill("rollout-0")
        t["killed"] = loop.time()
        await until_version(f, 5)
        t["next"] = loop.time()
    f = fleet(tmp_path, mode=mode, budget__token_budget=256, replay__max_staleness=1, stop__policy_versions=8, token_s=0.2)
    failure = run(f, deed, limit_s=20000)
    dump(f)
    for s in lines(f.run_dir.metrics): print(s["policy_version"], s["incarnation"], round(s["wall_s"],2), s["staleness_max"])
    print(mode, "FAILURE:", failure, t, "stall", t["next"] - t["killed"])
    assert 0
