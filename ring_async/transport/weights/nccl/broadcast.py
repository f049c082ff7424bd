"""The sender's collective calls: its communicator, and the broadcast of one packed version through it.

Owns: the communicator from round to round, the lane that broadcasts are queued on. Does not own: who takes part
(`core.weights.broadcast_rounds`), what lies in a bucket (`packing`), control messages (`sender`).

Invariants: `broadcast` runs in a round's own thread, since NCCL may block for ever on a peer that died; an aborted
communicator is never used again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future

from ring_async.core.weights.broadcast_rounds import OfferRound
from ring_async.errors import WeightsError
from ring_async.transport.weights.nccl.device import NCCL_UINT8, Communicator, WeightDevice, unsigned, wait
from ring_async.transport.weights.nccl.packing import Packing
from ring_async.transport.weights.nccl.round import Attempt


class Broadcaster:
    """Broadcasts packed versions as rank 0.

    A round that changes the members, and the one after it among the same:

        broadcaster.new_communicator()                      # its `unique_id` is told to the members
        broadcaster.broadcast(attempt, offer, packing, …)   # connects, then sends
        broadcaster.broadcast(attempt, offer, packing, …)   # sends

    Args:
        device: the sender's.
        deadline_s: longest packing, and longest broadcast.
    """

    def __init__(self, device: WeightDevice, deadline_s: float) -> None:
        self._device = device
        self._deadline_s = deadline_s
        self._lane = device.lane()
        self._communicator: tuple[int, Communicator] | None = None
        self.unique_id = b""
        """Unique id of the communicator offered last."""

    def new_communicator(self) -> None:
        """Abort the communicator there is, and make the `unique_id` of the next one.

        Raises:
            Exception: NCCL's.
        """
        self.abort()
        self.unique_id = self._device.make_unique_id()

    def abort(self) -> None:
        """Abort the communicator. Not `destroy`, which waits for the other ranks to do the same; some may be gone."""
        if self._communicator is not None:
            self._communicator[1].abort()
            self._communicator = None

    def forget(self) -> None:
        """The communicator was aborted by its round: the next round connects anew."""
        self._communicator = None

    def broadcast(
        self,
        attempt: Attempt,
        offer: OfferRound,
        packing: Future[Packing],
        on_checksums: Callable[[tuple[int, ...]], None],
    ) -> None:
        """Send all buckets.

        Args:
            attempt: the round's; it has gone through the gate.
            offer: who takes part.
            packing: of the version; may come a little later.
            on_checksums: told fold64 of every bucket, before the last bucket has arrived.

        Raises:
            Exception: NCCL's, or WeightsError, when a member fails or the round is aborted.
        """
        deadline_s = time.monotonic() + self._deadline_s
        packed = packing.result(self._deadline_s)
        if self._communicator is None or self._communicator[0] != offer.communicator:
            communicator = self._device.connect(self.unique_id, len(offer.members) + 1, 0)
            attempt.use(communicator)
            self._communicator = (offer.communicator, communicator)
            self._lane = self._device.lane()  # The last one may hold what an aborted communicator left.
        else:
            communicator = self._communicator[1]
            attempt.use(communicator)
        is_held = packed.hold()
        try:
            self._send_buckets(packed, communicator, is_held=is_held)
            sums, fetched = packed.checksums()
            wait(fetched, deadline_s, "checksums")
            on_checksums(unsigned(sums))
            wait(self._lane.mark(), deadline_s, "broadcast")
        finally:
            if is_held:
                packed.stop_holding()
        if attempt.is_aborted:
            raise WeightsError("aborted")

    def _send_buckets(self, packing: Packing, communicator: Communicator, *, is_held: bool) -> None:
        lane = self._lane
        packing.restart()
        for bucket in range(packing.layout.num_buckets):
            parts, ready = packing.bucket(bucket, is_held=is_held)
            lane.after(ready)
            with self._device.grouped():
                for address, num_bytes in parts:
                    communicator.broadcast(address, address, num_bytes, NCCL_UINT8, 0, lane.handle)
            packing.hash(bucket)
            packing.sent(bucket, lane.mark())
