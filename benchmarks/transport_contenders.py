"""Our channel and the bare ZMQ pairs it is held against: one producer, one consumer, each a process of its own.

A contender takes a number of groups and returns seconds, measured in the consumer from the first group's arrival to the
last one's; start-up is not counted.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import shutil
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from ring_async.config.schema import TransportSection
from ring_async.testing.builders import make_group
from ring_async.transport.channel import ZmqTransport
from ring_async.transport.curve import CurveKeys, make_socket_dir
from ring_async.transport.messages.work import GroupGenerated
from transport_payload import GROUP_SIZE, NUM_TOKENS, make_arrays

IDS, LOGPROBS = make_arrays()

Run = Callable[..., None]


def measure(produce: Run, consume: Run, num_groups: int, *arguments: Any) -> float:
    """Run both sides in fresh processes. The consumer reports where it listens, then how long it took."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    consumer = spawn.Process(target=consume, args=(theirs, num_groups, *arguments))
    consumer.start()
    producer = spawn.Process(target=produce, args=(ours.recv(), num_groups, *arguments))
    producer.start()
    try:
        deadline_s = time.monotonic() + 120
        while not ours.poll(0.5):
            if not consumer.is_alive() or producer.exitcode or time.monotonic() > deadline_s:
                raise RuntimeError(f"{consume.__name__}: {num_groups} groups did not arrive; see above")
        seconds: float = ours.recv()
    finally:
        for process in (producer, consumer):
            process.join(10)
            if process.is_alive():
                process.kill()
                process.join()
    return seconds


# -- the limit: a bare PUSH/PULL pair, no envelope, no acknowledgement, no credits


def bare_ipc(num_groups: int) -> float:
    directory = make_socket_dir()
    try:
        return measure(_bare_produce, _bare_consume, num_groups, f"ipc://{directory}/bare", None)
    finally:
        shutil.rmtree(directory)


def bare_tcp(num_groups: int) -> float:
    return measure(_bare_produce, _bare_consume, num_groups, "tcp://127.0.0.1:*", None)


def bare_curve(num_groups: int) -> float:
    return measure(_bare_produce, _bare_consume, num_groups, "tcp://127.0.0.1:*", make_keys())


def make_keys() -> CurveKeys:
    return CurveKeys(*zmq.curve_keypair(), *zmq.curve_keypair())


def _bare_produce(endpoint: str, num_groups: int, _address: str, keys: CurveKeys | None) -> None:
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        if keys is not None:
            keys.secure_client(socket)
        socket.connect(endpoint)
        for _ in range(num_groups):
            socket.send_multipart([b"head", IDS, LOGPROBS], copy=False)
        socket.close(linger=60_000)


def _bare_consume(pipe: Connection, num_groups: int, address: str, keys: CurveKeys | None) -> None:
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        if keys is not None:
            socket.setsockopt(zmq.CURVE_SERVER, 1)
            socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.server_public)
            socket.setsockopt(zmq.CURVE_SECRETKEY, keys.server_secret)
        socket.bind(address)
        pipe.send(socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0"))
        frames = socket.recv_multipart(copy=False)
        start_s = time.perf_counter()
        for _ in range(num_groups - 1):
            frames = socket.recv_multipart(copy=False)
        seconds = time.perf_counter() - start_s
        check_arrays(frames[1].buffer, frames[2].buffer)
        pipe.send(seconds)


# -- ours: envelope, typed header, credits, acknowledgement of every group


class OpenDoors(CurveKeys):
    """Keys that lock nothing: what tcp would do without CURVE. The channel itself offers no such thing."""

    def secure_server(self, socket: Any) -> None: ...

    def secure_client(self, socket: Any) -> None: ...


def ring_ipc(num_groups: int, **settings: Any) -> float:
    return _ring(num_groups, TransportSection(kind="ipc", **settings), None)


def ring_tcp(num_groups: int) -> float:
    keys = OpenDoors(*zmq.curve_keypair(), *zmq.curve_keypair())
    return _ring(num_groups, TransportSection(kind="tcp"), keys)


def ring_curve(num_groups: int) -> float:
    return _ring(num_groups, TransportSection(kind="tcp"), make_keys())


def _ring(num_groups: int, config: TransportSection, keys: CurveKeys | None) -> float:
    directory = make_socket_dir()
    try:
        return measure(_ring_produce, _ring_consume, num_groups, config, directory, keys)
    finally:
        shutil.rmtree(directory)


def _ring_produce(
    endpoint: str, num_groups: int, config: TransportSection, directory: Path, keys: CurveKeys | None
) -> None:
    group = make_group(rewards=[None] * GROUP_SIZE, lengths=NUM_TOKENS, max_tokens=NUM_TOKENS).header

    async def main() -> None:
        transport = ZmqTransport("rollout-0", config, directory, keys)
        outbox = transport.connect(endpoint, peer="replay-0")
        message = GroupGenerated(group)
        for number in range(num_groups):
            acknowledged = await outbox.send(message, (IDS, LOGPROBS), message_id=f"group-{number}")
        await acknowledged
        await outbox.close(drain_s=30)
        await transport.close()

    asyncio.run(main())


def _ring_consume(
    pipe: Connection, num_groups: int, config: TransportSection, directory: Path, keys: CurveKeys | None
) -> None:
    async def main() -> None:
        transport = ZmqTransport("replay-0", config, directory, keys)
        inbox = transport.open_inbox("data")
        pipe.send(inbox.endpoint)
        delivery = await inbox.receive()
        delivery.ack()
        start_s = time.perf_counter()
        for _ in range(num_groups - 1):
            delivery = await inbox.receive()
            delivery.ack()
        seconds = time.perf_counter() - start_s
        assert isinstance(delivery.message, GroupGenerated)
        check_arrays(*delivery.buffers)
        del delivery
        gc.collect()
        pipe.send(seconds)
        await transport.close()

    asyncio.run(main())


def check_arrays(ids: Any, logprobs: Any) -> None:
    """What arrived is what was sent."""
    assert np.array_equal(np.frombuffer(ids, np.int32), IDS.ravel())
    assert np.array_equal(np.frombuffer(logprobs, np.float32), LOGPROBS.ravel())
