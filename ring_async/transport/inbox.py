"""The receiving end of sessions with many senders.

Owns: the accepted messages of each sender, which of them are unsettled, and outcomes the sender has not heard. Does not
own:
how frames travel (`ReplyLink`), nor durability: the actor acknowledges after its own commit.

Invariants:

* Messages of one sender are accepted in the order sent, without a gap, each once per session.
* A sender has at most `credits` messages unsettled here; what comes above that is counted and not accepted, so memory
  is bounded by senders × credits, whatever the other side does.
* An outcome is kept until its sender says that it heard it, so a lost frame loses nothing.
* A message acknowledged recently and sent again (a restarted sender) is acknowledged again, without another delivery.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter, deque
from collections.abc import Sequence
from itertools import islice

import msgspec

from ring_async.columns import Buffer
from ring_async.errors import CodecError, TransportError
from ring_async.transport.codec import Answered, Carry, Codec, Frame, Heard, Hello, Settled, Unknown, Welcome
from ring_async.transport.link import ReplyLink
from ring_async.transport.messages.base import SCHEMA_VERSION, Done, Message
from ring_async.transport.rejections import Rejections
from ring_async.transport.session import HeldAnswer, Outcome, Session

MAX_SESSIONS = 4096
"""How many senders an inbox remembers; further ones are turned away, and counted."""

SESSION_IDLE_S = 60.0
SESSION_UNHEARD_IDLE_S = 600.0
"""Silence after which a session with nothing unsettled (and with outcomes unheard) may be forgotten for another."""

MAX_ACKNOWLEDGED_IDS = 8192

CLOSE_DRAIN_S = 0.5
"""How long a closing inbox waits for receipts."""

ACK_DELAY_S = 0.001
"""How long an acknowledgement may wait to be sent together with others, since each separate one wakes the sender.
Answers, refusals, and half of the sender's credits do not wait."""


class SessionDelivery:
    """One received message. See `base.Delivery`."""

    __slots__ = (
        "_inbox",
        "_is_settled",
        "_seq",
        "_session",
        "buffers",
        "is_request",
        "message",
        "message_id",
        "sender",
    )

    def __init__(
        self,
        inbox: SessionInbox,
        session: Session,
        carry: Carry,
        message: Message,
        buffers: tuple[memoryview, ...],
    ) -> None:
        self.sender = session.sender
        self.message = message
        self.message_id = carry.message_id
        self.is_request = carry.is_request
        self.buffers = buffers
        self._inbox = inbox
        self._session = session
        self._seq = carry.seq
        self._is_settled = False

    def ack(self) -> None:
        """Tell the sender that the message is safe here. A request acknowledged is answered `Done()`. Idempotent."""
        if self.is_request:
            self.reply(Done())
            return
        if not self._is_settled:
            self._is_settled = True
            self._inbox._settle(self._session, self._seq, (self._seq, None), self.message_id)

    def reply(self, message: Message, buffers: Sequence[Buffer] = ()) -> None:
        """Answer a request. The buffers must not change until the sender has heard it. Idempotent.

        Raises:
            CodecError: the answer is over the limits; the request is refused with that reason.
            TransportError: the message was sent, not asked: acknowledge it.
        """
        if not self.is_request:
            raise TransportError(f"{type(self.message).__name__} from {self.sender} asked nothing: ack() it instead")
        if self._is_settled:
            return
        try:
            encoded, views = self._inbox.codec.encode(message, buffers)
        except CodecError as error:
            self.refuse(f"the answer cannot be sent: {error}")
            raise
        self._is_settled = True
        self._inbox._settle(self._session, self._seq, HeldAnswer(self._seq, encoded, views), None)

    def refuse(self, reason: str) -> None:
        """Say no: the sender's `request` or `send` raises `RefusedError(reason)`. Idempotent."""
        if not self._is_settled:
            self._is_settled = True
            self._inbox._settle(self._session, self._seq, (self._seq, reason), None)


