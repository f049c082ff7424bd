"""R19: a group whose arrays contradict its header, or whose source reward does not know: what becomes of the reward actor and of the run?"""
from restartable_fleet import *
import pytest
import ring_async.actors.rollout as ro
from ring_async.testing.virtual_clock import VirtualTimeLimitError
logging.getLogger().setLevel(logging.CRITICAL)
@pytest.mark.parametrize("what", ["segments", "source"])
def test_poison(tmp_path, what):
    orig = ro.group_of
    import msgspec
    def group_of(reservation, prompt_ids, generations, *, engine_id):
        g = orig(reservation, prompt_ids, generations, engine_id=engine_id)
        if reservation.group_id == "sums-00000012":
            h = g.header
            if what == "segments":   # an engine that forgot a segment of one response
                t0 = h.trajectories[0]; s = t0.segments[0]
                t0 = msgspec.structs.replace(t0, segments=(msgspec.structs.replace(s, end=s.end + 1),))
                h = msgspec.structs.replace(h, trajectories=(t0, *h.trajectories[1:]))
            else:
                h = msgspec.structs.replace(h, prompt=msgspec.structs.replace(h.prompt, source="unheard-of"))
            import dataclasses
            g = dataclasses.replace(g, header=h)
        return g
    ro.group_of = group_of
    try:
        f = fleet(tmp_path, stop__policy_versions=20)
        try: failure = run(f, None, limit_s=700)
        except VirtualTimeLimitError: failure = "STILL RUNNING"
    finally: ro.group_of = orig
    print(what, "FAILURE:", failure)
    for e in events(f, "actor_lost"): print(e["notice"][:260])
    print(lines(f.run_dir.metrics)[-1]["policy_version"] if lines(f.run_dir.metrics) else "no version")
    assert 0
