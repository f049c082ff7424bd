"""The receiving end of the NCCL channel: takes part in broadcasts on its own, so that versions are here when asked for.

Owns: the staging buffer, the conversation with the sender, the receiver's part of a round. Does not own: putting a
version in force.

Invariants:
* A buffer is offered for receiving only when nobody holds it: staged weights that were handed out are never written to.
* A version is staged when every bucket has the checksum that the sender computed of what it packed, else not at all.
* A sender that dies in the middle costs `deadline_s` at most; the version in force stays.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

import msgspec
import torch
import zmq

from ring_async.clock import seconds_since
from ring_async.core.weights.plan import ALIGNMENT, WeightsLayout
from ring_async.errors import WeightsError
from ring_async.transport.messages.versions import WeightsAnnouncement
from ring_async.transport.weights.base import StagedWeights, StageReport
from ring_async.transport.weights.nccl.device import (
    NCCL_UINT8,
    Communicator,
    Pace,
    WeightDevice,
    prompt_threads,
    unsigned,
    wait,
)
from ring_async.transport.weights.nccl.round import Attempt, Lanes, ReceiverRound, RoundTimes
from ring_async.transport.weights.nccl.wire import (
    ALIVE_S,
    CHANNEL,
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
from ring_async.transport.weights.tensors import view_tensors
from ring_async.transport.weights.wire import Wire, encode, open_dealer
from ring_async.types import PolicyVersion

if TYPE_CHECKING:
    from ring_async.transport.curve import CurveKeys

# Here, not where they are used: two threads that resolve a type at once crash the interpreter (docs/dependencies.md).
_decoder = msgspec.msgpack.Decoder(Offer | Go | Off | Checksums | Welcome | NotKnown)
_layout_decoder = msgspec.msgpack.Decoder(WeightsLayout)


class NcclWeightReceiver:
    """Receives versions into this GPU.

    Args:
        member: name among the receivers of the sender, e.g. the actor's id.
        device: where versions are to lie.
        keys: of the run, for CURVE on TCP.
        deadline_s: longest wait of `stage`, and longest broadcast.
    """

    def __init__(
        self, member: str, *, device: WeightDevice, keys: CurveKeys | None = None, deadline_s: float = 60.0
    ) -> None:
        self._member = member
        self._device = device
        self._keys = keys
        self._deadline_s = deadline_s
        self._membership: _Membership | None = None
        self.times = RoundTimes()
        """When the last round reached its stages."""

    def stage(self, announcement: WeightsAnnouncement) -> StagedWeights:
        """See `WeightReceiver.stage`. The first call joins the sender's broadcasts; later versions come unasked."""
        start = time.perf_counter()
        version = announcement.policy_version
        source = announcement.manifest.get("source")
        endpoint = source.get("endpoint") if isinstance(source, dict) else None
        if announcement.channel != CHANNEL or not isinstance(endpoint, str):
            raise WeightsError(f"version {version}: not an announcement of the {CHANNEL} channel")
        membership = self.join(endpoint)
        tensors, num_bytes = membership.take(version, time.monotonic() + self._deadline_s)
        return StagedWeights(version, tensors, StageReport(num_bytes, num_bytes, seconds_since(start)))

    def join(self, endpoint: str) -> _Membership:
        """Take part in the broadcasts of the sender at this control endpoint, from now on."""
        if self._membership is not None and self._membership.endpoint != endpoint:
            self._membership.close()
            self._membership = None
        if self._membership is None:
            self._membership = _Membership(
                self._member, endpoint, self._device, self._keys, self._deadline_s, self.times
            )
        return self._membership

    def close(self) -> None:
        """See `WeightReceiver.close`."""
        if self._membership is not None:
            self._membership.close()
            self._membership = None


