"""R23: rewards all equal: does the run fail after batch_deadline_s as schema.py says? And progress/staleness when signal returns."""
from restartable_fleet import *
from ring_async.testing.scripted_verifier import ScriptedVerifier
from ring_async.testing.virtual_clock import VirtualTimeLimitError
logging.getLogger().setLevel(logging.CRITICAL)
import os
class Flat(ScriptedVerifier):
    def __init__(self):
        super().__init__(lambda p, r: 0.0 if asyncio.get_running_loop().time() < float(os.environ["SIGNAL"]) else sum(map(int, r.text.split())) % 2, delay_s=0.02)
def go(tmp_path, limit, until):
    os.environ["SIGNAL"] = str(until)
    f = fleet(tmp_path, verifiers={"exact": {"use": f"{__file__}:Flat"}}, stop__policy_versions=8, token_s=0.5, train_s=0.5, rollout__max_running_requests=64, budget__token_budget=256)
    try: failure = run(f, None, limit_s=limit)
    except VirtualTimeLimitError: failure = "STILL RUNNING"
    led = f.controller.status().plain()["ledger"]
    print("signal from", until, "FAILURE:", failure, {k: v for k, v in led.items() if v}, f.controller.status().plain()["causes"])
    print([(x["policy_version"], x["incarnation"], round(x["wall_s"]), x["staleness_max"]) for x in lines(f.run_dir.metrics)])
    print([e["notice"][:140] for e in events(f, "actor_lost")])
def test_never(tmp_path): go(tmp_path, 1300, 1e9); assert 0
def test_returns(tmp_path): go(tmp_path, 1300, 100.0); assert 0
