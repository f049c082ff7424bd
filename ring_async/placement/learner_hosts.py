"""The learner's other hosts on a Ray cluster: one process in each further bundle of the learner's placement group.

Owns: starting them from the learner's own process, and ending them. Does not own the group (`places`), nor what runs in
the process (`learner_ranks.host`). Ray ends such a process when the learner's has ended.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from ring_async.actors.learner_ranks.host import RankHost, RankHostLaunch
from ring_async.config.schema import Config
from ring_async.core.roster import Role
from ring_async.errors import ActorFailedError


class RayRankHosts:
    """Keeps `RankHosts`. Make it in the learner's process, which is a Ray actor of the group."""

    def __init__(self, config: Config) -> None:
        self._options = {
            "num_cpus": config.placement.cpus.get(Role.LEARNER, 0.0),
            "num_gpus": config.placement.gpus.get(Role.LEARNER, 0.0),
            "max_restarts": 0,
            "max_concurrency": 2,
        }
        self._timeout_s = config.placement.start_timeout_s
        self._handles: list[Any] = []

    async def start(self, launch: RankHostLaunch) -> str:
        import ray
        from ray.util import get_current_placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        group = get_current_placement_group()
        assert group is not None
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=launch.index)
        handle: Any = ray.remote(_Process).options(**self._options, scheduling_strategy=strategy).remote()  # type: ignore[attr-defined]
        self._handles.append(handle)
        handle.live.remote(launch)
        try:
            answer: str = await asyncio.to_thread(ray.get, handle.endpoint.remote(), timeout=self._timeout_s)
        except ray.exceptions.RayError as error:
            why = str(error).strip().splitlines()[-1]
            raise ActorFailedError(f"host {launch.index} of the learner did not start: {why}") from error
        return answer

    async def close(self) -> None:
        import ray

        for handle in self._handles:
            ray.kill(handle)


class _Process:
    """The Ray actor on another host: `live` runs until the ranks have left, `endpoint` waits for its first word."""

    def __init__(self) -> None:
        self._said = threading.Event()
        self._endpoint = ""
        self._failure = ""

    def live(self, launch: RankHostLaunch) -> None:
        import ray

        try:
            asyncio.run(RankHost(launch, ray.util.get_node_ip_address()).live(self._announce))
        except Exception as error:
            self._failure = str(error)
            self._said.set()
            raise

    def endpoint(self) -> str:
        self._said.wait()
        if self._failure:
            raise ActorFailedError(self._failure)
        return self._endpoint

    def _announce(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._said.set()
