"""The meter: it transfers a channel's counters to the metrics.

Owns: what has been reported of each peer so far. Does not own: the figures themselves; outboxes and inboxes count in
plain numbers, because a metric with labels costs more than the message it would count.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from ring_async.telemetry import metrics
from ring_async.transport.inbox import SessionInbox
from ring_async.transport.outbox import SessionOutbox


class Meter:
    """Adds the increase of the counters since the last call to this process's metrics."""

    def __init__(self) -> None:
        self._reported: dict[tuple[str, str], float] = {}

    def update(self, outboxes: Iterable[SessionOutbox], inboxes: Iterable[SessionInbox]) -> None:
        """Update the metrics from the counters of all ends, closed ones included, so that totals only grow."""
        totals: defaultdict[tuple[str, str], float] = defaultdict(float)
        unacknowledged: Counter[str] = Counter()
        for outbox in outboxes:
            totals["sent", outbox.peer] += outbox.sent_bytes
            totals["resent", outbox.peer] += outbox.num_resent
            totals["waited", outbox.peer] += outbox.credit_wait_s
            unacknowledged[outbox.peer] += outbox.num_unacknowledged
            for cause, count in outbox.rejected.items():
                totals["rejected", cause] += count
        for inbox in inboxes:
            for sender, count in inbox.received_bytes.items():
                totals["received", sender] += count
            for cause, count in inbox.rejected.items():
                totals["rejected", cause] += count
        series = {
            "sent": metrics.transport_sent,
            "resent": metrics.transport_resent,
            "waited": metrics.transport_credit_wait_seconds,
            "received": metrics.transport_received,
            "rejected": metrics.transport_rejected_frames,
        }
        for (kind, label), total in totals.items():
            if (new := total - self._reported.get((kind, label), 0.0)) > 0:
                series[kind].labels(label).inc(new)
        self._reported = totals
        for peer, count in unacknowledged.items():
            metrics.transport_unacknowledged.labels(peer).set(count)
