"""The ways of bringing messages from actor to actor, behind one face, for the contract suite."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ring_async.config.schema import TransportSection
from ring_async.testing.faulty_channel import Faults, FaultyHub
from ring_async.testing.virtual_clock import run_virtual
from ring_async.transport.channel import ZmqTransport
from ring_async.transport.curve import CurveKeys, make_socket_dir
from ring_async.transport.memory import MemoryHub, MemoryTransport

PLANES = ("memory", "faulty", "zmq-ipc", "zmq-tcp-curve")
FAULTS = Faults(drop=0.1, duplicate=0.1, reorder=0.2, delay_s=(0.0, 0.01))


class MemoryPlane:
    def __init__(self, hub: MemoryHub) -> None:
        self.hub = hub
        self.opened: list[MemoryTransport] = []

    def transport(self, actor_id: str) -> MemoryTransport:
        self.opened.append(MemoryTransport(actor_id, self.hub))
        return self.opened[-1]


class ZmqPlane:
    def __init__(self, config: TransportSection, directory: Path, keys: CurveKeys | None) -> None:
        self.config = config
        self.directory = directory
        self.keys = keys
        self.opened: list[ZmqTransport] = []

    def transport(self, actor_id: str) -> ZmqTransport:
        self.opened.append(ZmqTransport(actor_id, self.config, self.directory, self.keys))
        return self.opened[-1]


Plane = MemoryPlane | ZmqPlane


@asynccontextmanager
async def open_plane(kind: str, *, seed: int = 0, **limits: Any) -> AsyncIterator[Plane]:
    """A place where transports of any number of actors meet; closes those that are left open."""
    directory = None
    plane: Plane
    if kind == "memory":
        plane = MemoryPlane(MemoryHub(TransportSection(**limits)))
    elif kind == "faulty":
        plane = MemoryPlane(FaultyHub(FAULTS, seed=seed, limits=TransportSection(**limits)))
    else:
        directory = make_socket_dir()
        is_tcp = kind == "zmq-tcp-curve"
        keys = CurveKeys.make_run_keys(directory / "keys") if is_tcp else None
        plane = ZmqPlane(TransportSection(kind="tcp" if is_tcp else "ipc", **limits), directory, keys)
    try:
        yield plane
    finally:
        for transport in plane.opened:
            await transport.close()
        if directory is not None:
            shutil.rmtree(directory)


def run_on(kind: str, body: Callable[[Plane], Coroutine[Any, Any, None]], *, seed: int = 0, **limits: Any) -> None:
    """Run a test's body on one plane: under the virtual clock where there are no sockets, with a deadline always."""

    async def main() -> None:
        async with asyncio.timeout(30), open_plane(kind, seed=seed, **limits) as plane:
            await body(plane)

    if kind in ("memory", "faulty"):
        run_virtual(main(), limit_s=3600)
    else:
        asyncio.run(main())