class _Membership:
    """The conversation with one sender, in a thread; `take` hands over what it brought."""

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        member: str,
        endpoint: str,
        device: WeightDevice,
        keys: CurveKeys | None,
        deadline_s: float,
        times: RoundTimes,
    ) -> None:
        self.endpoint = endpoint
        self._times = times
        self._member = member
        self._device = device
        self._deadline_s = deadline_s
        self._condition = threading.Condition()
        self._staged: tuple[PolicyVersion, dict[str, torch.Tensor], int] | None = None
        """The newest version staged and not yet taken, its tensors and their bytes."""
        self._layout = (b"", WeightsLayout((), 0, ALIGNMENT))
        """The layout offered last, encoded and decoded."""
        self._held: PolicyVersion | None = None
        self._trouble = "the sender has not answered yet"
        self._is_closed = False
        self._round: ReceiverRound | None = None
        self._communicator: tuple[int, Communicator] | None = None
        self._lanes: Lanes | None = None
        self._outgoing: deque[Wire] = deque()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            self._dealer = open_dealer(self._context, endpoint, keys)
        except WeightsError:
            self._context.destroy(linger=0)
            os.close(self._wake_fd)
            raise
        self._thread = threading.Thread(target=self._converse, name=f"weights-{member}", daemon=True)
        self._thread.start()

    def take(self, version: PolicyVersion, deadline_s: float) -> tuple[dict[str, torch.Tensor], int]:
        """Wait for a version.

        Returns:
            Its tensors, and how many bytes were received.

        Raises:
            WeightsError: a newer one is here instead, the deadline passed, or the receiver was closed.
        """
        with self._condition:
            while True:
                if self._is_closed:
                    raise WeightsError("the weight channel was closed")
                if self._staged is not None and self._staged[0] == version:
                    _, tensors, num_bytes = self._staged
                    self._staged = None
                    return tensors, num_bytes
                if self._held is not None and self._held >= version:
                    raise WeightsError(f"version {version}: superseded by {self._held}; stage a newer announcement")
                remaining_s = deadline_s - time.monotonic()
                if remaining_s <= 0:
                    raise WeightsError(f"version {version}: not received from {self.endpoint}: {self._trouble}")
                self._condition.wait(remaining_s)

    def close(self) -> None:
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()
            os.eventfd_write(self._wake_fd, 1)
        self._thread.join()
        os.close(self._wake_fd)

    def _wake(self) -> None:
        with self._condition:
            if not self._is_closed:
                os.eventfd_write(self._wake_fd, 1)

    # -- in the thread of the membership

    def _converse(self) -> None:
        with prompt_threads():
            self._keep_in_touch()

    def _keep_in_touch(self) -> None:
        """Talk with the sender until closed.

        Consumes: what the sender says; what the round's thread has to say.
        Produces: Join, Alive, Ready, Staged, Failed, Leave.
        Waits for: either, `ALIVE_S` at most.
        Unblocked by: the sender, the round's thread, `close`.
        """
        poller = zmq.Poller()
        poller.register(self._dealer, zmq.POLLIN)
        poller.register(self._wake_fd, zmq.POLLIN)
        self._device.enter_thread()
        self._send(Join(self._member, None))
        spoken_s = time.monotonic()
        try:
            while not self._is_closed:
                ready = dict(poller.poll(int(ALIVE_S * 1000)))
                if self._wake_fd in ready:
                    os.eventfd_read(self._wake_fd)
                    while self._outgoing:
                        self._send(self._outgoing.popleft())
                if self._dealer in ready:
                    header = self._dealer.recv_multipart()[0]
                    try:
                        self._on_message(_decoder.decode(header))
                    except msgspec.DecodeError:
                        continue
                if time.monotonic() - spoken_s >= ALIVE_S:
                    self._send(Alive(self._member))
                    spoken_s = time.monotonic()
            self._send(Leave(self._member))
        finally:
            self._end_round("closed")
            self._drop_communicator()
            self._dealer.close(linger=200)
            self._context.term()

    def _on_message(self, message: Offer | Go | Off | Checksums | Welcome | NotKnown) -> None:
        current = self._round
        match message:
            case Offer():
                self._end_round("a newer round was offered")
                self._accept(message)
            case Go() if current is not None and current.offer.round == message.round:
                assert current.attempt is not None
                current.attempt.go.set()
            case Checksums() if current is not None and current.offer.round == message.round:
                current.checksums = message.checksums
                current.has_checksums.set()
            case Off() if current is not None and current.offer.round == message.round:
                self._end_round(message.reason)
            case NotKnown():
                self._end_round("the sender does not know this receiver any more")
                self._send(Join(self._member, self._held))
            case _:
                pass

    def _accept(self, offer: Offer) -> None:
        """Accept an offered round: take memory for the version, then tell the sender that this member is ready."""
        self._times.offered_s = time.monotonic()
        with self._condition:
            self._staged = None  # A later `take` of it is told of the newer version; the memory is needed now.
        try:
            if offer.layout != self._layout[0]:
                self._layout = (offer.layout, _layout_decoder.decode(offer.layout))
            layout = self._layout[1]
            content = self._device.empty(layout.num_bytes)
        except (WeightsError, msgspec.DecodeError) as error:
            self._send(Failed(self._member, offer.round, str(error)))
            self._set_trouble(str(error))
            return
        self._send(Ready(self._member, offer.round))
        self._times.ready_s = time.monotonic()
        if self._lanes is None:
            self._lanes = Lanes(self._device.lane(), self._device.lane())
        lanes = self._lanes
        # The memory may have belonged to weights whose last use is still queued.
        lanes.receiving.after(self._device.callers_mark())
        self._round = ReceiverRound(offer, layout, content, lanes, lanes.table(layout, content))
        current = self._round
        current.attempt = Attempt(
            f"weights-round-{offer.round}",
            lambda attempt: self._receive(attempt, current),
            lambda reason: self._on_end(current, reason),
        )
        current.attempt.thread.start()

    def _end_round(self, reason: str) -> None:
        """Abort the round under way, if any, and wait for its thread to end."""
        current, self._round = self._round, None
        if current is None or current.is_over:
            return
        current.off_reason = reason
        self._set_trouble(reason)
        attempt = current.attempt
        assert attempt is not None
        attempt.abort()
        current.has_checksums.set()
        attempt.thread.join(timeout=1.0)
        current.take_tensors()
        self._drop_communicator()

    def _drop_communicator(self) -> None:
        held, self._communicator = self._communicator, None
        self._lanes = None  # They may hold what an aborted communicator leaves.
        if held is not None:
            held[1].abort()

    def _set_trouble(self, reason: str) -> None:
        with self._condition:
            self._trouble = reason

    def _send(self, message: Wire) -> None:
        self._dealer.send(encode(message))

    # -- in the round's thread

    def _on_end(self, current: ReceiverRound, reason: str | None) -> None:
        current.is_over = True
        tensors = current.take_tensors()
        if current.off_reason:
            return
        if reason is None:
            with self._condition:
                self._staged = (current.offer.version, tensors, current.layout.num_bytes)
                self._held = current.offer.version
                self._condition.notify_all()
            self._outgoing.append(Staged(self._member, current.offer.round))
        else:
            self._drop_communicator()
            self._set_trouble(str(reason))
            self._outgoing.append(Failed(self._member, current.offer.round, str(reason)))
        self._wake()

    def _receive(self, attempt: Attempt, current: ReceiverRound) -> None:
        """Receive all buckets and compare their checksums.

        Raises:
            Exception: NCCL's, or WeightsError, when the sender fails or the round is off.
        """
        offer, content = current.offer, current.content
        assert content is not None
        self._device.enter_thread()
        deadline_s = time.monotonic() + self._deadline_s
        if not attempt.go.wait(self._deadline_s) or attempt.is_aborted:
            raise WeightsError(f"round {offer.round} did not start")
        self._times.started_s = time.monotonic()
        if self._communicator is None or self._communicator[0] != offer.communicator:
            if not offer.unique_id:
                raise WeightsError(f"communicator {offer.communicator} is not here")
            self._drop_communicator()
            communicator = self._device.connect(offer.unique_id, offer.num_ranks, offer.rank)
            attempt.use(communicator)
            self._communicator = (offer.communicator, communicator)
        else:
            communicator = self._communicator[1]
            attempt.use(communicator)
        lane, fold_lane, layout = current.lanes.receiving, current.lanes.folding, current.layout
        sums = fold_lane.zeros(layout.num_buckets)
        for bucket in range(layout.num_buckets):
            with self._device.grouped():
                for part in layout.sends[bucket]:
                    address = content.data_ptr() + part.start
                    communicator.broadcast(address, address, part.num_bytes, NCCL_UINT8, 0, lane.handle)
            fold_lane.after(lane.mark())
            # After the last one nothing is being received any more.
            pace: Pace = "alone" if bucket == layout.num_buckets - 1 else "ahead"
            fold_lane.fold64(current.parts[bucket : bucket + 1], sums, pace)
        self._times.queued_s = time.monotonic()
        current.tensors = view_tensors(layout, content)  # Now, while the bytes are on their way.
        received = fold_lane.fetch(sums)
        wait(fold_lane.mark(), deadline_s, "broadcast")
        self._times.received_s = time.monotonic()
        if not current.has_checksums.wait(max(0.0, deadline_s - time.monotonic())) or attempt.is_aborted:
            raise WeightsError(f"round {offer.round}: no checksums")
        pairs = zip(unsigned(received), current.checksums, strict=True)
        corrupt = [bucket for bucket, (got, sent) in enumerate(pairs) if got != sent]
        if corrupt:
            raise WeightsError(f"{len(corrupt)} of {layout.num_buckets} buckets corrupt, first {corrupt[0]}")
        self._times.verified_s = time.monotonic()
