"""The count and the log of bytes that were not valid messages.

Owns: the count by cause, and one log line per sender and cause in a while, however many come. Does not own: finding
the fault (`codec`).
"""

from __future__ import annotations

import logging
from collections import Counter

from ring_async.clock import monotonic_s
from ring_async.errors import CodecError

LOG_EVERY_S = 10.0
MAX_SENDERS_LOGGED = 256
"""Senders remembered for the rate limit; strangers may invent as many names as they like."""

_log = logging.getLogger(__name__)


class Rejections:
    """Counts rejected frames into `counter`, and logs their senders at a bounded rate.

    Args:
        counter: by cause.
        where: the channel, for the log.
    """

    def __init__(self, counter: Counter[str], where: str) -> None:
        self._counter = counter
        self._where = where
        self._logged: dict[tuple[str, str], tuple[float, int]] = {}

    def count(self, sender: str, error: CodecError) -> None:
        self._counter[error.cause] += 1
        now_s = monotonic_s()
        key = (sender, error.cause)
        logged_s, num_suppressed = self._logged.get(key, (float("-inf"), 0))
        if now_s - logged_s < LOG_EVERY_S:
            self._logged[key] = (logged_s, num_suppressed + 1)
            return
        if key not in self._logged and len(self._logged) >= MAX_SENDERS_LOGGED:
            del self._logged[next(iter(self._logged))]
        self._logged[key] = (now_s, 0)
        more = f" ({num_suppressed} more since the last such line)" if num_suppressed else ""
        _log.warning("%s: dropped a message from %s: %s%s", self._where, sender, error, more)
