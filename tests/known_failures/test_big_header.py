"""R4: prompts with large metadata (unit tests of a code task): the controller's answer is over max_header_bytes."""
from restartable_fleet import *
import ring_async.testing.one_process as op
from ring_async.testing.builders import make_prompt
logging.getLogger().setLevel(logging.ERROR)
import pytest

@pytest.mark.parametrize("kib", [20, 40, 1100])
def test_big(tmp_path, kib):
    class Big(op.CountingSource):
        def prompt(self, index):
            return make_prompt(f"{self.name}/{index}", source=self.name, text=f"{index} + 1 =", tests="x" * (kib << 10))
    orig = op.CountingSource
    op.CountingSource = Big
    try:
        f = fleet(tmp_path, stop__policy_versions=4, rollout__group_size=4, rollout__max_running_requests=256, budget__token_budget=2048)
        failure = run(f, None, limit_s=20000)
    finally:
        op.CountingSource = orig
    print(kib, "KiB per prompt; FAILURE:", failure)
    for e in lines(f.run_dir.events):
        if e["kind"] in ("failed", "actor_lost", "actor_failed"): print({k: str(v)[:200] for k, v in e.items() if k != "time"})
    assert 0
