"""The channel's figures reach the metrics once, as they grow."""

from __future__ import annotations

import asyncio

from ring_async.telemetry.metrics import REGISTRY
from ring_async.testing.virtual_clock import run_virtual
from ring_async.transport.memory import MemoryHub, MemoryTransport
from ring_async.transport.messages.base import Done


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_figures_grow_as_messages_go() -> None:
    async def body() -> None:
        hub = MemoryHub()
        receiver, sender = MemoryTransport("meter-inbox", hub), MemoryTransport("meter-outbox", hub)
        inbox = receiver.open_inbox("data", credits=1)
        outbox = sender.connect(inbox.endpoint, peer="meter-inbox")
        await outbox.send(Done(), [bytes(1000)], message_id="0")
        waiting = asyncio.create_task(outbox.send(Done(), message_id="1"))
        delivery = await inbox.receive()
        await asyncio.sleep(2)
        for _ in range(2):
            sender.observe()
            receiver.observe()
        assert value("ring_transport_unacknowledged_messages", peer="meter-inbox") == 1
        sent = value("ring_transport_sent_bytes_total", peer="meter-inbox")
        assert 1000 < sent < 1100
        assert value("ring_transport_received_bytes_total", peer="meter-outbox") == sent
        delivery.ack()
        await waiting
        outbox.on_disconnected()
        outbox.on_connected()
        (await inbox.receive()).ack()
        await asyncio.sleep(1)
        hub.to_inbox(outbox._link, [b"rubbish"])  # type: ignore[arg-type]
        await asyncio.sleep(0)
        rejected = value("ring_transport_rejected_frames_total", cause="invalid")
        sender.observe()
        receiver.observe()
        assert value("ring_transport_unacknowledged_messages", peer="meter-inbox") == 0
        assert value("ring_transport_rejected_frames_total", cause="invalid") == rejected + 1
        assert 2 <= value("ring_transport_credit_wait_seconds_total", peer="meter-inbox") < 2.1
        await sender.close()
        await receiver.close()

    run_virtual(body())
