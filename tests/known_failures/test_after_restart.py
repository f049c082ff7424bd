"""R6/R7: what a controller's restart costs: versions, admission, groups under way."""
from restartable_fleet import *
import pytest
logging.getLogger().setLevel(logging.CRITICAL)
class Distinct(Restartable):
    """R20 mended in the harness only (an engine that takes the same id twice), to see the rest alone."""
@pytest.mark.parametrize("kill", [False, True])
def test_cost(tmp_path, kill):
    t = {}
    async def deed(f):
        await until_version(f, 14)
        loop = asyncio.get_running_loop()
        await asyncio.sleep(2.037)
        t["open before"] = f.controller.status().plain()["reservations_open"]; t["v before"] = f.controller.status().plain()["policy_version"]
        t0 = loop.time()
        if kill: f.kill("controller-0")
        await asyncio.sleep(0.5)
        st = f.controller.status().plain()
        t["v after"] = st["policy_version"]; t["limit_tokens"] = f.controller._dispatcher.limiter.limit_tokens; t["limiter"] = f.controller._dispatcher.limiter.state
        await until_version(f, 15)
        t["to v15"] = round(loop.time() - t0, 1)
        await until_version(f, 18)
        t["to v18"] = round(loop.time() - t0, 1)
        t["lease lost / reissued"] = f.controller.status().plain()["ledger"]["reissued"]
    f = fleet(tmp_path, stop__policy_versions=20, rollout__num=8, token_s=1.0, train_s=0.5, budget__token_budget=1024, rollout__max_running_requests=32, replay__max_staleness=2, checkpoint__every_versions=10, rollout__max_tokens=60, learner__token_capacity=128, rollout__lease_s=60.0)
    failure = run(f, deed, limit_s=700)
    print(kill, "FAILURE:", failure, t)
    print([(x["policy_version"], x["incarnation"], round(x["wall_s"],1)) for x in lines(f.run_dir.metrics)][12:])
    print({k: v for k, v in f.controller.status().plain()["ledger"].items()})
    for e in events(f, "actor_lost"): print(e["notice"][:260])
    assert 0
