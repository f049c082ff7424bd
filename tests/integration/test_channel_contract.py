"""What `transport.base` promises, over every channel: one suite."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from channel_planes import PLANES, Plane, run_on
from ring_async.errors import CodecError, PeerTimeoutError, RefusedError, TransportError
from ring_async.transport.messages.base import Done, Message
from ring_async.transport.messages.batches import BatchNotReady, RequestBatch
from ring_async.transport.messages.changes import TuneKnobs
from ring_async.transport.messages.fleet import Pause
from ring_async.transport.messages.work import GroupsFailed
from ring_async.types import PolicyVersion

ON_EVERY_PLANE = pytest.mark.parametrize("plane_kind", PLANES)
ASK = RequestBatch(plan_number=0, policy_version=PolicyVersion(0, 0), wait_s=0.0)


def failed(number: int) -> GroupsFailed:
    """A message that carries a number."""
    return GroupsFailed(group_ids=(str(number),), cause="test")


def number_of(message: Message) -> int:
    assert isinstance(message, GroupsFailed)
    return int(message.group_ids[0])


@ON_EVERY_PLANE
def test_messages_and_buffers_arrive_as_sent_and_in_order(plane_kind: str) -> None:
    async def body(plane: Plane) -> None:
        inbox = plane.transport("replay-0").open_inbox("data")
        outbox = plane.transport("rollout-0").connect(inbox.endpoint, peer="replay-0")
        arrays = [np.arange(n, dtype=np.int32).reshape(-1, 1) for n in range(50)]
        arrived = []

        async def consume() -> None:
            while len(arrived) < 50:
                delivery = await inbox.receive()
                arrived.append((delivery.sender, number_of(delivery.message), *map(bytes, delivery.buffers)))
                delivery.ack()

        consumer = asyncio.create_task(consume())
        acks = [await outbox.send(failed(n), [arrays[n], b"tail"], message_id=str(n)) for n in range(50)]
        await asyncio.gather(*acks)
        await consumer
        assert arrived == [("rollout-0", n, arrays[n].tobytes(), b"tail") for n in range(50)]
        assert outbox.num_unacknowledged == 0
        assert not inbox.rejected
        assert not outbox.rejected

    run_on(plane_kind, body)


@ON_EVERY_PLANE
def test_nothing_is_acknowledged_before_the_receiver_says_so(plane_kind: str) -> None:
    async def body(plane: Plane) -> None:
        inbox = plane.transport("replay-0").open_inbox("data")
        outbox = plane.transport("rollout-0").connect(inbox.endpoint, peer="replay-0")
        acks = [await outbox.send(failed(n), message_id=str(n)) for n in range(3)]
        deliveries = [await inbox.receive() for _ in range(3)]
        await asyncio.sleep(0.05)
        assert not any(ack.done() for ack in acks)
        assert outbox.num_unacknowledged == 3
        deliveries[2].ack()
        await acks[2]
        assert [ack.done() for ack in acks] == [False, False, True]
        deliveries[0].ack()
        deliveries[0].ack()
        deliveries[1].ack()
        await asyncio.gather(*acks)
        assert inbox.num_unsettled == 0

    run_on(plane_kind, body)


@ON_EVERY_PLANE
def test_a_refusal_carries_its_reason_and_returns_the_credit(plane_kind: str) -> None:
    async def body(plane: Plane) -> None:
        inbox = plane.transport("replay-0").open_inbox("data", credits=1)
        outbox = plane.transport("rollout-0").connect(inbox.endpoint, peer="replay-0")
        for n in range(3):
            refusal = await outbox.send(failed(n), message_id="the same")
            (await inbox.receive()).refuse("the buffer is closed")
            with pytest.raises(RefusedError, match="replay-0 refused GroupsFailed: the buffer is closed"):
                await refusal
        asked = asyncio.create_task(outbox.request(ASK, timeout_s=20))
        (await inbox.receive()).refuse("no such plan")
        with pytest.raises(RefusedError, match="replay-0 refused RequestBatch: no such plan"):
            await asked

    run_on(plane_kind, body)


@ON_EVERY_PLANE
def test_a_request_is_answered_with_buffers(plane_kind: str) -> None:
    async def body(plane: Plane) -> None:
        inbox = plane.transport("replay-0").open_inbox("data")
        outbox = plane.transport("learner-0").connect(inbox.endpoint, peer="replay-0")
        tokens = np.arange(100_000, dtype=np.int32)

        async def serve() -> None:
            for n in range(20):
                delivery = await inbox.receive()
                assert delivery.is_request
                delivery.reply(BatchNotReady(str(n)), [tokens, tokens[:n]])

        server = asyncio.create_task(serve())
        for n in range(20):
            answer = await outbox.request(ASK, timeout_s=20)
            assert answer.message == BatchNotReady(str(n))
            assert np.array_equal(np.frombuffer(answer.buffers[0], np.int32), tokens)
            assert len(answer.buffers[1]) == 4 * n
        await server
        acknowledged = asyncio.create_task(outbox.request(Pause(), timeout_s=20))
        (await inbox.receive()).ack()
        assert (await acknowledged).message == Done()

    run_on(plane_kind, body)


@ON_EVERY_PLANE
def test_what_was_not_asked_cannot_be_answered(plane_kind: str) -> None:
    async def body(plane: Plane) -> None:
        inbox = plane.transport("replay-0").open_inbox("data")
        outbox = plane.transport("rollout-0").connect(inbox.endpoint, peer="replay-0")
        ack = await outbox.send(failed(0), message_id="0")
        delivery = await inbox.receive()
        with pytest.raises(TransportError, match="GroupsFailed from rollout-0 asked nothing"):
            delivery.reply(Done())
        delivery.ack()
        await ack

    run_on(plane_kind, body)


@ON_EVERY_PLANE
def test_a_deadline_names_the_peer_and_a_late_answer_harms_nobody(plane_kind: str) -> None:
    async def body(plane: Plane) -> None:
        inbox = plane.transport("replay-0").open_inbox("data", credits=1)
        outbox = plane.transport("learner-0").connect(inbox.endpoint, peer="replay-0")
        with pytest.raises(PeerTimeoutError, match=r"replay-0 at .* did not answer RequestBatch within 2 s"):
            await outbox.request(ASK, timeout_s=2)
        with pytest.raises(PeerTimeoutError, match=r"replay-0 at .* did not grant credit for RequestBatch"):
            await outbox.request(ASK, timeout_s=0.1)
        (await inbox.receive()).reply(BatchNotReady("late"))
        asked = asyncio.create_task(outbox.request(ASK, timeout_s=20))
        (await inbox.receive()).reply(BatchNotReady("in time"))
        assert (await asked).message == BatchNotReady("in time")
        assert inbox.num_waiting == 0

    run_on(plane_kind, body)


@ON_EVERY_PLANE
def test_a_sender_without_credit_waits_visibly(plane_kind: str) -> None:
    async def body(plane: Plane) -> None:
        inbox = plane.transport("replay-0").open_inbox("data", credits=4)
        outbox = plane.transport("rollout-0").connect(inbox.endpoint, peer="replay-0")
        sent: list[asyncio.Future[None]] = []

        async def produce() -> None:
            for n in range(8):
                ack = await outbox.send(failed(n), message_id=str(n))
                sent.append(ack)

        producer = asyncio.create_task(produce())
        first = await inbox.receive()
        await asyncio.sleep(1.1)
        assert len(sent) == 4
        assert outbox.waiting_for == "credit from replay-0, 1 s"
        assert inbox.num_unsettled == 4
        first.ack()
        await sent[0]
        while len(sent) < 5:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert len(sent) == 5
        while not producer.done():
            (await inbox.receive()).ack()
        assert outbox.waiting_for is None

    run_on(plane_kind, body)


@ON_EVERY_PLANE
def test_a_cancelled_wait_for_credit_passes_its_turn_on(plane_kind: str) -> None:
    async def body(plane: Plane) -> None:
        inbox = plane.transport("replay-0").open_inbox("data", credits=1)
        outbox = plane.transport("rollout-0").connect(inbox.endpoint, peer="replay-0")
        await outbox.send(failed(0), message_id="0")
        waiting = [asyncio.create_task(outbox.send(failed(n), message_id=str(n))) for n in (1, 2)]
        delivery = await inbox.receive()
        waiting[0].cancel()
        delivery.ack()
        await waiting[1]
        assert number_of((await inbox.receive()).message) == 2

    run_on(plane_kind, body)


@ON_EVERY_PLANE
def test_a_sender_may_come_before_its_receiver(plane_kind: str) -> None:
    async def body(plane: Plane) -> None:
        inbox = plane.transport("replay-0").open_inbox("data")
        endpoint = inbox.endpoint
        await inbox.close()
        outbox = plane.transport("rollout-0").connect(endpoint, peer="replay-0")
        asked = asyncio.create_task(outbox.request(ASK, timeout_s=20))
        await asyncio.sleep(0.1)
        assert outbox.waiting_for is not None
        inbox = reopen(plane, endpoint)
        (await inbox.receive()).reply(Done())
        assert (await asked).message == Done()

    run_on(plane_kind, body)


@ON_EVERY_PLANE
@pytest.mark.parametrize("seed", range(3))
def test_a_receiver_restarts_where_it_was(plane_kind: str, seed: int) -> None:
    async def body(plane: Plane) -> None:
        inbox = plane.transport("replay-0").open_inbox("data")
        outbox = plane.transport("rollout-0").connect(inbox.endpoint, peer="replay-0")
        acks = [await outbox.send(failed(n), message_id=str(n)) for n in range(8)]
        deliveries = [await inbox.receive() for _ in range(6)]
        for n in (0, 1, 4):
            deliveries[n].ack()
        await asyncio.gather(acks[0], acks[1], acks[4])
        endpoint = inbox.endpoint
        await inbox.close()
        deliveries[2].ack()  # too late: this life of the inbox is over
        await asyncio.sleep(0.1)
        inbox = reopen(plane, endpoint)
        again = [await inbox.receive() for _ in range(5)]
        assert [number_of(delivery.message) for delivery in again] == [2, 3, 5, 6, 7]
        for delivery in again:
            delivery.ack()
        await asyncio.gather(*acks)

    run_on(plane_kind, body, seed=seed)


@ON_EVERY_PLANE
def test_a_receiver_restarts_elsewhere(plane_kind: str) -> None:
    async def body(plane: Plane) -> None:
        inbox = plane.transport("replay-0").open_inbox("data")
        outbox = plane.transport("rollout-0").connect(inbox.endpoint, peer="replay-0")
        acks = [await outbox.send(failed(n), message_id=str(n)) for n in range(4)]
        (await inbox.receive()).ack()
        await acks[0]
        await inbox.close()
        successor = plane.transport("replay-0").open_inbox("elsewhere")
        await outbox.redirect(successor.endpoint)
        assert outbox.endpoint == successor.endpoint
        acks += [await outbox.send(failed(n), message_id=str(n)) for n in range(4, 8)]
        for n in range(1, 8):
            delivery = await successor.receive()
            assert number_of(delivery.message) == n
            delivery.ack()
        await asyncio.gather(*acks)

    run_on(plane_kind, body)


@ON_EVERY_PLANE
def test_a_request_dies_with_the_inbox_that_took_it(plane_kind: str) -> None:
    async def body(plane: Plane) -> None:
        inbox = plane.transport("replay-0").open_inbox("data")
        outbox = plane.transport("learner-0").connect(inbox.endpoint, peer="replay-0")
        asked = asyncio.create_task(outbox.request(ASK, timeout_s=25))
        await inbox.receive()
        await inbox.close()
        await asyncio.sleep(0.1)
        inbox = reopen(plane, inbox.endpoint)
        with pytest.raises(PeerTimeoutError, match="restarted before it answered RequestBatch"):
            await asked
        asked = asyncio.create_task(outbox.request(ASK, timeout_s=20))
        (await inbox.receive()).reply(Done())
        await asked
        assert inbox.num_waiting == 0

    run_on(plane_kind, body)


@ON_EVERY_PLANE
def test_a_restarted_sender_hears_again_what_was_acknowledged(plane_kind: str) -> None:
    async def body(plane: Plane) -> None:
        inbox = plane.transport("replay-0").open_inbox("data")
        outbox = plane.transport("rollout-0").connect(inbox.endpoint, peer="replay-0")
        ack = await outbox.send(failed(1), message_id="kept")
        (await inbox.receive()).ack()
        await ack
        unsettled = await outbox.send(failed(2), message_id="open")
        await inbox.receive()
        await outbox.close()
        with pytest.raises(TransportError, match="closed before it settled"):
            await unsettled
        restarted = plane.transport("rollout-0").connect(inbox.endpoint, peer="replay-0")
        await (await restarted.send(failed(1), message_id="kept"))
        assert inbox.num_waiting == 0
        ack = await restarted.send(failed(2), message_id="open")
        (await inbox.receive()).ack()
        await ack

    run_on(plane_kind, body)


@ON_EVERY_PLANE
def test_many_senders_lose_and_double_nothing(plane_kind: str) -> None:
    async def body(plane: Plane) -> None:
        transport = plane.transport("replay-0")
        inbox = transport.open_inbox("data", credits=5)
        most_waiting = 0

        async def produce(sender: str) -> None:
            outbox = plane.transport(sender).connect(inbox.endpoint, peer="replay-0")
            await asyncio.gather(*[await outbox.send(failed(n), message_id=f"{sender}/{n}") for n in range(60)])

        arrived: dict[str, list[int]] = {f"rollout-{i}": [] for i in range(6)}
        producers = [asyncio.create_task(produce(sender)) for sender in arrived]
        while sum(map(len, arrived.values())) < 360:
            delivery = await inbox.receive()
            most_waiting = max(most_waiting, inbox.num_waiting)
            arrived[delivery.sender].append(number_of(delivery.message))
            delivery.ack()
        await asyncio.gather(*producers)
        assert all(numbers == list(range(60)) for numbers in arrived.values())
        assert most_waiting <= 30

    run_on(plane_kind, body)


@ON_EVERY_PLANE
def test_what_is_sent_is_what_it_was_when_it_was_sent(plane_kind: str) -> None:
    async def body(plane: Plane) -> None:
        inbox = plane.transport("rollout-0").open_inbox("control")
        outbox = plane.transport("controller-0").connect(inbox.endpoint, peer="rollout-0")
        knobs: dict[str, Any] = {"rollout.temperature": 1.0}
        ack = await outbox.send(TuneKnobs(knobs), message_id="0")
        knobs["rollout.temperature"] = 2.0
        delivery = await inbox.receive()
        assert delivery.message == TuneKnobs({"rollout.temperature": 1.0})
        delivery.ack()
        await ack

    run_on(plane_kind, body)


@ON_EVERY_PLANE
def test_messages_over_the_limits_are_refused_where_they_are_sent(plane_kind: str) -> None:
    async def body(plane: Plane) -> None:
        inbox = plane.transport("replay-0").open_inbox("data")
        outbox = plane.transport("rollout-0").connect(inbox.endpoint, peer="replay-0")
        for cause, message, buffers in (
            ("too_many_frames", Done(), [b""] * 4),
            ("frame_too_large", Done(), [bytes(10_001)]),
            ("header_too_large", GroupsFailed((), "x" * 20_000), []),
            ("not_contiguous", Done(), [np.zeros((10, 10))[:, 0]]),
            ("unencodable", TuneKnobs({"x": object()}), []),
        ):
            with pytest.raises(CodecError) as caught:
                await outbox.send(message, buffers, message_id="0")
            assert caught.value.cause == cause
        assert outbox.num_unacknowledged == 0
        asked = asyncio.create_task(outbox.request(Done(), timeout_s=20))
        with pytest.raises(CodecError, match="frame_too_large"):
            (await inbox.receive()).reply(Done(), [bytes(10_001)])
        with pytest.raises(RefusedError, match="the answer cannot be sent"):
            await asked

    run_on(plane_kind, body, max_frames=4, max_frame_bytes=10_000, max_header_bytes=16_384)


@ON_EVERY_PLANE
def test_closing_waits_for_acknowledgements_as_long_as_it_is_told(plane_kind: str) -> None:
    async def body(plane: Plane) -> None:
        inbox = plane.transport("replay-0").open_inbox("data", credits=1)
        outbox = plane.transport("rollout-0").connect(inbox.endpoint, peer="replay-0")
        ack = await outbox.send(failed(0), message_id="0")
        waiting = asyncio.create_task(outbox.send(failed(1), message_id="1"))
        closing = asyncio.create_task(outbox.close(drain_s=20))
        (await inbox.receive()).ack()
        await ack
        (await inbox.receive()).ack()
        await closing
        await (await waiting)
        with pytest.raises(TransportError, match="the channel to replay-0 is closed"):
            await outbox.send(failed(2), message_id="2")
        receiving = asyncio.create_task(inbox.receive())
        await asyncio.sleep(0)
        await inbox.close()
        with pytest.raises(TransportError, match="is closed"):
            await receiving

    run_on(plane_kind, body)


@ON_EVERY_PLANE
def test_a_waiting_receiver_can_be_cancelled_without_losing_a_message(plane_kind: str) -> None:
    async def body(plane: Plane) -> None:
        inbox = plane.transport("replay-0").open_inbox("data")
        outbox = plane.transport("rollout-0").connect(inbox.endpoint, peer="replay-0")
        assert inbox.receive_nowait() is None
        for n in range(20):
            receiving = asyncio.create_task(inbox.receive())
            other = asyncio.create_task(inbox.receive())
            await asyncio.sleep(0)
            receiving.cancel()
            ack = await outbox.send(failed(n), message_id=str(n))
            delivery = await other
            assert number_of(delivery.message) == n
            delivery.ack()
            await ack
            assert receiving.cancelled()

    run_on(plane_kind, body)


def reopen(plane: Plane, endpoint: str) -> Any:
    """The inbox `data` of replay-0, in another life, at the same endpoint."""
    inbox = plane.transport("replay-0").open_inbox("data", at=endpoint)
    assert inbox.endpoint == endpoint
    return inbox
