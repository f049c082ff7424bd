"""The receiving end, frame by frame, against a link that only writes down what it is given."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec
import pytest

from ring_async.config.schema import TransportSection
from ring_async.testing.virtual_clock import run_virtual
from ring_async.transport import inbox as inbox_module
from ring_async.transport.codec import Answered, Carry, Codec, Envelope, Heard, Hello, Settled, Unknown, Welcome
from ring_async.transport.inbox import SessionInbox
from ring_async.transport.memory import MemoryFrame
from ring_async.transport.messages.base import SCHEMA_VERSION, Done, Message
from ring_async.transport.messages.fleet import Pause as Question
from ring_async.transport.messages.work import GroupsFailed

CODEC = Codec(TransportSection())
Told = list[tuple[bytes, Any]]


class Sender:
    """Speaks to an inbox in raw envelopes, and reads what it says back."""

    def __init__(
        self, inbox: SessionInbox, told: Told, address: bytes = b"rollout-0#1", name: str = "rollout-0"
    ) -> None:
        self.inbox = inbox
        self.address = address
        self.name = name
        self.session = 0
        self._told = told

    def say(self, envelope: Envelope, *buffers: bytes) -> list[Any]:
        """Deliver one message; what the inbox said to this sender at once."""
        self._told.clear()
        frames = [MemoryFrame(CODEC.encode_envelope(envelope)), *map(MemoryFrame, buffers)]
        self.inbox.on_frames(self.address, frames)
        return self.heard()

    def heard(self) -> list[Any]:
        return [envelope for address, envelope in self._told if address == self.address]

    def hello(self, number: int = 1, *, session: int = 0, heard: int = 0) -> list[Any]:
        said = self.say(Hello(SCHEMA_VERSION, number, self.name, session, heard))
        for envelope in said:
            if isinstance(envelope, Welcome):
                self.session = envelope.session
        return said

    def carry(
        self, seq: int, after: int | None = None, *, heard: int = 0, ask: bool = False, raw: bytes = b""
    ) -> list[Any]:
        message: Message = Question() if ask else GroupsFailed((str(seq),), "test")
        return self.say(
            Carry(
                SCHEMA_VERSION,
                seq,
                seq - 1 if after is None else after,
                self.session,
                heard,
                ask,
                "" if ask else f"id-{seq}",
                msgspec.Raw(raw or CODEC.encode_message(message)),
            )
        )


def on_inbox(body: Callable[[SessionInbox, Told], Coroutine[Any, Any, None]], *, num_credits: int = 4) -> None:
    """Run a test's body with an inbox under the virtual clock."""

    async def main() -> None:
        told: Told = []

        class Tape:
            def transmit(self, address: bytes, frames: Sequence[bytes | memoryview]) -> bool:
                told.append((address, CODEC.decode_to_sender([MemoryFrame(frame) for frame in frames])))
                return True

            def close(self) -> None: ...

        inbox = SessionInbox(
            endpoint="memory://replay-0/data", owner="replay-0/data", num_credits=num_credits, codec=CODEC
        )
        inbox.attach(Tape())
        await body(inbox, told)
        await inbox.close()

    run_virtual(main())


def test_a_hello_is_welcomed_with_credits_and_position() -> None:
    async def body(inbox: SessionInbox, told: Told) -> None:
        sender = Sender(inbox, told)
        (welcome,) = sender.hello(7)
        assert (welcome.number, welcome.credits, welcome.accepted) == (7, 4, -1)
        sender.carry(0)
        (again,) = sender.hello(8, session=sender.session)
        assert (again.number, again.session, again.instance, again.accepted) == (
            8,
            welcome.session,
            welcome.instance,
            0,
        )

    on_inbox(body)


def test_who_did_not_say_hello_is_asked_to() -> None:
    async def body(inbox: SessionInbox, told: Told) -> None:
        sender = Sender(inbox, told)
        assert sender.carry(0) == [Unknown(SCHEMA_VERSION)]
        sender.hello()
        sender.session += 1
        assert sender.carry(0) == [Unknown(SCHEMA_VERSION)]
        assert inbox.num_waiting == 0

    on_inbox(body)


