"""The sending end of a session: keeps what it sends until the other end has settled it.

Owns: repetition, deadlines of requests, what is said to the inbox. Does not own: the messages kept (`unsettled`), who
waits for credit (`credit`), how frames travel (`Link`: `channel` over ZMQ, `memory` in process), nor what the receiver
remembers (`inbox`).

Invariants:

* A message is forgotten only when the inbox settled it, or the caller closed this end.
* At most `credits` messages are unsettled; `send` and `request` wait for room, and `waiting_for` says so.
* Messages go out in the order given, each naming the one before it, so that the inbox accepts them without a gap,
  whatever the link drops, repeats or reorders. After a gap or a new connection everything unaccepted is sent again.
* A request reaches at most one life of the inbox: when that ends before it answered, the request fails at once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import msgspec

from ring_async.columns import Buffer
from ring_async.errors import CodecError, PeerTimeoutError, RefusedError, TransportError
from ring_async.transport.base import Answer
from ring_async.transport.codec import Answered, Carry, Codec, Frame, Heard, Hello, Settled, Unknown, Welcome
from ring_async.transport.credit import Credit
from ring_async.transport.link import Link
from ring_async.transport.messages.base import SCHEMA_VERSION, Message
from ring_async.transport.rejections import Rejections
from ring_async.transport.unsettled import Entry, Unsettled, fail

PROBE_FIRST_S = 0.25
PROBE_MAX_S = 4.0
"""While something is unsettled and the inbox silent, say hello after this long, doubling up to the maximum."""

HEARD_DELAY_S = 0.02
"""How long outcomes heard may wait for a message that carries the receipt."""


class SessionOutbox:
    """An `Outbox` over any link. Belongs to one event loop; not thread-safe.

        acknowledged = await outbox.send(message, buffers, message_id="math-00000017")     # waits for credit
        await acknowledged                                                                 # stored by the receiver
        answer = await outbox.request(question, timeout_s=5.0)

    Args:
        endpoint: where the inbox lives.
        sender: actor id of this side.
        peer: actor id of the inbox's owner, for messages to people.
        codec: encodes and bounds messages.
    """

    def __init__(self, *, endpoint: str, sender: str, peer: str, codec: Codec) -> None:
        self.endpoint = endpoint
        self.rejected: Counter[str] = Counter()
        """Messages from the inbox that were rejected, by cause."""
        self.sent_bytes = 0
        """Bytes of messages, headers and buffers; repeated ones count again."""
        self.num_resent = 0
        self._rejections = Rejections(self.rejected, f"{sender} ← {peer}")
        self._sender = sender
        self.peer = peer
        self._codec = codec
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._is_open = False
        self._is_closed = False
        self._unsettled = Unsettled()
        self._next_seq = 0
        self._credit = Credit(peer, lambda: len(self._unsettled.entries), self._arm_probe)
        self._instance = 0
        self._session = 0
        self._heard = 0
        self._heard_told = 0
        self._heard_timer: asyncio.TimerHandle | None = None
        self._hello_number = 0
        self._welcomed_number = 0
        self._probe_timer: asyncio.TimerHandle | None = None
        self._probe_s = PROBE_FIRST_S
        self._last_news_s = self._loop.time()
        self._drained: asyncio.Event | None = None

    # -- what actors call

    async def send(self, message: Message, buffers: Sequence[Buffer] = (), *, message_id: str) -> asyncio.Future[None]:
        """Hand over a message, waiting for credit first. The buffers must not change until it is acknowledged.

        Returns:
            A future that resolves when the receiver acknowledges, and raises `RefusedError` if it refuses.

        Raises:
            CodecError: the message is over the limits.
            TransportError: this outbox is closed.
        """
        encoded, views = self._codec.encode(message, buffers)
        if self._is_closed or not self._credit.is_free:
            await self._make_room()
        future: asyncio.Future[None] = self._loop.create_future()
        self._submit(
            Entry(
                self._next_seq, type(message).__name__, message_id, False, encoded, views, future, sum(map(len, views))
            )
        )
        return future

    async def request(self, message: Message, buffers: Sequence[Buffer] = (), *, timeout_s: float) -> Answer:
        """Ask and wait for the answer.

        Raises:
            PeerTimeoutError: no credit or no answer before the deadline, or the peer restarted before it answered.
            RefusedError: the peer said no, with its reason.
            CodecError: the message is over the limits, or the answer is not one of our messages.
            TransportError: this outbox is closed.
        """
        kind = type(message).__name__
        encoded, views = self._codec.encode(message, buffers)
        entry: Entry | None = None
        try:
            async with asyncio.timeout(timeout_s):
                if self._is_closed or not self._credit.is_free:
                    await self._make_room()
                future: asyncio.Future[Answer] = self._loop.create_future()
                entry = Entry(self._next_seq, kind, "", True, encoded, views, future, sum(map(len, views)))
                self._submit(entry)
                return await future
        except TimeoutError:
            lacked = "answer" if entry is not None else "grant credit for"
            raise PeerTimeoutError(
                f"{self.peer} at {self.endpoint} did not {lacked} {kind} within {timeout_s:g} s"
            ) from None
        finally:
            is_unsettled = entry is not None and entry.seq in self._unsettled.entries
            if entry is not None and is_unsettled and self._unsettled.abandon(entry):
                self._credit.wake()

    async def redirect(self, endpoint: str) -> None:
        """The peer lives at another endpoint now: connect there and send what was unacknowledged again.

        Raises:
            TransportError: that is no endpoint; everything stays as it was.
        """
        if endpoint == self.endpoint or self._is_closed:
            return
        if self._link is not None:
            self._link.redirect(endpoint)
        self.endpoint = endpoint
        self._is_open = False

    @property
    def num_unacknowledged(self) -> int:
        return len(self._unsettled.entries)

    @property
    def waiting_for(self) -> str | None:
        """`credit from replay-0, 12 s` while a sender waits, else None."""
        return self._credit.waiting_for

    @property
    def credit_wait_s(self) -> float:
        """Seconds that senders have waited for credit, added up."""
        return self._credit.wait_s

    async def close(self, *, drain_s: float = 0.0) -> None:
        """Wait up to `drain_s` for acknowledgements, then close: what is still unsettled raises `TransportError`."""
        if self._is_closed:
            return
        if drain_s > 0 and not self._is_idle():
            self._drained = asyncio.Event()
            try:
                async with asyncio.timeout(drain_s):
                    await self._drained.wait()
            except TimeoutError:
                pass
        self._is_closed = True
        self._is_open = False
        for timer in (self._probe_timer, self._heard_timer):
            if timer is not None:
                timer.cancel()
        self._tell_heard()
        closed = TransportError(f"the channel to {self.peer} was closed before it settled this message")
        self._unsettled.fail_all(closed)
        self._credit.fail(closed)
        if self._link is not None:
            self._link.close()

    # -- what the link calls

    def attach(self, link: Link) -> None:
        self._link = link

    def on_connected(self) -> None:
        """A connection stands: introduce ourselves; the welcome says what to send again."""
        self._greet()

    def on_disconnected(self) -> None:
        self._is_open = False

    def on_frames(self, frames: Sequence[Frame]) -> None:
        """One message from the inbox. Whatever its bytes are, this returns."""
        if self._is_closed:
            return
        try:
            envelope = self._codec.decode_to_sender(frames)
        except CodecError as error:
            self._rejections.count(self.peer, error)
            return
        self._last_news_s = self._loop.time()
        self._probe_s = PROBE_FIRST_S
        if type(envelope) is Settled:
            self._on_settled(envelope)
        elif type(envelope) is Answered:
            self._on_answered(envelope, frames)
        elif type(envelope) is Welcome:
            self._on_welcome(envelope)
        elif type(envelope) is Unknown and self._is_open:
            self._is_open = False
            self._greet()

    # -- protocol

    def _submit(self, entry: Entry) -> None:
        self._next_seq += 1
        self._unsettled.add(entry)
        self._transmit_ready()
        self._arm_probe()

    def _transmit_ready(self) -> None:
        link, unsettled = self._link, self._unsettled
        if link is None:
            return
        while unsettled.waiting and self._is_open and unsettled.num_in_flight < self._credit.granted:
            entry = unsettled.waiting[0]
            if entry.is_abandoned:
                unsettled.drop_first()
                continue
            carry = Carry(
                SCHEMA_VERSION,
                entry.seq,
                unsettled.last_transmitted,
                self._session,
                self._heard,
                entry.is_request,
                entry.message_id,
                msgspec.Raw(entry.encoded),
            )
            header = self._codec.encode_envelope(carry)
            if not link.transmit((header, *entry.buffers)):
                return
            self.sent_bytes += len(header) + entry.num_buffer_bytes
            self.num_resent += entry.is_transmitted
            unsettled.transmitted()
            self._heard_told = self._heard

    def _greet(self) -> None:
        if self._is_closed or self._link is None:
            return
        self._hello_number += 1
        hello = Hello(SCHEMA_VERSION, self._hello_number, self._sender, self._session, self._heard)
        if self._link.transmit((self._codec.encode_envelope(hello),)):
            self._arm_probe()

    def _on_welcome(self, welcome: Welcome) -> None:
        if welcome.number == -1:
            if welcome.session != self._session or not self._is_open:
                return
        elif welcome.number <= self._welcomed_number:
            return
        else:
            self._welcomed_number = welcome.number
        if welcome.instance != self._instance:
            if self._instance:
                self._fail_requests_of_lost_inbox()
            self._instance = welcome.instance
        if welcome.session != self._session:
            self._session = welcome.session
            self._heard = self._heard_told = 0
        self._credit.granted = welcome.credits
        self._is_open = True
        self._unsettled.rewind(welcome.accepted)
        self._transmit_ready()
        self._credit.wake()

    def _fail_requests_of_lost_inbox(self) -> None:
        for entry in self._unsettled.take_transmitted_requests():
            lost = PeerTimeoutError(f"{self.peer} at {self.endpoint} restarted before it answered {entry.kind}")
            fail(entry.future, lost)

    def _on_settled(self, settled: Settled) -> None:
        if not self._is_next(settled.session, settled.number):
            return
        for number, (seq, reason) in enumerate(settled.outcomes, settled.number):
            if number <= self._heard:
                continue
            self._heard = number
            entry = self._unsettled.settle(seq)
            if entry is None or entry.future.done():
                continue
            if reason is not None:
                entry.future.set_exception(RefusedError(f"{self.peer} refused {entry.kind}: {reason}", reason))
            else:
                entry.future.set_result(None)
        self._after_outcomes()

    def _on_answered(self, answered: Answered, frames: Sequence[Frame]) -> None:
        if not self._is_next(answered.session, answered.number) or answered.number <= self._heard:
            return
        self._heard = answered.number
        entry = self._unsettled.settle(answered.seq)
        if entry is not None and entry.is_request and not entry.future.done():
            try:
                message, buffers = self._codec.decode(answered.message, frames)
            except CodecError as error:
                self._rejections.count(self.peer, error)
                entry.future.set_exception(error)
            else:
                entry.future.set_result(Answer(message, buffers))
        self._after_outcomes()

    def _is_next(self, session: int, number: int) -> bool:
        """Whether these outcomes follow on those heard; otherwise some were lost, and a hello asks for them."""
        if session == self._session and number <= self._heard + 1:
            return True
        self._greet()
        return False

    def _after_outcomes(self) -> None:
        self._transmit_ready()
        self._credit.wake()
        if self._heard > self._heard_told and self._heard_timer is None:
            self._heard_timer = self._loop.call_later(HEARD_DELAY_S, self._tell_heard)
        if self._drained is not None and self._is_idle():
            self._drained.set()

    def _tell_heard(self) -> None:
        self._heard_timer = None
        if self._heard > self._heard_told and self._link is not None:
            self._heard_told = self._heard
            self._link.transmit((self._codec.encode_envelope(Heard(SCHEMA_VERSION, self._session, self._heard)),))

    # -- waiting

    def _is_idle(self) -> bool:
        return not self._unsettled.entries and not self._credit.is_wanted

    async def _make_room(self) -> None:
        if not self._is_closed and not self._credit.is_free:
            await self._credit.wait()
        if self._is_closed:
            raise TransportError(f"the channel to {self.peer} is closed")

    def _arm_probe(self) -> None:
        if self._probe_timer is None and not self._is_closed:
            self._probe_timer = self._loop.call_later(self._probe_s, self._probe)

    def _probe(self) -> None:
        """Ask an inbox that has been silent while something is unsettled: either side may have missed something."""
        self._probe_timer = None
        if not self._unsettled.entries and not self._credit.is_wanted and self._is_open:
            return
        if self._loop.time() - self._last_news_s >= self._probe_s:
            self._probe_s = min(2 * self._probe_s, PROBE_MAX_S)
            self._greet()
        if not self._is_idle():
            self._arm_probe()
