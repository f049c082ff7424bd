"""R21: with transport.kind=tcp a restarted controller listens on another port; only the launcher is told."""
from restartable_fleet import *
from ring_async.transport.memory import MemoryTransport
logging.getLogger().setLevel(logging.CRITICAL)
from ring_async.transport.messages.fleet import ReportFleet
class Tcp(Restartable):
    """As over tcp: the endpoint of each controller is its own."""
    def _transport(self, actor_id):
        if actor_id == "controller-0":
            self.n = getattr(self, "n", -1) + 1
            return MemoryTransport(f"controller-0:{40000 + self.n}", self.hub)
        t = MemoryTransport(actor_id, self.hub)
        if actor_id == "launcher": self.launcher = t
        return t
    def _collect_exits(self):
        before = self.num_controllers
        super()._collect_exits()
        if self.num_controllers != before:
            self._controller_endpoint = self.controller.endpoint
            asyncio.get_running_loop().create_task(self.launcher._outboxes[0].redirect(self._controller_endpoint))   # as launch.py:148
def test_tcp(tmp_path):
    t = {}
    async def deed(f):
        await until_version(f, 5)
        loop = asyncio.get_running_loop(); t["killed"] = round(loop.time(), 1)
        f.kill("controller-0")
        await asyncio.sleep(20)
        t["version known 20 s later"] = f.controller.status().plain()["policy_version"]
        while not any(x["incarnation"] > 0 for x in lines(f.run_dir.metrics)): await asyncio.sleep(0.5)
        t["next step reported after, s"] = round(loop.time() - t["killed"], 1)
    f = fleet(tmp_path, cls=Tcp, stop__policy_versions=12, token_s=0.2, checkpoint__every_versions=100)
    failure = run(f, deed, limit_s=900)
    print("FAILURE:", failure, t)
    print([(x["policy_version"], x["incarnation"], round(x["wall_s"])) for x in lines(f.run_dir.metrics)])
    for e in events(f, "actor_lost"): print(e["notice"][:200])
    assert 0
