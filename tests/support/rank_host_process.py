"""Stands for rank 0 on "another host", which is a process of this machine: prints where it listens.

    python -m rank_host_process LAUNCH_JSON

`HostsAsProcesses` starts such processes where a run on a cluster would ask Ray for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys

import msgspec

from ring_async.actors.learner_ranks.host import RankHost, RankHostLaunch
from ring_async.errors import ActorFailedError

ADDRESS = "127.0.0.1"


class HostsAsProcesses:
    """Keeps `RankHosts`."""

    def __init__(self) -> None:
        self.processes: dict[int, subprocess.Popen[str]] = {}

    async def start(self, launch: RankHostLaunch) -> str:
        words = [sys.executable, "-W", "ignore", __file__, msgspec.json.encode(launch).decode()]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        self.processes[launch.index] = process
        assert process.stdout is not None
        endpoint = (await asyncio.to_thread(process.stdout.readline)).strip()
        if not endpoint:
            raise ActorFailedError(f"host {launch.index} did not start")
        return endpoint

    async def close(self) -> None:
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(process.wait, 30)
            process.send_signal(signal.SIGKILL)
            process.communicate()


def main() -> None:
    launch = msgspec.json.decode(sys.argv[1], type=RankHostLaunch)
    asyncio.run(RankHost(launch, ADDRESS).live(lambda endpoint: print(endpoint, flush=True)))


if __name__ == "__main__":
    main()
