"""An inbox that is cancelled while it waits for the last receipts frees its address all the same."""

from __future__ import annotations

import asyncio

import pytest

from ring_async.testing.virtual_clock import run_virtual
from ring_async.transport.memory import MemoryHub, MemoryTransport
from ring_async.transport.messages.work import GroupsFailed


def test_a_cancelled_close_frees_the_address():
    async def main() -> None:
        hub = MemoryHub()
        receiver, sender = MemoryTransport("replay-0", hub), MemoryTransport("rollout-0", hub)
        inbox = receiver.open_inbox("data")
        outbox = sender.connect(inbox.endpoint, peer="replay-0")
        await outbox.send(GroupsFailed(("g0",), "test"), (), message_id="g0")
        (await inbox.receive()).ack()
        hub.dispatch = lambda source, target, deliver: None  # type: ignore[method-assign]  # no receipt arrives
        closing = asyncio.create_task(inbox.close())
        await asyncio.sleep(0)
        assert not closing.done(), "it waits for the receipt"
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert not hub.is_open(inbox.endpoint)
        await sender.close()

    run_virtual(main(), limit_s=60.0)
