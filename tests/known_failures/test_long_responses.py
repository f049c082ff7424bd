"""Responses that take longer than replay.batch_deadline_s (300 s): 32k tokens at 60 tokens/s are 546 s."""
from restartable_fleet import *
from ring_async.testing.virtual_clock import VirtualTimeLimitError
from ring_async.testing.scripted_engine import fixed_script
logging.getLogger().setLevel(logging.CRITICAL)
def test_long(tmp_path):
    f = fleet(tmp_path, stop__policy_versions=3, token_s=546 / 16, script=fixed_script(13, 14, 15, 16))
    try: failure = run(f, None, limit_s=1500)
    except VirtualTimeLimitError: failure = "STILL RUNNING after 1,500 s"
    print("FAILURE:", failure, {k: v for k, v in f.controller.status().plain()["ledger"].items() if v}, f.controller.status().plain()["causes"])
    for e in events(f, "actor_lost"): print("  ", e["notice"].replace("ExceptionGroup('unhandled errors in a TaskGroup', ", "")[:130])
    assert 0
