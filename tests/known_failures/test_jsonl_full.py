"""R22: the disk of the run's folder is full for 20 s: the journal waits for space, metrics.jsonl does not."""
from restartable_fleet import *
import errno
from ring_async.storage.run_dir import JsonLines
from ring_async.testing.virtual_clock import VirtualTimeLimitError
logging.getLogger().setLevel(logging.CRITICAL)
def test_full(tmp_path):
    full = {"until": 0}
    orig = JsonLines.append
    def append(self, value):
        if asyncio.get_running_loop().time() < full["until"]: raise OSError(errno.ENOSPC, "No space left on device")
        return orig(self, value)
    JsonLines.append = append
    async def deed(f):
        await until_version(f, 3); full["until"] = asyncio.get_running_loop().time() + 20.0
    try:
        f = fleet(tmp_path, stop__policy_versions=8, token_s=0.2)
        try: failure = run(f, deed, limit_s=500)
        except VirtualTimeLimitError: failure = "STILL RUNNING"
        except BaseException as e: failure = "LAUNCHER: " + repr(e)
    finally: JsonLines.append = orig
    print("FAILURE:", failure, "controllers started", f.num_controllers)
    assert 0
