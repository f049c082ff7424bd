"""The four ways of bringing messages from actor to actor, behind one face, for the contract suite."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from ring_async.config.schema import TransportSection
from ring_async.transport.base import Transport
from ring_async.transport.channel import ZmqTransport
from ring_async.transport.curve import CurveKeys, make_socket_dir
from ring_async.transport.memory import MemoryHub, MemoryTransport


class Plane(Protocol):
    """Opens transports of any number of actors, and closes what is left open."""

    def transport(self, actor_id: str) -> Transport: ...


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


@asynccontextmanager
async def open_plane(kind: str, **limits: int) -> AsyncIterator[Plane]:
    """kind: `memory`, `zmq-ipc`, `zmq-tcp-curve`."""
    if kind == "memory":
        plane: MemoryPlane | ZmqPlane = MemoryPlane(MemoryHub(TransportSection(**limits)))
        directory = None
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
