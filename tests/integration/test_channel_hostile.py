"""Bad messages over real sockets: counted by cause, while the connection and honest traffic live on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import zmq

from channel_planes import ZmqPlane, open_plane
from ring_async.config.schema import TransportSection
from ring_async.errors import TransportError
from ring_async.transport.codec import Codec, Hello, Welcome
from ring_async.transport.memory import MemoryFrame
from ring_async.transport.messages.base import SCHEMA_VERSION, Done
from ring_async.transport.messages.fleet import Pause

LIMITS = {"max_frames": 4, "max_frame_bytes": 20_000, "max_header_bytes": 16_384}
CODEC = Codec(TransportSection(**LIMITS))
HELLO = CODEC.encode_envelope(Hello(SCHEMA_VERSION, 1, "mallory", 0, 0))

BAD = {
    "truncated": [HELLO[:-3]],
    "malformed": [b"\xc1"],
    "invalid": [b"not MessagePack of ours"],
    "unknown_type": [bytes((0x92, 0x63, SCHEMA_VERSION))],
    "wrong_version": [CODEC.encode_envelope(Hello(SCHEMA_VERSION + 1, 1, "mallory", 0, 0))],
    "too_many_frames": [HELLO, *[b""] * 2000],
    "frame_too_large": [HELLO, bytes(20_001)],
    "header_too_large": [bytes(16_385)],
}


async def answered(socket: Any, hello: bytes = HELLO) -> bool:
    """Whether a hello on this very connection is welcomed."""
    socket.send(hello)
    for _ in range(200):
        await asyncio.sleep(0.01)
        if socket.poll(0):
            frames = [MemoryFrame(frame) for frame in socket.recv_multipart()]
            return isinstance(CODEC.decode_to_sender(frames), Welcome)
    return False


@pytest.mark.parametrize("cause", BAD)
def test_a_bad_message_is_counted_and_its_connection_lives(cause: str) -> None:
    async def body() -> None:
        async with asyncio.timeout(30), open_plane("zmq-ipc", **LIMITS) as plane:
            inbox = plane.transport("replay-0").open_inbox("data")
            with zmq.Context() as context, context.socket(zmq.DEALER) as mallory:
                mallory.setsockopt(zmq.LINGER, 0)
                mallory.connect(inbox.endpoint)
                for _ in range(3):
                    mallory.send_multipart(BAD[cause])
                assert await answered(mallory)
            assert inbox.rejected == {cause: 3}

    asyncio.run(body())


def test_a_frame_beyond_all_measure_cuts_its_own_connection_alone() -> None:
    async def body() -> None:
        async with asyncio.timeout(30), open_plane("zmq-ipc", **LIMITS) as plane:
            inbox = plane.transport("replay-0").open_inbox("data")
            outbox = plane.transport("rollout-0").connect(inbox.endpoint, peer="replay-0")
            with zmq.Context() as context, context.socket(zmq.DEALER) as mallory:
                mallory.setsockopt(zmq.LINGER, 0)
                mallory.connect(inbox.endpoint)
                mallory.send_multipart([HELLO, bytes(100_000)])
                ack = await outbox.send(Done(), message_id="0")
                delivery = await inbox.receive()
                assert delivery.sender == "rollout-0"
                delivery.ack()
                await ack
                assert await answered(mallory)  # after libzmq has reconnected it
            assert not inbox.rejected

    asyncio.run(body())


def test_a_bad_address_is_refused_and_changes_nothing() -> None:
    async def body() -> None:
        async with asyncio.timeout(30), open_plane("zmq-ipc") as plane:
            inbox = plane.transport("replay-0").open_inbox("data")
            sender = plane.transport("rollout-0")
            outbox = sender.connect(inbox.endpoint, peer="replay-0")
            for bad in ("nowhere", "ipc://" + 200 * "x", "tcp://127.0.0.1:70000"):
                with pytest.raises(TransportError, match="rollout-0"):
                    await outbox.redirect(bad)
                with pytest.raises(TransportError, match="rollout-0"):
                    sender.connect(bad, peer="replay-0")
            ack = await outbox.send(Done(), message_id="0")
            (await inbox.receive()).ack()
            await ack

    asyncio.run(body())


def test_names_too_long_for_a_socket_are_shortened() -> None:
    async def body() -> None:
        async with asyncio.timeout(30), open_plane("zmq-ipc") as plane:
            inboxes = [plane.transport(actor_id).open_inbox("data") for actor_id in (120 * "a", 119 * "a" + "b")]
            assert inboxes[0].endpoint != inboxes[1].endpoint
            outbox = plane.transport(300 * "c").connect(inboxes[1].endpoint, peer="b")
            ack = await outbox.send(Done(), message_id="0")
            delivery = await inboxes[1].receive()
            assert delivery.sender == 300 * "c"
            delivery.ack()
            await ack

    asyncio.run(body())


def test_control_is_read_before_data() -> None:
    """Both inboxes have messages waiting in their sockets: whichever descriptor fires first, control comes first."""

    async def body() -> None:
        async with asyncio.timeout(30), open_plane("zmq-ipc", credits=64) as plane:
            assert isinstance(plane, ZmqPlane)
            receiver, sender = plane.transport("replay-0"), plane.transport("rollout-0")
            inboxes = {name: receiver.open_inbox(name) for name in ("data", "control")}
            outboxes = {name: sender.connect(inbox.endpoint, peer="replay-0") for name, inbox in inboxes.items()}
            order: list[str] = []

            async def consume(name: str) -> None:
                while True:
                    delivery = await inboxes[name].receive()
                    order.append(name)
                    delivery.ack()

            consumers = [asyncio.create_task(consume(name)) for name in inboxes]
            for outbox in outboxes.values():
                await (await outbox.send(Pause(), message_id="warm-up"))
            for turn in range(20):
                order.clear()
                acks = [await outboxes["data"].send(Pause(), message_id=f"d{turn}-{n}") for n in range(10)]
                acks.append(await outboxes["control"].send(Pause(), message_id=f"c{turn}"))
                # The loop has not run since: nothing is read before both sockets have something to read.
                while not all(link._events() & zmq.POLLIN for link in receiver._routers):
                    pass
                data_link, _ = receiver._routers
                data_link.schedule_poll()  # asking for events took the descriptors' signal; and data may be seen first
                await asyncio.gather(*acks)
                assert order == ["control"] + 10 * ["data"]
            for consumer in consumers:
                consumer.cancel()

    asyncio.run(body())
