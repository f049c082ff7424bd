"""R15: the host of replay (or of the only reward actor) is gone for a while; its actor waits for a place, in sight."""
from restartable_fleet import *
import pytest
from ring_async.testing.virtual_clock import VirtualTimeLimitError
from ring_async.transport.messages.fleet import ActorWaiting, ActorExit
logging.getLogger().setLevel(logging.CRITICAL)
class Hosts(Restartable):
    def waiting(self):
        out = []
        for a in self.no_place:
            inc = self.controller._fleet.wanted.incarnations()[a]
            out.append(ActorWaiting(a, inc, "a host of the cluster"))
        return tuple(out)
    def _collect_exits(self):
        super()._collect_exits()
        self.exits = [ActorExit(e.actor_id, e.incarnation, "its host is gone", is_host_lost=True) if e.actor_id in self.no_place else e for e in self.exits]
@pytest.mark.parametrize("who,away_s", [("replay-0", 900.0), ("reward-0", 900.0)])
def test_away(tmp_path, who, away_s):
    t = {}
    async def deed(f):
        await until_version(f, 3)
        loop = asyncio.get_running_loop()
        f.no_place = (who,); f.kill(who)
        await asyncio.sleep(away_s)
        f.no_place = ()
        t["back after"] = away_s
    f = fleet(tmp_path, cls=Hosts, stop__policy_versions=8, token_s=0.2, train_s=0.5, checkpoint__every_versions=100)
    try: failure = run(f, deed, limit_s=1500)
    except VirtualTimeLimitError as e: failure = "STILL RUNNING"
    print(who, "FAILURE:", failure)
    print([(x["policy_version"], x["incarnation"], round(x["wall_s"])) for x in lines(f.run_dir.metrics)])
    for e in events(f, "actor_lost"): print(round(e["time"] % 1000, 1), e["notice"][:250])
    assert 0
