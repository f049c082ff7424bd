"""Connections of the control API: how many there may be, and how long one may stay without a request.

Owns: the bounds on connections, which hold before a caller has shown a token. Does not own calls (`guard`).
Invariants: there are at most `MAX_CONNECTIONS`; one that has sent no whole request head for `HEAD_TIMEOUT_S` to twice
as long is closed, whether it sends nothing or a byte now and then.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 256
HEAD_TIMEOUT_S = 5.0


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 on one connection, within the bounds above."""

    _watch: asyncio.TimerHandle | None = None
    _seen: Any = None
    """The request that was answered or under way at the last look."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            log.warning("control API: more than %d connections; the newest is closed", MAX_CONNECTIONS)
            transport.abort()
            return
        self._watch = self.loop.call_later(HEAD_TIMEOUT_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        """Close the connection if no request is under way and none began since the last look."""
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and self.cycle is self._seen:
            self.transport.abort()
            return
        self._seen = self.cycle
        self._watch = self.loop.call_later(HEAD_TIMEOUT_S, self._look)
