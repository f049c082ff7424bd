"""R13/R14: the controller dies while the run ends; a finished run is resumed."""
from restartable_fleet import *
logging.getLogger().setLevel(logging.ERROR)
from ring_async.testing.virtual_clock import VirtualTimeLimitError
def tryrun(f, deed):
    try: return run(f, deed, limit_s=700)
    except VirtualTimeLimitError as e: return "STILL RUNNING after 700 virtual s"
def show(f, failure):
    print("FAILURE:", repr(failure))
    for e in lines(f.run_dir.events):
        if e["kind"] in ("failed", "actor_lost", "actor_failed", "stopping", "stopped", "controller_started"): print({k: str(v)[:260] for k, v in e.items() if k != "time"})
def test_killed_while_ending(tmp_path):
    async def deed(f):
        while not events(f, "stopping"): await asyncio.sleep(0.01)
        f.kill("controller-0")
    f = fleet(tmp_path, stop__policy_versions=4)
    show(f, tryrun(f, deed)); assert 0
def test_finished_run_resumed(tmp_path):
    f = fleet(tmp_path, stop__policy_versions=4)
    print(repr(run(f, None, limit_s=700)))
    g = fleet(tmp_path, stop__policy_versions=4, is_resumed=True)
    show(g, tryrun(g, None)); assert 0
def test_down_forgotten(tmp_path):
    """somebody says `down`; the controller dies before everybody left"""
    async def deed(f):
        await until_version(f, 3)
        f.controller.shut_down("down", 20.0)
        await asyncio.sleep(0.05)
        f.kill("controller-0")
    f = fleet(tmp_path, stop__policy_versions=12, train_s=0.2)
    show(f, tryrun(f, deed)); print(lines(f.run_dir.metrics)[-1]["policy_version"]); assert 0
