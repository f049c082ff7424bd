"""The sending end, frame by frame, against a link that only writes down what it is given."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec
import pytest

from ring_async.config.schema import TransportSection
from ring_async.errors import CodecError, PeerTimeoutError
from ring_async.testing.virtual_clock import run_virtual
from ring_async.transport import outbox as outbox_module
from ring_async.transport.codec import Answered, Carry, Codec, Envelope, Hello, Settled, Unknown, Welcome
from ring_async.transport.memory import MemoryFrame
from ring_async.transport.messages.base import SCHEMA_VERSION, Done
from ring_async.transport.messages.fleet import Pause
from ring_async.transport.outbox import SessionOutbox

CODEC = Codec(TransportSection())


class Tape:
    """A link that keeps what is transmitted, and an inbox's voice."""

    def __init__(self) -> None:
        self.envelopes: list[Any] = []
        self.is_connected = True
        self.outbox: SessionOutbox | None = None

    def transmit(self, frames: Sequence[bytes | memoryview]) -> bool:
        if self.is_connected:
            self.envelopes.append(CODEC.decode_to_inbox([MemoryFrame(frame) for frame in frames]))
        return self.is_connected

    def redirect(self, endpoint: str) -> None: ...

    def close(self) -> None: ...

    def say(self, envelope: Envelope, *buffers: bytes) -> None:
        assert self.outbox is not None
        self.outbox.on_frames([MemoryFrame(CODEC.encode_envelope(envelope)), *map(MemoryFrame, buffers)])

    def welcome(
        self, *, num_credits: int = 2, accepted: int = -1, instance: int = 1, session: int = 1, number: int = 0
    ) -> None:
        number = number or max(e.number for e in self.envelopes if isinstance(e, Hello))
        self.say(Welcome(SCHEMA_VERSION, number, instance, session, num_credits, accepted))

    def take(self, kind: type[Envelope] = Carry) -> list[Any]:
        """What was transmitted since the last call, of one kind."""
        found = [envelope for envelope in self.envelopes if isinstance(envelope, kind)]
        self.envelopes = [envelope for envelope in self.envelopes if not isinstance(envelope, kind)]
        return found


def on_outbox(body: Callable[[SessionOutbox, Tape], Coroutine[Any, Any, None]]) -> None:
    """Run a test's body with a connected outbox under the virtual clock."""

    async def main() -> None:
        tape = Tape()
        outbox = SessionOutbox(endpoint="memory://replay-0/data", sender="rollout-0", peer="replay-0", codec=CODEC)
        tape.outbox = outbox
        outbox.attach(tape)
        outbox.on_connected()
        await body(outbox, tape)
        await outbox.close()

    run_virtual(main())


def links_of(carries: list[Any]) -> list[tuple[int, int]]:
    return [(carry.seq, carry.after) for carry in carries]


def test_nothing_leaves_before_the_welcome_and_no_more_than_the_credits_after() -> None:
    async def body(outbox: SessionOutbox, tape: Tape) -> None:
        sending = [asyncio.create_task(outbox.send(Done(), message_id=str(n))) for n in range(3)]
        await asyncio.sleep(0)
        assert tape.take() == []
        tape.welcome(num_credits=2)
        await asyncio.sleep(0)
        assert links_of(tape.take()) == [(0, -1), (1, 0)]
        assert outbox.waiting_for == "credit from replay-0, 0 s"
        tape.say(Settled(SCHEMA_VERSION, 1, 1, ((0, None),)))
        await asyncio.gather(*sending)
        assert links_of(tape.take()) == [(2, 1)]

    on_outbox(body)


def test_a_new_connection_repeats_exactly_what_was_not_accepted() -> None:
    async def body(outbox: SessionOutbox, tape: Tape) -> None:
        tape.welcome(num_credits=8)
        acks = [await outbox.send(Done(), message_id=str(n)) for n in range(4)]
        tape.take()
        outbox.on_disconnected()
        acks.append(await outbox.send(Done(), message_id="4"))
        assert tape.take() == []
        outbox.on_connected()
        tape.welcome(num_credits=8, accepted=1)
        assert links_of(tape.take()) == [(2, 1), (3, 2), (4, 3)]
        tape.say(Settled(SCHEMA_VERSION, 1, 1, tuple((n, None) for n in range(5))))
        await asyncio.gather(*acks)

    on_outbox(body)


def test_another_life_of_the_inbox_gets_everything_unsettled_without_gaps() -> None:
    async def body(outbox: SessionOutbox, tape: Tape) -> None:
        tape.welcome(num_credits=8)
        for n in range(5):
            await outbox.send(Done(), message_id=str(n))
        tape.say(Settled(SCHEMA_VERSION, 1, 1, ((0, None), (2, None))))
        tape.take()
        tape.say(Unknown(SCHEMA_VERSION))
        tape.welcome(num_credits=8, instance=2, session=2)
        assert links_of(tape.take()) == [(1, -1), (3, 1), (4, 3)]
        tape.say(Settled(SCHEMA_VERSION, 2, 1, ((1, None),)))
        assert outbox.num_unacknowledged == 2

    on_outbox(body)


