"""No copy on either side, and no growth: with real sockets and real memory."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import zmq

from channel_planes import PLANES, Plane, ZmqPlane, open_plane, run_on
from ring_async.transport.channel import DealerLink
from ring_async.transport.messages.base import Done

RECEIVER = """
import asyncio, sys
from pathlib import Path
from ring_async.config.schema import TransportSection
from ring_async.transport.channel import ZmqTransport

async def main():
    transport = ZmqTransport("replay-0", TransportSection(credits=16), Path(sys.argv[1]), None)
    inbox = transport.open_inbox("data")
    print(inbox.endpoint, flush=True)
    for _ in range(17):
        delivery = await inbox.receive()
        delivery.ack()
        del delivery
    await inbox.close()
    await transport.close()

asyncio.run(main())
"""
MIB = 1 << 20


@pytest.mark.parametrize("plane_kind", PLANES)
def test_received_buffers_are_views_that_outlive_everything_else(plane_kind: str) -> None:
    async def body(plane: Plane) -> None:
        inbox = plane.transport("replay-0").open_inbox("data")
        outbox = plane.transport("rollout-0").connect(inbox.endpoint, peer="replay-0")
        array = np.arange(1 << 18, dtype=np.int32)
        ack = await outbox.send(Done(), [array], message_id="0")
        delivery = await inbox.receive()
        received = np.frombuffer(delivery.buffers[0], np.int32)
        if isinstance(plane, ZmqPlane):
            assert isinstance(delivery.buffers[0].obj, zmq.Frame), "a copy, not the received frame"
        else:
            assert np.shares_memory(received, array)
        delivery.ack()
        await ack
        del delivery
        await inbox.close()
        assert np.array_equal(received, array)

    run_on(plane_kind, body)


def test_what_goes_to_the_socket_is_the_senders_own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[memoryview] = []
    send_frames = DealerLink._send_frames

    def spy(self: DealerLink, frames: tuple[bytes | memoryview, ...]) -> None:
        seen.extend(frame for frame in frames if isinstance(frame, memoryview))
        send_frames(self, frames)

    monkeypatch.setattr(DealerLink, "_send_frames", spy)

    async def body(plane: Plane) -> None:
        inbox = plane.transport("replay-0").open_inbox("data")
        outbox = plane.transport("rollout-0").connect(inbox.endpoint, peer="replay-0")
        arrays = [np.arange(1 << 16, dtype=np.int32), np.ones((8, 2048), np.float32)]
        ack = await outbox.send(Done(), arrays, message_id="0")
        for view, array in zip(seen, arrays, strict=True):
            assert np.shares_memory(np.frombuffer(view, np.uint8), array)
        (await inbox.receive()).ack()
        await ack

    run_on("zmq-ipc", body)


def test_a_stopped_receiver_makes_the_sender_wait_without_growing() -> None:
    """16 messages of 32 MiB wait for a stopped process: half a gigabyte, if any side of the sender had copied it."""

    async def body() -> None:
        async with asyncio.timeout(60), open_plane("zmq-ipc") as plane:
            assert isinstance(plane, ZmqPlane)
            receiver = subprocess.Popen(
                [sys.executable, "-c", RECEIVER, str(plane.directory)], stdout=subprocess.PIPE, text=True
            )
            try:
                assert receiver.stdout is not None
                endpoint = (await asyncio.to_thread(receiver.stdout.readline)).strip()
                outbox = plane.transport("rollout-0").connect(endpoint, peer="replay-0")
                array = np.ones(8 * MIB, np.int32)
                await (await outbox.send(Done(), message_id="first"))
                receiver.send_signal(signal.SIGSTOP)
                before = psutil.Process().memory_info().rss
                acks = [await outbox.send(Done(), [array], message_id=str(n)) for n in range(16)]
                waiting = asyncio.create_task(outbox.send(Done(), [array], message_id="one too many"))
                await asyncio.sleep(1.2)
                assert outbox.waiting_for == "credit from replay-0, 1 s"
                assert psutil.Process().memory_info().rss - before < 24 * MIB
                waiting.cancel()
                receiver.send_signal(signal.SIGCONT)
                await asyncio.gather(*acks)
                await outbox.close()
            finally:
                receiver.kill()
                receiver.wait()
                receiver.stdout.close()

    asyncio.run(body())


def test_traffic_leaves_no_memory_behind() -> None:
    """The second thousand messages of 1 MiB take no more memory than the first."""

    async def body() -> None:
        async with asyncio.timeout(120), open_plane("zmq-ipc") as plane:
            inbox = plane.transport("replay-0").open_inbox("data")
            outbox = plane.transport("rollout-0").connect(inbox.endpoint, peer="replay-0")
            array = np.ones(MIB, np.uint8)

            async def consume() -> None:
                while True:
                    (await inbox.receive()).ack()

            async def produce() -> None:
                for n in range(300):
                    ack = await outbox.send(Done(), [array], message_id=str(n))
                    await outbox.request(Done(), [array], timeout_s=10)
                    await ack

            consumer = asyncio.create_task(consume())
            await produce()
            before = psutil.Process().memory_info().rss
            await produce()
            assert psutil.Process().memory_info().rss - before < 24 * MIB
            consumer.cancel()

    asyncio.run(body())


def test_a_killed_receiver_is_replaced_and_nothing_is_lost(tmp_path: Path) -> None:
    """kill -9 between acknowledgements; a successor at the same path gets what was not acknowledged, from then on."""
    receiver_code = RECEIVER.replace("delivery.ack()", "print(delivery.message_id, flush=True)")

    async def body() -> None:
        async with asyncio.timeout(60), open_plane("zmq-ipc") as plane:
            assert isinstance(plane, ZmqPlane)
            receiver = subprocess.Popen(
                [sys.executable, "-c", receiver_code, str(plane.directory)], stdout=subprocess.PIPE, text=True
            )
            try:
                assert receiver.stdout is not None
                endpoint = (await asyncio.to_thread(receiver.stdout.readline)).strip()
                outbox = plane.transport("rollout-0").connect(endpoint, peer="replay-0")
                acks = [await outbox.send(Done(), message_id=str(n)) for n in range(8)]
                for n in range(8):
                    assert (await asyncio.to_thread(receiver.stdout.readline)).strip() == str(n)
                os.kill(receiver.pid, signal.SIGKILL)
                receiver.wait()
                inbox = plane.transport("replay-0").open_inbox("data")
                assert inbox.endpoint == endpoint
                for n in range(8):
                    delivery = await inbox.receive()
                    assert delivery.message_id == str(n)
                    delivery.ack()
                await asyncio.gather(*acks)
            finally:
                receiver.kill()
                receiver.wait()
                receiver.stdout.close()

    asyncio.run(body())
