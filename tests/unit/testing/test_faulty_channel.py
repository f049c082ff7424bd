"""The faulty channel does what it is told, and the same for the same seed; the sessions over it put it right."""

from __future__ import annotations

import asyncio

import pytest

from ring_async.errors import PeerTimeoutError
from ring_async.testing.faulty_channel import Faults, FaultyHub
from ring_async.testing.virtual_clock import run_virtual
from ring_async.transport.memory import MemoryTransport
from ring_async.transport.messages.base import Done
from ring_async.transport.messages.fleet import Pause

BAD = Faults(drop=0.3, duplicate=0.3, reorder=0.3, delay_s=(0.0, 0.05))


def arrivals(faults: Faults, seed: int, count: int = 200) -> tuple[list[tuple[int, float]], FaultyHub]:
    """What becomes of `count` messages sent at once: which number arrives when."""
    hub = FaultyHub(faults, seed=seed)
    arrived: list[tuple[int, float]] = []

    async def body() -> None:
        loop = asyncio.get_running_loop()
        for n in range(count):
            hub.dispatch("a-0", "b-0", lambda n=n: arrived.append((n, loop.time())))
        await asyncio.sleep(10)

    run_virtual(body())
    return arrived, hub


def test_the_seed_decides_everything() -> None:
    assert arrivals(BAD, 1)[0] == arrivals(BAD, 1)[0]
    assert arrivals(BAD, 1)[0] != arrivals(BAD, 2)[0]


def test_every_fault_happens_and_is_counted() -> None:
    arrived, hub = arrivals(BAD, 3)
    numbers = [number for number, _ in arrived]
    assert hub.happened["dropped"] == 200 - len(set(numbers)) > 0
    assert hub.happened["duplicated"] == len(numbers) - len(set(numbers)) > 0
    assert hub.happened["reordered"] > 0
    assert numbers != sorted(numbers)
    assert hub.happened["delivered"] == len(numbers)


def test_delay_alone_keeps_the_order() -> None:
    arrived, _ = arrivals(Faults(delay_s=(0.01, 0.5)), 0)
    assert [number for number, _ in arrived] == list(range(200))
    assert all(0.01 <= when <= 0.51 for _, when in arrived)


@pytest.mark.parametrize("seed", range(4))
def test_a_partition_is_waited_out_and_nothing_is_lost_or_doubled(seed: int) -> None:
    hub = FaultyHub(BAD, seed=seed)
    arrived = []

    async def body() -> None:
        inbox = MemoryTransport("replay-0", hub).open_inbox("data")
        outbox = MemoryTransport("rollout-0", hub).connect(inbox.endpoint, peer="replay-0")

        async def consume() -> None:
            while True:
                delivery = await inbox.receive()
                if delivery.is_request:
                    delivery.reply(Done())
                else:
                    arrived.append(delivery.message_id)
                    delivery.ack()

        consumer = asyncio.create_task(consume())
        acks = [await outbox.send(Done(), message_id=str(n)) for n in range(20)]
        hub.cut("replay-0", "rollout-0")
        acks += [await outbox.send(Done(), message_id=str(n)) for n in range(20, 20 + 16 - outbox.num_unacknowledged)]
        with pytest.raises(PeerTimeoutError, match="replay-0"):
            await outbox.request(Pause(), timeout_s=30)
        assert not all(ack.done() for ack in acks)
        hub.heal()
        await asyncio.wait_for(asyncio.gather(*acks), 120)
        await outbox.request(Pause(), timeout_s=30)
        consumer.cancel()
        assert arrived == [str(n) for n in range(len(acks))]

    run_virtual(body(), limit_s=600)
    assert hub.happened["cut"] > 0
