"""R2: the controller's journal cannot be written for a moment; replay's report is refused, and never told again."""
from restartable_fleet import *
from ring_async.storage.journal import Journal
logging.getLogger().setLevel(logging.ERROR)
import errno

def test_report_lost(tmp_path):
    full = {"until": None}
    orig = Journal._write
    n = []
    def write(self, data):
        now = asyncio.get_running_loop().time()
        if full["until"] and now < full["until"]:
            n.append(now)
            raise OSError(errno.ENOSPC, "No space left on device")
        return orig(self, data)
    Journal._write = write
    t = {}
    async def deed(f):
        await until_version(f, 3)
        full["until"] = asyncio.get_running_loop().time() + 5.0
    try:
        f = fleet(tmp_path, stop__policy_versions=25, replay__max_staleness=4, token_s=0.2)
        failure = run(f, deed, limit_s=20000)
    finally:
        Journal._write = orig
    st = f.controller.status().plain()
    print("FAILURE:", failure, "refused writes", len(n))
    print(st["ledger"], st["causes"])
    print(audit(f.run_dir.path).to_text()[:3000])
    assert 0
