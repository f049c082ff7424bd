"""Fairness of grants: 8 rollouts with room, little to grant: who gets it?"""
from restartable_fleet import *
logging.getLogger().setLevel(logging.CRITICAL)
import tempfile
from collections import Counter
from ring_async.storage.journal import journal_files, read_file
from ring_async.core.work.ledger_records import GroupReserved
d = Path(tempfile.mkdtemp(dir="."))
f = fleet(d, stop__policy_versions=12, rollout__num=8, token_s=0.5, train_s=6.0, budget__token_budget=512, rollout__max_running_requests=64, replay__max_staleness=2, rollout__max_tokens=60, learner__token_capacity=128)
samples = []
async def deed(f):
    await until_version(f, 3)
    for _ in range(200):
        await asyncio.sleep(0.25)
        if "rollout-7" in f.engines: samples.append([e.load().num_running for e in f.engines.values()])
        if events(f, "stopping"): break
print(repr(run(f, deed, limit_s=400)))
recs = [r.record for p in journal_files(f.run_dir.journal) for r in read_file(p)]
owners = Counter(r.owner for r in recs if isinstance(r, GroupReserved))
print("groups granted by rollout", dict(sorted(owners.items())))
import statistics
busy = [sum(s) for s in samples]; mx = [max(s) for s in samples]; empty = [sum(x == 0 for x in s) for s in samples]
print("running responses: mean", round(statistics.mean(busy), 1), "of 512; on the fullest engine, mean", round(statistics.mean(mx), 1), "; engines without any work, mean", round(statistics.mean(empty), 1), "of 8")
