"""What either end of the NCCL channel keeps of one round, and what the receiver keeps from round to round.

Owns: the thread that a round's work runs in, its abort, the receiver's memory and lanes. Does not own: what is done in
a round (`sender`, `receiver`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ring_async.core.weights.plan import WeightsLayout
from ring_async.errors import WeightsError
from ring_async.transport.weights.nccl.device import Communicator, Lane, Part
from ring_async.transport.weights.nccl.wire import Offer

_NUM_TABLES = 8


class Attempt:
    """One side's work in one round, in a thread of its own.

    Args:
        name: of the thread.
        work: gets this attempt; its error is passed to `on_end`.
        on_end: called in the thread, with None or what went wrong.
    """

    def __init__(self, name: str, work: Callable[[Attempt], None], on_end: Callable[[str | None], None]) -> None:
        self.communicator: Communicator | None = None
        self.is_aborted = False
        self.go = threading.Event()
        """Set when all members are at the gate, or the round is off."""
        self._work = work
        self._on_end = on_end
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    def use(self, communicator: Communicator) -> None:
        """Let `abort` reach this communicator.

        Raises:
            WeightsError: aborted meanwhile.
        """
        self.communicator = communicator
        if self.is_aborted:
            communicator.abort()
            raise WeightsError("aborted")

    def abort(self) -> None:
        """End the wait of this attempt's thread at the gate or in NCCL. From any thread."""
        self.is_aborted = True
        self.go.set()
        if self.communicator is not None:
            self.communicator.abort()

    def _run(self) -> None:
        try:
            self._work(self)
        # NCCL's, CUDA's and our own errors end this round, and nothing else.
        except Exception as error:
            self._on_end(f"{type(error).__name__}: {error}")
        else:
            self._on_end(None)


@dataclass(slots=True)
class RoundTimes:
    """When the last round reached its stages here, on `time.monotonic`."""

    offered_s: float = 0.0
    ready_s: float = 0.0
    started_s: float = 0.0
    queued_s: float = 0.0
    """The broadcast of the last bucket was handed to the device."""
    received_s: float = 0.0
    """The last bucket has arrived, and its checksum is computed."""
    verified_s: float = 0.0


class Lanes:
    """The receiver's two lanes, kept from round to round like the communicator, and tables of where versions lie."""

    def __init__(self, receiving: Lane, folding: Lane) -> None:
        self.receiving = receiving
        self.folding = folding
        self._tables: dict[tuple[int, int, int], torch.Tensor] = {}

    def table(self, layout: WeightsLayout, content: torch.Tensor) -> torch.Tensor:
        """A part for each bucket, as `Lane.fold64` takes them. Versions mostly lie in the same few places."""
        address = content.data_ptr()
        key = (address, layout.num_bytes, layout.bucket_bytes)
        if key not in self._tables:
            ranges = [layout.bucket_range(bucket) for bucket in range(layout.num_buckets)]
            parts = [Part(address + start, 0, end - start, 0, bucket) for bucket, (start, end) in enumerate(ranges)]
            if len(self._tables) >= _NUM_TABLES:
                self._tables.clear()
            self._tables[key] = self.folding.tabulate(parts)
        return self._tables[key]


class ReceiverRound:
    """The round under way here: what was offered, and what has been heard since."""

    def __init__(
        self, offer: Offer, layout: WeightsLayout, content: torch.Tensor, lanes: Lanes, parts: torch.Tensor
    ) -> None:
        self.offer = offer
        self.layout = layout
        self.content: torch.Tensor | None = content
        self.tensors: dict[str, torch.Tensor] = {}
        self.lanes = lanes
        self.parts = parts
        """One a bucket, as `Lane.fold64` takes them."""
        self.attempt: Attempt | None = None
        self.has_checksums = threading.Event()
        self.checksums: tuple[int, ...] = ()
        self.off_reason = ""
        self.is_over = False

    def take_tensors(self) -> dict[str, torch.Tensor]:
        """Move the tensors out, so that a reference to this round no longer keeps gigabytes of the device."""
        tensors, self.tensors, self.content = self.tensors, {}, None
        return tensors
