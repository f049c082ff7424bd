"""Weights from GPU to GPUs: a broadcast over NCCL through CuPy, among the receivers that are there and ready.

    learner                                                   rollout (`receiver`)
    publish: pack bucket 0, 1, 2 … ─┐                         Join, Alive …, in a thread of its own
       Offer(version, layout, id) ──┼───────────────────────▶ take memory
             ◀──────────────────────┼──────────────────────── Ready                 (the gate: gate_s)
       Go ──────────────────────────┼───────────────────────▶
       broadcast bucket 0, 1, 2 … ══╧═══════ NCCL ══════════▶ straight into the staging buffer, folding checksums
       Checksums ───────────────────────────────────────────▶ compare
             ◀─────────────────────────────────────────────── Staged                (round_s, lost_s)

Owns: publishing, what is said in a round. Does not own: who takes part when (`core.weights.broadcast_rounds`), packing
(`packing`), the collective calls (`broadcast`), streams and communicators (`device`), control messages' transport
(`service`).

Invariants:
* NCCL is called in threads of their own, because it may block for ever on a peer that died; they are freed by aborting
  the communicator, and abandoned if even that does not help.
* A receiver that fails costs the others one round at most, and the learner nothing: `publish` never waits for receivers
  when the version is retained, except for the end of a round that still reads the version before.
* A version that a member lacks is offered to it again until it has it, is dropped, or a newer version is there.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import torch

from ring_async.config.schema import TransportSection
from ring_async.core.weights.broadcast_rounds import (
    AbortRound,
    BroadcastRounds,
    CancelRound,
    DropMember,
    Effect,
    OfferRound,
    Settled,
    StartRound,
)
from ring_async.core.weights.plan import ALIGNMENT, TensorShape, WeightsLayout
from ring_async.errors import WeightsError
from ring_async.transport.messages.versions import WeightsAnnouncement
from ring_async.transport.weights.base import Tensors
from ring_async.transport.weights.nccl.broadcast import Broadcaster
from ring_async.transport.weights.nccl.device import WeightDevice, prompt_threads, wait
from ring_async.transport.weights.nccl.packing import Packing, Slots
from ring_async.transport.weights.nccl.round import Attempt
from ring_async.transport.weights.nccl.wire import (
    CHANNEL,
    NCCL_MIN_BUCKET_BYTES,
    Alive,
    Checksums,
    Failed,
    Go,
    Join,
    Leave,
    NotKnown,
    Off,
    Offer,
    Ready,
    Staged,
    Welcome,
)
from ring_async.transport.weights.service import WeightService
from ring_async.transport.weights.tensors import describe
from ring_async.transport.weights.wire import Wire, encode
from ring_async.types import PolicyVersion

if TYPE_CHECKING:
    from ring_async.transport.curve import CurveKeys
GATE_S = 5.0
LOST_S = 3.0
_TICK_S = 0.1
ToSender = Join | Alive | Ready | Staged | Failed | Leave
_decoder: msgspec.msgpack.Decoder[ToSender] = msgspec.msgpack.Decoder(ToSender)


class NcclWeightSender:
    """Broadcasts versions from this GPU.

    Args:
        name: of the control socket.
        device: where the tensors lie, or can be copied to.
        transport: of the control socket: ipc or tcp, and the address to bind.
        socket_dir: for `ipc://`.
        keys: of the run, for CURVE on TCP.
        bucket_bytes: broadcast at once.
        is_retaining: keep a packed copy on the device, from which members are served at any time, and let `publish`
            return when it is made. False: two buckets of memory; `publish` returns when everybody has the version, and
            a receiver that joins later waits for the next.
        gate_s: longest time from offer to last ready.
        lost_s: silence after which a member is dropped.
        deadline_s: longest broadcast.
    """

    def __init__(
        self,
        name: str,
        *,
        device: WeightDevice,
        transport: TransportSection,
        socket_dir: Path,
        keys: CurveKeys | None = None,
        bucket_bytes: int = NCCL_MIN_BUCKET_BYTES,
        is_retaining: bool = True,
        gate_s: float = GATE_S,
        lost_s: float = LOST_S,
        deadline_s: float = 60.0,
    ) -> None:
        self._device = device
        self._bucket_bytes = bucket_bytes
        self._deadline_s = deadline_s
        self._longest_s = 2 * (gate_s + lost_s + deadline_s)
        self._slots = Slots(device, is_retaining=is_retaining)
        self._broadcaster = Broadcaster(device, deadline_s)
        self._rounds = BroadcastRounds(gate_s=gate_s, round_s=deadline_s, lost_s=lost_s)
        self._settled = threading.Event()
        self._deciding = threading.Lock()
        self._published: set[PolicyVersion] = set()
        self._layout = WeightsLayout((), 0, ALIGNMENT)
        self._packing: Future[Packing] = Future()
        """Packing of the current version; a round may be offered before the packing exists."""
        self._is_closed = False
        self._addresses: dict[str, bytes] = {}
        self._attempt: Attempt | None = None
        self._offer: OfferRound | None = None
        self.dropped: deque[DropMember] = deque(maxlen=64)
        """Members dropped lately, and why."""
        self._events: deque[Callable[[float], list[Effect]]] = deque()
        self._service = WeightService(
            name,
            transport=transport,
            socket_dir=socket_dir,
            keys=keys,
            on_message=self._on_message,
            on_wake=self._on_wake,
            tick_s=_TICK_S,
        )
        self.endpoint = self._service.endpoint
        self._service.start()

    @property
    def members(self) -> tuple[str, ...]:
        """Receivers that take part now."""
        return self._rounds.members

    @property
    def waiting_for(self) -> str | None:
        """Whom the round under way waits for, or None."""
        return self._rounds.waiting_for

    def publish(
        self, policy_version: PolicyVersion, tensors: Tensors, shapes: Sequence[TensorShape] | None = None
    ) -> WeightsAnnouncement:
        """See `WeightSender.publish`."""
        if self._is_closed:
            raise WeightsError("the weight channel is closed")
        if policy_version in self._published:
            raise WeightsError(f"version {policy_version} was published before")
        with prompt_threads():
            return self._publish(policy_version, tensors, shapes)

    def _publish(
        self, policy_version: PolicyVersion, tensors: Tensors, shapes: Sequence[TensorShape] | None
    ) -> WeightsAnnouncement:
        is_idle = self._begin(None)
        layout, tensors_in_order = describe(tensors, shapes, self._bucket_bytes)
        ordered = list(tensors_in_order)
        self._wait_for(is_idle)
        self._layout, self._packing = layout, Future()
        # Offered first: members come to the gate while the rest is prepared.
        settled = self._begin(policy_version)
        try:
            packing = self._prepare(layout, ordered)
            if self._slots.is_retaining:
                wait(packing.pack_all(), time.monotonic() + self._deadline_s, f"packing version {policy_version}")
            else:
                self._wait_for(settled)
        except Exception:
            self._wait_for(self._begin(None))
            raise
        self._published.add(policy_version)
        if not self._slots.is_retaining:
            self._wait_for(self._begin(None))
        packing.release(self._longest_s)
        manifest = {"endpoint": self.endpoint, "host": socket.gethostname(), "num_bytes": layout.num_bytes}
        return WeightsAnnouncement(policy_version, CHANNEL, {"source": manifest})

    def _prepare(self, layout: WeightsLayout, tensors: list[torch.Tensor]) -> Packing:
        """Let the round under way have the version's packing, or the reason why there is none.

        Raises:
            WeightsError: there is no memory.
        """
        try:
            # Copies are made here, on the caller's stream, so that the mark comes after them.
            ordered = [tensor if tensor.is_contiguous() else tensor.detach().contiguous() for tensor in tensors]
            packing = Packing(self._slots, layout, ordered, self._device.callers_mark())
        except Exception as error:
            self._packing.set_exception(error)
            raise
        self._packing.set_result(packing)
        return packing

    def retire(self, policy_version: PolicyVersion) -> None:
        """See `WeightSender.retire`: only the newest version is ever held, and the next one takes its memory."""

    def close(self) -> None:
        """See `WeightSender.close`."""
        if self._is_closed:
            return
        self._is_closed = True
        self._service.close()
        if self._attempt is not None:
            self._attempt.abort()
            self._attempt.thread.join(timeout=5.0)
        self._broadcaster.abort()

    def _begin(self, version: PolicyVersion | None) -> threading.Event:
        """Make this the current version. The event is set when no round runs and no member lacks the version."""
        settled = threading.Event()

        def publish(now_s: float) -> list[Effect]:
            self._settled = settled
            return self._rounds.publish(version, now_s)

        if version is None:
            # Decided in this thread: withdrawing a version offers nothing, and mostly no round is under way.
            with self._deciding:
                self._perform(publish(time.monotonic()))
        else:
            self._post(publish)
        return settled

    def _wait_for(self, settled: threading.Event) -> None:
        if not settled.wait(self._longest_s):
            raise WeightsError(f"the broadcast under way does not end: {self._rounds.waiting_for}")

    def _post(self, event: Callable[[float], list[Effect]]) -> None:
        """Have an event decided in the serving thread."""
        self._events.append(event)
        self._service.wake()

    # -- in the serving thread

    def _on_message(self, peer: bytes, header: bytes) -> None:
        message = _decoder.decode(header)
        with self._deciding:
            self._answer(peer, message, time.monotonic())

    def _answer(self, peer: bytes, message: ToSender, now_s: float) -> None:
        rounds = self._rounds
        is_known = rounds.hear(message.member, now_s)
        match message:
            case Join():
                self._addresses[message.member] = peer
                self._perform(rounds.join(message.member, message.version, now_s))
                self._service.send(peer, encode(Welcome()))
            case Leave():
                self._perform(rounds.leave(message.member, now_s))
            case _ if not is_known or self._addresses.get(message.member) != peer:
                self._service.send(peer, encode(NotKnown()))
            case Alive():
                self._service.send(peer, encode(Welcome()))
            case Ready():
                self._perform(rounds.ready(message.round, message.member, now_s))
            case Staged():
                self._perform(rounds.staged(message.round, message.member, now_s))
            case Failed():
                self._perform(rounds.failed(message.round, message.member, message.reason, now_s))

    def _on_wake(self) -> None:
        with self._deciding:
            now_s = time.monotonic()
            while self._events:
                self._perform(self._events.popleft()(now_s))
            self._perform(self._rounds.tick(now_s))

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case OfferRound():
                    self._make_offer(effect)
                case StartRound():
                    self._start(effect.round)
                case CancelRound(round=number, members=members):
                    self._tell(members, Off(number, "cancelled"))
                    if self._attempt is not None:
                        self._attempt.abort()
                case AbortRound(round=number, members=members, reason=reason):
                    self._tell(members, Off(number, reason))
                    if self._attempt is not None:
                        self._attempt.abort()
                    self._broadcaster.forget()
                case DropMember():
                    self._tell((effect.member,), NotKnown())
                    self._addresses.pop(effect.member, None)
                    self.dropped.append(effect)
                case Settled():
                    self._settled.set()

    def _make_offer(self, offer: OfferRound) -> None:
        self._offer = offer
        if offer.is_new_communicator:
            try:
                self._broadcaster.new_communicator()
            except Exception as error:
                reason = f"no communicator: {error}"
                self._post(lambda now_s: self._rounds.broken(offer.round, reason, now_s))
                return
        for position, member in enumerate(offer.members):
            message = Offer(
                round=offer.round,
                version=offer.version,
                layout=self._layout.encoded,
                communicator=offer.communicator,
                num_ranks=len(offer.members) + 1,
                rank=position + 1,
                unique_id=self._broadcaster.unique_id if offer.is_new_communicator else b"",
            )
            self._tell((member,), message)

        def on_end(reason: str | None) -> None:
            if reason is None:
                self._post(lambda now_s: self._rounds.sent(offer.round, now_s))
            else:
                self._post(lambda now_s: self._rounds.broken(offer.round, reason, now_s))

        self._attempt = Attempt(f"weights-round-{offer.round}", lambda attempt: self._broadcast(attempt, offer), on_end)
        self._attempt.thread.start()

    def _start(self, number: int) -> None:
        assert self._offer is not None
        assert self._attempt is not None
        self._tell(self._offer.members, Go(number))
        self._attempt.go.set()

    def _tell(self, members: tuple[str, ...], message: Wire) -> None:
        header = encode(message)
        for member in members:
            if member in self._addresses:
                self._service.send(self._addresses[member], header)

    # -- in the round's thread

    def _broadcast(self, attempt: Attempt, offer: OfferRound) -> None:
        """Wait at the gate, send all buckets and tell their checksums.

        Raises:
            Exception: NCCL's, or WeightsError, when a member fails or the round is aborted.
        """
        self._device.enter_thread()
        if not attempt.go.wait(self._longest_s) or attempt.is_aborted:
            raise WeightsError("called off")
        self._broadcaster.broadcast(
            attempt,
            offer,
            self._packing,
            lambda checksums: self._post(lambda _: self._send_checksums(offer, checksums)),
        )

    def _send_checksums(self, offer: OfferRound, checksums: tuple[int, ...]) -> list[Effect]:
        self._tell(offer.members, Checksums(offer.round, checksums))
        return []