class SessionInbox:
    """An `Inbox` over any link. Belongs to one event loop; not thread-safe.

        delivery = await inbox.receive()
        store(delivery.message, delivery.buffers)     # the actor's own durable commit
        delivery.ack()                                # the sender forgets the message, and its credit is free again

    Args:
        endpoint: where outboxes connect.
        owner: actor id and name, for the log.
        num_credits: messages one sender may have unsettled here.
        codec: decodes and bounds messages.
    """

    def __init__(self, *, endpoint: str, owner: str, num_credits: int, codec: Codec) -> None:
        self.endpoint = endpoint
        self.codec = codec
        self.rejected: Counter[str] = Counter()
        """Messages that were rejected, by cause."""
        self.received_bytes: Counter[str] = Counter()
        """Bytes of accepted messages, headers and buffers, by sender."""
        self._rejections = Rejections(self.rejected, owner)
        self._credits = num_credits
        self._loop = asyncio.get_running_loop()
        self._link: ReplyLink | None = None
        self._instance = secrets.randbits(62) | 1
        self._sessions: dict[bytes, Session] = {}
        self._ready: deque[SessionDelivery] = deque()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._acknowledged: dict[tuple[str, str], None] = {}
        self._unflushed: dict[bytes, Session] = {}
        self._is_flush_due = False
        self._flush_timer: asyncio.TimerHandle | None = None
        self._drained: asyncio.Event | None = None
        """Set while closing: all senders have heard all outcomes."""
        self._is_closed = False

    # -- what actors call

    async def receive(self) -> SessionDelivery:
        """Wait for the next message. Messages of one sender arrive in the order sent.

        Raises:
            TransportError: this inbox is closed.
        """
        while not self._ready:
            if self._is_closed or self._drained is not None:
                raise TransportError(f"the inbox at {self.endpoint} is closed")
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                elif not waiter.cancelled():
                    # The message this task was woken for goes to another.
                    self._wake_one()
                raise
        return self._ready.popleft()

    def receive_nowait(self) -> SessionDelivery | None:
        """The next message, if one is here already."""
        return self._ready.popleft() if self._ready else None

    @property
    def num_waiting(self) -> int:
        """Messages received that nobody has taken yet."""
        return len(self._ready)

    @property
    def num_unsettled(self) -> int:
        """Messages accepted and not yet acknowledged, answered or refused."""
        return sum(len(session.pending) for session in self._sessions.values())

    async def close(self) -> None:
        """Stop receiving and release the endpoint. Unacknowledged messages are sent again to a successor.

        Waits up to `CLOSE_DRAIN_S` for the senders' receipts of the last outcomes: a socket that closes while its
        peer is still sending may take with it what the peer has not read yet.
        """
        if self._is_closed or self._drained is not None:
            return
        self._drained = asyncio.Event()
        self._ready.clear()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()
        self._flush()
        try:
            if any(session.outcomes for session in self._sessions.values()):
                async with asyncio.timeout(CLOSE_DRAIN_S):
                    await self._drained.wait()
        except TimeoutError:
            pass
        finally:  # also if this very call is cancelled: nobody could release the endpoint afterwards
            self._is_closed = True
            self._sessions.clear()
            if self._link is not None:
                self._link.close()

    # -- what the link calls

    def attach(self, link: ReplyLink) -> None:
        self._link = link

    def on_frames(self, address: bytes, frames: Sequence[Frame]) -> None:
        """One message from the sender at `address`. Whatever its bytes are, this returns."""
        if self._is_closed:
            return
        session = self._sessions.get(address)
        try:
            envelope = self.codec.decode_to_inbox(frames)
            if self._drained is not None:
                self._hear_last(session, envelope)
            elif type(envelope) is Carry:
                if session is None or envelope.session != session.number:
                    self._transmit(address, Unknown(SCHEMA_VERSION))
                else:
                    self._on_carry(session, envelope, frames)
            elif type(envelope) is Hello:
                self._on_hello(session, address, envelope)
            elif type(envelope) is Heard and session is not None and envelope.session == session.number:
                session.last_seen_s = self._loop.time()
                session.hear(envelope.heard)
        except CodecError as error:
            self._rejections.count(session.sender if session else f"a stranger ({address[:64]!r})", error)

    # -- protocol

    def _hear_last(self, session: Session | None, envelope: Hello | Carry | Heard) -> None:
        """Handle envelopes while this inbox closes: receipts count, and messages are left to the successor."""
        if session is not None and envelope.session == session.number:
            session.hear(envelope.heard)
        if self._drained is not None and not any(session.outcomes for session in self._sessions.values()):
            self._drained.set()

    def _on_hello(self, session: Session | None, address: bytes, hello: Hello) -> None:
        now_s = self._loop.time()
        if session is None:
            self._forget_idle(now_s)
            if len(self._sessions) >= MAX_SESSIONS:
                raise CodecError("too_many_senders", f"{hello.sender} is one above {MAX_SESSIONS}")
            session = self._sessions[address] = Session(address, hello.sender, now_s)
        session.last_seen_s = now_s
        session.has_complained = False
        if hello.session == session.number:
            session.hear(hello.heard)
        self._welcome(session, hello.number)
        session.transmitted = session.first_unheard - 1
        self._flush_session(session)

    def _on_carry(self, session: Session, carry: Carry, frames: Sequence[Frame]) -> None:
        session.last_seen_s = self._loop.time()
        session.hear(carry.heard)
        if carry.seq <= session.accepted:
            return
        if carry.after != session.accepted:
            if not session.has_complained:
                session.has_complained = True
                self._welcome(session, -1)
            return
        if len(session.pending) >= self._credits:
            raise CodecError("over_credit", f"{session.sender} has {self._credits} messages unsettled here")
        session.has_complained = False
        session.accepted = carry.seq
        session.pending.add(carry.seq)
        if not carry.is_request and (session.sender, carry.message_id) in self._acknowledged:
            self._settle(session, carry.seq, (carry.seq, None), None)
            return
        try:
            message, buffers = self.codec.decode(carry.message, frames)
        except CodecError as error:
            self._settle(session, carry.seq, (carry.seq, f"it is not a message this side knows: {error}"), None)
            raise
        self.received_bytes[session.sender] += sum(map(len, frames))
        self._ready.append(SessionDelivery(self, session, carry, message, buffers))
        self._wake_one()

    def _settle(self, session: Session, seq: int, outcome: Outcome, acknowledged_id: str | None) -> None:
        if self._is_closed or self._drained is not None:
            return
        if acknowledged_id is not None:
            self._acknowledged[(session.sender, acknowledged_id)] = None
            if len(self._acknowledged) > MAX_ACKNOWLEDGED_IDS:
                del self._acknowledged[next(iter(self._acknowledged))]
        session.pending.discard(seq)
        session.outcomes.append(outcome)
        self._unflushed[session.address] = session
        if self._is_flush_due:
            return
        num_unflushed = session.first_unheard + len(session.outcomes) - 1 - session.transmitted
        if isinstance(outcome, HeldAnswer) or outcome[1] is not None or 2 * num_unflushed >= self._credits:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)
        elif self._flush_timer is None:
            self._flush_timer = self._loop.call_later(ACK_DELAY_S, self._flush)

    def _flush(self) -> None:
        self._is_flush_due = False
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        if self._is_closed:
            return
        unflushed, self._unflushed = self._unflushed, {}
        for session in unflushed.values():
            self._flush_session(session)

    def _flush_session(self, session: Session) -> None:
        """Hand outcomes not yet transmitted to the link. If it fails, the sender's next hello asks again."""
        outcomes = list(islice(session.outcomes, session.transmitted + 1 - session.first_unheard, None))
        settled: list[tuple[int, str | None]] = []
        for outcome in outcomes:
            session.transmitted += 1
            if isinstance(outcome, HeldAnswer):
                self._transmit_settled(session, settled, session.transmitted - len(settled))
                settled = []
                answered = Answered(
                    SCHEMA_VERSION, session.number, session.transmitted, outcome.seq, msgspec.Raw(outcome.encoded)
                )
                self._transmit(session.address, answered, outcome.buffers)
            else:
                settled.append(outcome)
        self._transmit_settled(session, settled, session.transmitted + 1 - len(settled))

    def _transmit_settled(self, session: Session, settled: list[tuple[int, str | None]], number: int) -> None:
        if settled:
            self._transmit(session.address, Settled(SCHEMA_VERSION, session.number, number, tuple(settled)))

    def _welcome(self, session: Session, number: int) -> None:
        welcome = Welcome(SCHEMA_VERSION, number, self._instance, session.number, self._credits, session.accepted)
        self._transmit(session.address, welcome)

    def _transmit(
        self, address: bytes, envelope: Welcome | Settled | Answered | Unknown, buffers: Sequence[memoryview] = ()
    ) -> None:
        if self._link is not None:
            self._link.transmit(address, (self.codec.encode_envelope(envelope), *buffers))

    def _forget_idle(self, now_s: float) -> None:
        """Forget senders that have been silent for long. A sender that returns starts a new session and repeats its
        messages.
        """
        for address, session in list(self._sessions.items()):
            limit_s = SESSION_UNHEARD_IDLE_S if session.outcomes else SESSION_IDLE_S
            if not session.pending and now_s - session.last_seen_s > limit_s:
                del self._sessions[address]

    def _wake_one(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
