"""R24: one prompt that the engine refuses (embedded engine: longer than the model's positions -> ValueError in generate)."""
from restartable_fleet import *
logging.getLogger().setLevel(logging.CRITICAL)
import pytest
from ring_async.testing.scripted_engine import ScriptedEngine
@pytest.mark.parametrize("num", [1, 4])
def test_prompt(tmp_path, num):
    orig = ScriptedEngine.generate
    async def generate(self, request):
        if request.request_id.startswith("sums-00000030/"):
            await asyncio.sleep(0.01)
            raise ValueError(f"request {request.request_id}: 5000 prompt tokens and up to 16 sampled ones are more than the model's 2048 positions")
        return await orig(self, request)
    ScriptedEngine.generate = generate
    try:
        f = fleet(tmp_path, stop__policy_versions=25, rollout__num=num, token_s=0.3, rollout__max_running_requests=32, budget__token_budget=128)
        failure = run(f, None, limit_s=400)
    finally: ScriptedEngine.generate = orig
    st = f.controller.status().plain()
    print(num, "rollouts; FAILURE:", failure, "causes", st["causes"], "reissued", st["ledger"]["reissued"])
    print("rollout deaths", len([e for e in events(f, "actor_lost")]), "groups failed", [(e["group_id"], e["cause"]) for e in events(f, "group_failed")])
    assert 0