def test_fewer_credits_after_a_restart_hold_for_what_is_repeated_too() -> None:
    async def body(outbox: SessionOutbox, tape: Tape) -> None:
        tape.welcome(num_credits=4)
        for n in range(4):
            await outbox.send(Done(), message_id=str(n))
        tape.take()
        tape.say(Unknown(SCHEMA_VERSION))
        tape.welcome(num_credits=1, instance=2, session=2)
        assert links_of(tape.take()) == [(0, -1)]
        tape.say(Settled(SCHEMA_VERSION, 2, 1, ((0, None),)))
        assert links_of(tape.take()) == [(1, 0)]

    on_outbox(body)


def test_requests_fail_with_the_inbox_that_took_them_but_not_before_one_did() -> None:
    async def body(outbox: SessionOutbox, tape: Tape) -> None:
        tape.welcome(num_credits=1)
        taken = asyncio.create_task(outbox.request(Pause(), timeout_s=60))
        await asyncio.sleep(0)
        tape.say(Unknown(SCHEMA_VERSION))
        tape.welcome(num_credits=4, instance=1, session=2)
        assert len(tape.take()) == 2  # the same inbox had only forgotten this sender: the question goes out again
        tape.say(Unknown(SCHEMA_VERSION))
        untaken = asyncio.create_task(outbox.request(Pause(), timeout_s=60))
        await asyncio.sleep(0)
        tape.welcome(num_credits=4, instance=2, session=3)
        with pytest.raises(PeerTimeoutError, match="restarted before it answered Pause"):
            await taken
        (carry,) = tape.take()
        answer = Answered(SCHEMA_VERSION, 3, 1, carry.seq, msgspec.Raw(CODEC.encode_message(Done())))
        tape.say(answer, b"buffer")
        assert (await untaken).message == Done()
        tape.say(answer, b"buffer")

    on_outbox(body)


def test_stale_welcomes_change_nothing() -> None:
    async def body(outbox: SessionOutbox, tape: Tape) -> None:
        tape.welcome(num_credits=4, number=1)
        await outbox.send(Done(), message_id="0")
        tape.take()
        tape.welcome(num_credits=4, number=1)
        tape.welcome(num_credits=4, number=1, instance=9, session=9)
        tape.say(Welcome(SCHEMA_VERSION, -1, 9, 9, 4, -1))
        assert tape.take() == []
        tape.say(Welcome(SCHEMA_VERSION, -1, 1, 1, 4, -1))
        assert links_of(tape.take()) == [(0, -1)]

    on_outbox(body)


def test_lost_outcomes_are_asked_for() -> None:
    async def body(outbox: SessionOutbox, tape: Tape) -> None:
        tape.welcome(num_credits=4)
        acks = [await outbox.send(Done(), message_id=str(n)) for n in range(3)]
        tape.take(Hello)
        tape.say(Settled(SCHEMA_VERSION, 1, 3, ((2, None),)))
        assert not acks[2].done()
        (hello,) = tape.take(Hello)
        assert (hello.session, hello.heard) == (1, 0)
        tape.say(Settled(SCHEMA_VERSION, 1, 1, ((0, None), (1, None), (2, None))))
        await asyncio.gather(*acks)
        tape.say(Settled(SCHEMA_VERSION, 1, 1, ((0, None), (1, None), (2, None))))
        assert tape.take(Hello) == []

    on_outbox(body)


def test_a_silent_inbox_is_asked_again_less_and_less_often() -> None:
    async def body(outbox: SessionOutbox, tape: Tape) -> None:
        tape.welcome(num_credits=4)
        tape.take(Hello)
        await outbox.send(Done(), message_id="0")
        await asyncio.sleep(60)
        num_asked = len(tape.take(Hello))
        assert 60 / outbox_module.PROBE_MAX_S <= num_asked <= 60 / outbox_module.PROBE_MAX_S + 6

    on_outbox(body)


def test_an_idle_outbox_sets_no_timers() -> None:
    async def body(outbox: SessionOutbox, tape: Tape) -> None:
        tape.welcome(num_credits=4)
        ack = await outbox.send(Done(), message_id="0")
        tape.say(Settled(SCHEMA_VERSION, 1, 1, ((0, None),)))
        await ack
        tape.envelopes.clear()
        await asyncio.sleep(1000)
        assert len(tape.envelopes) == 1  # the receipt

    on_outbox(body)


def test_an_answer_that_is_no_message_of_ours_fails_its_request_alone() -> None:
    async def body(outbox: SessionOutbox, tape: Tape) -> None:
        tape.welcome(num_credits=4)
        asked = asyncio.create_task(outbox.request(Pause(), timeout_s=60))
        await asyncio.sleep(0)
        tape.say(Answered(SCHEMA_VERSION, 1, 1, 0, msgspec.Raw(msgspec.msgpack.encode({"type": "Nonsense"}))))
        with pytest.raises(CodecError, match="unknown_type"):
            await asked
        outbox.on_frames([MemoryFrame(b"rubbish")])
        assert outbox.rejected == {"unknown_type": 1, "invalid": 1}

    on_outbox(body)


def test_an_abandoned_request_keeps_its_credit_until_the_inbox_settles_it() -> None:
    async def body(outbox: SessionOutbox, tape: Tape) -> None:
        tape.welcome(num_credits=1)
        with pytest.raises(PeerTimeoutError, match="did not answer Pause within 1 s"):
            await outbox.request(Pause(), timeout_s=1)
        assert outbox.num_unacknowledged == 1
        tape.say(Answered(SCHEMA_VERSION, 1, 1, 0, msgspec.Raw(CODEC.encode_message(Done()))))
        assert outbox.num_unacknowledged == 0

    on_outbox(body)
