"""R20 + R5: a controller killed alone, three rollouts: how long until the next version?"""
from restartable_fleet import *
import pytest
logging.getLogger().setLevel(logging.CRITICAL)
@pytest.mark.parametrize("at", [5, 10, 15])
def test_alone(tmp_path, at):
    t = {}
    async def deed(f):
        await until_version(f, at); loop = asyncio.get_running_loop(); t0 = loop.time(); f.kill("controller-0")
        while True:
            await asyncio.sleep(0.1); last = lines(f.run_dir.metrics)[-1]
            if last["policy_version"] > at: break
        t["next version after"] = round(loop.time() - t0, 1)
        f.controller.shut_down("enough", 5.0)
    f = fleet(tmp_path, stop__policy_versions=30, token_s=0.2, train_s=0.5, rollout__num=3)
    try: failure = run(f, deed, limit_s=450)
    except BaseException as e: failure = type(e).__name__
    print("killed at version", at, t, "FAILURE:", failure)
    for e in events(f, "actor_lost"): print("  ", e["notice"].replace("ExceptionGroup('unhandled errors in a TaskGroup', ", "")[:130])
    for x in lines(f.run_dir.metrics)[at-1:at+2]: print("   line of version", x["policy_version"], x["incarnation"], "generated_tokens_per_s", round(x["generated_tokens_per_s"], 1), "reward_mean", x.get("reward_mean"))
    assert 0