def test_a_gap_is_pointed_out_once_and_nothing_passes_over_it() -> None:
    async def body(inbox: SessionInbox, told: Told) -> None:
        sender = Sender(inbox, told)
        sender.hello()
        sender.carry(0)
        (complaint,) = sender.carry(2, after=1)
        assert (complaint.number, complaint.accepted) == (-1, 0)
        assert sender.carry(3) == []
        assert sender.carry(1) == []
        assert sender.carry(2) == []
        assert sender.carry(1) == []
        assert [delivery.message.group_ids for delivery in [await inbox.receive() for _ in range(3)]] == [
            ("0",),
            ("1",),
            ("2",),
        ]
        assert inbox.num_waiting == 0

    on_inbox(body)


def test_numbers_left_out_by_the_sender_are_no_gap() -> None:
    async def body(inbox: SessionInbox, told: Told) -> None:
        sender = Sender(inbox, told)
        sender.hello()
        sender.carry(5, after=-1)
        assert sender.carry(9, after=5) == []
        assert inbox.num_waiting == 2

    on_inbox(body)


def test_outcomes_are_repeated_until_they_are_heard() -> None:
    async def body(inbox: SessionInbox, told: Told) -> None:
        sender = Sender(inbox, told)
        sender.hello()
        for seq in range(3):
            sender.carry(seq)
        told.clear()
        for _ in range(3):
            (await inbox.receive()).ack()
        await asyncio.sleep(0.01)
        (settled,) = sender.heard()
        assert (settled.number, settled.outcomes) == (1, ((0, None), (1, None), (2, None)))
        _, settled = sender.hello(2, session=sender.session, heard=1)
        assert (settled.number, settled.outcomes) == (2, ((1, None), (2, None)))
        sender.say(Heard(SCHEMA_VERSION, sender.session, 3))
        assert [type(envelope) for envelope in sender.hello(3, session=sender.session, heard=3)] == [Welcome]

    on_inbox(body)


def test_a_receipt_for_what_was_never_said_forgets_nothing() -> None:
    async def body(inbox: SessionInbox, told: Told) -> None:
        sender = Sender(inbox, told)
        sender.hello()
        sender.carry(0)
        sender.say(Heard(SCHEMA_VERSION, sender.session, 2**40))
        sender.carry(1, heard=2**40)
        told.clear()
        for _ in range(2):
            (await inbox.receive()).ack()
        await asyncio.sleep(0.01)
        assert [envelope.outcomes for envelope in sender.heard()] == [((0, None), (1, None))]

    on_inbox(body)


def test_answers_and_refusals_do_not_wait_for_company() -> None:
    async def body(inbox: SessionInbox, told: Told) -> None:
        sender = Sender(inbox, told)
        sender.hello()
        sender.carry(0, ask=True)
        sender.carry(1)
        sender.carry(2, ask=True)
        told.clear()
        (await inbox.receive()).reply(Done(), [b"abc"])
        (await inbox.receive()).refuse("no room")
        (await inbox.receive()).ack()
        await asyncio.sleep(0)
        first, refusal, last = sender.heard()
        assert isinstance(first, Answered)
        assert isinstance(refusal, Settled)
        assert (first.number, first.seq) == (1, 0)
        assert (refusal.number, refusal.outcomes) == (2, ((1, "no room"),))
        assert (last.number, last.seq, CODEC.decode_message(last.message)) == (3, 2, Done())

    on_inbox(body)


def test_half_of_the_credits_do_not_wait_for_company() -> None:
    async def body(inbox: SessionInbox, told: Told) -> None:
        sender = Sender(inbox, told)
        sender.hello()
        for seq in range(3):
            sender.carry(seq)
        told.clear()
        (await inbox.receive()).ack()
        await asyncio.sleep(0)
        assert sender.heard() == []
        (await inbox.receive()).ack()
        await asyncio.sleep(0)
        assert len(sender.heard()) == 1

    on_inbox(body)


def test_more_than_the_credits_is_counted_and_not_accepted() -> None:
    async def body(inbox: SessionInbox, told: Told) -> None:
        sender = Sender(inbox, told)
        sender.hello()
        for seq in range(10):
            sender.carry(seq)
        assert inbox.num_waiting == 4
        assert inbox.rejected["over_credit"] >= 1
        for _ in range(4):
            (await inbox.receive()).ack()
        sender.carry(4)
        assert (await inbox.receive()).message == GroupsFailed(("4",), "test")

    on_inbox(body)


