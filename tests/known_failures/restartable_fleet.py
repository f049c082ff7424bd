import sys, asyncio, json, logging
from pathlib import Path
from one_process_run import EVEN_TOTAL, lines, run, until_version, events
from ring_async.core.roster import ActorSpec
from ring_async.testing.builders import make_config
from ring_async.testing.one_process import OneProcessFleet
from ring_async.transport.messages.fleet import ActorExit
from ring_async.storage.audit import audit

class Restartable(OneProcessFleet):
    """Like the launcher: a controller that ended is started again, resumed."""
    num_controllers = 1
    def _collect_exits(self):
        task = self._tasks.get("controller-0")
        if task is not None and task.done():
            if not task.cancelled() and task.exception(): print("controller raised", repr(task.exception()))
            del self._tasks["controller-0"]
            self._is_resumed = True
            self._start(ActorSpec("controller-0", "controller", self.num_controllers))
            self.num_controllers += 1
        super()._collect_exits()

def fleet(runs, cls=Restartable, **over):
    extra = {k: over.pop(k) for k in ("token_s", "train_s", "script", "make_train_engine", "is_resumed") if k in over}
    s = {"stop__policy_versions": 6, "rollout__group_size": 4, "rollout__max_running_requests": 16,
         "verifiers": {"exact": {"use": EVEN_TOTAL}}, "replay__map_size_bytes": 16 << 20, "checkpoint__every_versions": 3}
    return cls(make_config(**(s | over)), runs, **extra)

from ring_async.errors import PeerTimeoutError
class Restartable(Restartable):  # noqa: F811 - asks as the launcher does: 5 s at a time
    no_place = ()
    def waiting(self): return ()
    async def run(self):
        self._start(ActorSpec("controller-0", "controller", 0))
        self._controller_endpoint = self.controller.endpoint
        transport = self._transport("launcher")
        from ring_async.transport.messages.fleet import ReportFleet, FleetWanted
        link = transport.connect(self._controller_endpoint, peer="controller-0")
        try:
            while True:
                self._collect_exits()
                exits = tuple(self.exits)
                try:
                    wanted = (await link.request(ReportFleet(exits, self.waiting()), timeout_s=5.0)).message
                except PeerTimeoutError:
                    continue
                self.exits = self.exits[len(exits):]
                if wanted.is_finished:
                    return wanted.failure
                by_id = {s.actor_id: s for s in wanted.actors}
                for actor_id, task in list(self._tasks.items()):   # as `Launcher._reconcile`
                    if actor_id != "controller-0" and by_id.get(actor_id) != self._specs[actor_id] and not task.done():
                        task.cancel("no longer wanted"); await asyncio.gather(task, return_exceptions=True); del self._tasks[actor_id]
                for spec in wanted.actors:
                    if spec.actor_id not in self._tasks and spec.actor_id not in self.no_place:
                        self._start(spec)
                await asyncio.sleep(0.1)
        finally:
            await link.close()
            await self._end()
fleet.__defaults__ = (Restartable,)
