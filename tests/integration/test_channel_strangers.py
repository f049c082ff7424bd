"""Who has not the run's keys gets nothing in, and honest traffic goes on beside it."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
import zmq

from channel_planes import ZmqPlane, open_plane
from ring_async.config.schema import TransportSection
from ring_async.transport.codec import Codec, Hello
from ring_async.transport.curve import CurveKeys
from ring_async.transport.messages.base import SCHEMA_VERSION, Done

TRIES = 20


def address_of(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    return host, int(port)


def shout(endpoint: str, prepare: Callable[[Any], None]) -> None:
    """A ZMQ stranger: says a perfect hello, many times over, and listens for an answer."""
    hello = Codec(TransportSection()).encode_envelope(Hello(SCHEMA_VERSION, 1, "rollout-0", 0, 0))
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        prepare(dealer)
        dealer.connect(endpoint)
        for _ in range(TRIES):
            dealer.send(hello)
        assert dealer.poll(700) == 0, "a stranger was answered"


def no_key(dealer: Any) -> None:
    """Plain ZMQ."""


def wrong_server_key(keys: CurveKeys) -> Callable[[Any], None]:
    def prepare(dealer: Any) -> None:
        CurveKeys(*zmq.curve_keypair(), *zmq.curve_keypair()).secure_client(dealer)

    return prepare


def wrong_client_key(keys: CurveKeys) -> Callable[[Any], None]:
    """Knows the server's public key, which is no secret, and has a key pair of its own."""

    def prepare(dealer: Any) -> None:
        public, secret = zmq.curve_keypair()
        CurveKeys(keys.server_public, b"", public, secret).secure_client(dealer)

    return prepare


def right_public_wrong_secret(keys: CurveKeys) -> Callable[[Any], None]:
    """Shows the run's public client key without having its secret."""

    def prepare(dealer: Any) -> None:
        _, secret = zmq.curve_keypair()
        CurveKeys(keys.server_public, b"", keys.client_public, secret).secure_client(dealer)

    return prepare


def plain_password(dealer: Any) -> None:
    dealer.setsockopt(zmq.PLAIN_USERNAME, b"admin")
    dealer.setsockopt(zmq.PLAIN_PASSWORD, b"admin")


def send_bytes(endpoint: str, make: Callable[[random.Random], bytes]) -> None:
    """A TCP stranger."""
    chance = random.Random(7)
    for _ in range(TRIES):
        with socket.create_connection(address_of(endpoint), timeout=5) as connection:
            connection.settimeout(0.05)
            try:
                connection.sendall(make(chance))
                connection.recv(4096)  # the greeting of the protocol, nothing of ours
            except OSError:
                pass


def http(chance: random.Random) -> bytes:
    return b"POST /batch HTTP/1.1\r\nHost: replay\r\nContent-Length: 4\r\n\r\n\x00\x00\x00\x00"


def random_bytes(chance: random.Random) -> bytes:
    return chance.randbytes(chance.randrange(1, 4000))


def greeting_then_random(chance: random.Random) -> bytes:
    greeting = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"CURVE".ljust(20, b"\0") + b"\0" + bytes(31)
    return greeting + chance.randbytes(500)


def zmq_stranger(make: Callable[[CurveKeys], Callable[[Any], None]]) -> Callable[[str, CurveKeys], None]:
    return lambda endpoint, keys: shout(endpoint, make(keys))


def tcp_stranger(make: Callable[[random.Random], bytes]) -> Callable[[str, CurveKeys], None]:
    return lambda endpoint, _: send_bytes(endpoint, make)


STRANGERS = {
    "no key": zmq_stranger(lambda _: no_key),
    "wrong server key": zmq_stranger(wrong_server_key),
    "wrong client key": zmq_stranger(wrong_client_key),
    "right public key, wrong secret": zmq_stranger(right_public_wrong_secret),
    "user and password": zmq_stranger(lambda _: plain_password),
    "HTTP": tcp_stranger(http),
    "random bytes": tcp_stranger(random_bytes),
    "greeting, then random bytes": tcp_stranger(greeting_then_random),
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_stranger_gets_nothing_and_honest_traffic_goes_on(stranger: str) -> None:
    async def body() -> None:
        async with asyncio.timeout(60), open_plane("zmq-tcp-curve") as plane:
            assert isinstance(plane, ZmqPlane)
            assert plane.keys is not None
            inbox = plane.transport("replay-0").open_inbox("data")
            outbox = plane.transport("rollout-0").connect(inbox.endpoint, peer="replay-0")
            assert inbox.endpoint.startswith("tcp://")
            senders = set()
            num_acknowledged = 0

            async def consume() -> None:
                while True:
                    delivery = await inbox.receive()
                    senders.add((delivery.sender, delivery.message_id.partition("-")[0]))
                    delivery.ack()

            consumer = asyncio.create_task(consume())
            await (await outbox.send(Done(), message_id="honest-before"))
            attack = asyncio.create_task(asyncio.to_thread(STRANGERS[stranger], inbox.endpoint, plane.keys))
            while not attack.done() or num_acknowledged < 50:
                await (await outbox.send(Done(), message_id=f"honest-{num_acknowledged}"))
                num_acknowledged += 1
            await attack
            # Honest actors can also still come in.
            late = plane.transport("rollout-1").connect(inbox.endpoint, peer="replay-0")
            await (await late.send(Done(), message_id="honest-late"))
            consumer.cancel()
            assert senders == {("rollout-0", "honest"), ("rollout-1", "honest")}
            assert not inbox.rejected, "bytes of a stranger came as far as the codec"

    asyncio.run(body())


def test_keys_of_another_run_are_counted_as_denied() -> None:
    async def body() -> None:
        async with asyncio.timeout(60), open_plane("zmq-tcp-curve") as plane:
            assert isinstance(plane, ZmqPlane)
            assert plane.keys is not None
            transport = plane.transport("replay-0")
            inbox = transport.open_inbox("data")
            await asyncio.to_thread(shout, inbox.endpoint, wrong_client_key(plane.keys))
            assert transport.denied["wrong_key"] >= 1

    asyncio.run(body())


def test_a_server_of_another_run_is_not_trusted() -> None:
    """The client checks the server as well: a squatter on a known port learns nothing."""

    async def body() -> None:
        async with asyncio.timeout(60), open_plane("zmq-tcp-curve") as plane:
            with zmq.Context() as context, context.socket(zmq.ROUTER) as squatter:
                squatter.setsockopt(zmq.LINGER, 0)
                public, secret = zmq.curve_keypair()
                squatter.setsockopt(zmq.CURVE_SERVER, 1)
                squatter.setsockopt(zmq.CURVE_PUBLICKEY, public)
                squatter.setsockopt(zmq.CURVE_SECRETKEY, secret)
                port = squatter.bind_to_random_port("tcp://127.0.0.1")
                outbox = plane.transport("rollout-0").connect(f"tcp://127.0.0.1:{port}", peer="replay-0")
                sending = asyncio.create_task(outbox.send(Done(), message_id="0"))
                start_s = time.monotonic()
                while time.monotonic() - start_s < 0.7:
                    await asyncio.sleep(0.05)
                    assert squatter.poll(0) == 0
                assert outbox.waiting_for is not None
                sending.cancel()

    asyncio.run(body())