def test_a_message_this_side_does_not_know_is_refused_not_lost() -> None:
    async def body(inbox: SessionInbox, told: Told) -> None:
        sender = Sender(inbox, told)
        sender.hello()
        sender.carry(0, raw=msgspec.msgpack.encode({"type": "FromTheFuture"}))
        await asyncio.sleep(0)
        (settled,) = sender.heard()
        assert settled.outcomes[0][0] == 0
        assert "unknown_type: 'FromTheFuture'" in settled.outcomes[0][1]
        assert inbox.rejected == {"unknown_type": 1}
        sender.carry(1)
        assert inbox.num_waiting == 1

    on_inbox(body)


def test_what_was_acknowledged_to_an_earlier_life_of_the_sender_is_acknowledged_again() -> None:
    async def body(inbox: SessionInbox, told: Told) -> None:
        sender = Sender(inbox, told)
        sender.hello()
        sender.carry(0)
        sender.carry(1)
        (await inbox.receive()).ack()
        (await inbox.receive()).refuse("not now")
        restarted = Sender(inbox, told, b"rollout-0#2")
        restarted.hello()
        restarted.carry(0)
        restarted.carry(1)
        assert (await inbox.receive()).message == GroupsFailed(("1",), "test")
        assert inbox.num_waiting == 0
        other = Sender(inbox, told, b"rollout-1#1", "rollout-1")
        other.hello()
        other.carry(0)
        assert inbox.num_waiting == 1

    on_inbox(body)


def test_idle_senders_are_forgotten_but_nothing_unsettled_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(inbox: SessionInbox, told: Told) -> None:
        idle, busy, unheard = (Sender(inbox, told, bytes([65 + n]), f"rollout-{n}") for n in range(3))
        for sender in (idle, busy, unheard):
            sender.hello()
        busy.carry(0)
        unheard.carry(0)
        for _ in range(2):
            delivery = await inbox.receive()
            if delivery.sender == "rollout-2":
                delivery.ack()
        await asyncio.sleep(inbox_module.SESSION_IDLE_S + 1)
        Sender(inbox, told, b"new", "rollout-9").hello()
        assert idle.carry(0) == [Unknown(SCHEMA_VERSION)]
        assert busy.carry(1) == []
        await asyncio.sleep(inbox_module.SESSION_UNHEARD_IDLE_S + 1)
        Sender(inbox, told, b"newer", "rollout-9").hello()
        assert unheard.carry(1) == [Unknown(SCHEMA_VERSION)]
        assert busy.carry(2) == []

    on_inbox(body)


def test_too_many_senders_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "MAX_SESSIONS", 3)

    async def body(inbox: SessionInbox, told: Told) -> None:
        for n in range(5):
            Sender(inbox, told, bytes([65 + n]), f"rollout-{n}").hello()
        assert inbox.rejected == {"too_many_senders": 2}

    on_inbox(body)


def test_a_message_given_to_a_cancelled_receiver_goes_to_the_next() -> None:
    async def body(inbox: SessionInbox, told: Told) -> None:
        sender = Sender(inbox, told)
        sender.hello()
        first, second = asyncio.create_task(inbox.receive()), asyncio.create_task(inbox.receive())
        await asyncio.sleep(0)
        sender.carry(0)
        first.cancel()
        assert (await second).message == GroupsFailed(("0",), "test")
        assert first.cancelled()

    on_inbox(body)


def test_rubbish_is_counted_and_the_sender_goes_on() -> None:
    async def body(inbox: SessionInbox, told: Told) -> None:
        sender = Sender(inbox, told)
        inbox.on_frames(b"stranger", [MemoryFrame(b"\xff" * 40)])
        inbox.on_frames(sender.address, [])
        sender.hello()
        inbox.on_frames(sender.address, [MemoryFrame(b"")])
        assert inbox.rejected.total() == 3
        sender.carry(0)
        assert inbox.num_waiting == 1

    on_inbox(body)
