"""The guard of the control API: it checks token, rate and size of every call before any route.

    request ──▶ host? ──▶ rate? ──▶ token? ──▶ body within the limits? ──▶ routes
                 421       429       401           413, 408, 422

Owns: which calls are admitted, and the account of refused ones. Does not own routes: the guard wraps the whole
application, so that a route added later is guarded, too.
Invariants: nothing but `OPEN_PATHS` and the page's own files is answered without the run's token, or the cookie of a
browser that showed it (`sessions`); a cookie changes something only with the page's header; tokens are compared in
constant time; callers
with the token and callers without never share a bucket, so that a stranger cannot use up the owner's; memory is
bounded for any number of callers.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import logging
import math
import re
import socket
from collections import OrderedDict
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any, NamedTuple
from urllib.parse import quote

from ring_async.clock import monotonic_s
from ring_async.control.sessions import Sessions
from ring_async.telemetry import metrics

log = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/", "/healthz", "/page/login"})
OPEN_FOLDER = "/static/"
"""The page's own files, which say nothing about the run."""
PAGE_HEADER = (b"x-ring-async", b"page")
"""What the page sends with every call that changes something: no other site's page can, without being asked first."""
_READING = frozenset({"GET", "HEAD"})
MAX_NESTING = 24
"""Deepest nesting of a body: what is in it travels in messages, which nest it a few levels deeper and take 32."""
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")
BURST_S = 2.0
"""A caller that was quiet may spend this many seconds' worth of its rate at once."""
MAX_CALLERS = 1024
"""Callers remembered; the one unheard of for longest goes first."""
BODY_TIMEOUT_S = 10.0
"""Longest time for a body to arrive."""
AUDIT_EVERY_S = 10.0
"""Refusals of one cause are written down at most this often, with their number since the last time."""
_PATH_CHARACTERS = 200
_CLOSE = (b"connection", b"close")
"""Sent where the rest of a body is left unread."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Any]
Send = Callable[[MutableMapping[str, Any]], Any]


class Refusal(NamedTuple):
    """Calls that were refused for one cause (`host`, `token`, `rate`, `size`, `slow`, `depth`); `num` counts them since
    the last report.

    `method`, `path` (percent-encoded, cut) and `client` are those of the last call.
    """

    cause: str
    num: int
    method: str
    path: str
    client: str


class RateLimit:
    """A token bucket for each caller.

    Args:
        per_s: calls a second that a caller may make in the long run.
        burst: calls that a caller may make at once, at least 1.
    """

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = max(1.0, burst)
        self._levels: OrderedDict[object, tuple[float, float]] = OrderedDict()

    def take(self, caller: object, now_s: float) -> float:
        """Take one call from a caller's bucket; returns 0, or the seconds until the bucket holds one."""
        level, since_s = self._levels.pop(caller, (self._burst, now_s))
        level = min(self._burst, level + (now_s - since_s) * self._per_s)
        wait_s = 0.0 if level >= 1.0 else (1.0 - level) / self._per_s
        self._levels[caller] = (level if wait_s else level - 1.0, now_s)
        if len(self._levels) > MAX_CALLERS:
            self._levels.popitem(last=False)
        return wait_s


class _Refused(Exception):  # noqa: N818 - an answer, not an error
    def __init__(self, status: int, cause: str, detail: str, header: tuple[bytes, bytes]) -> None:
        super().__init__(detail)
        self.status, self.cause, self.detail, self.header = status, cause, detail, header


class Guard:
    """ASGI middleware around the whole application.

    Args:
        app: what is guarded.
        token: of the run.
        sessions: of the live page.
        max_requests_per_s: for each caller.
        max_body_bytes: of one request, declared or sent in chunks.
        names: hosts that calls may name, besides addresses and this host's own names. A browser that a stranger's
            page sends here names the stranger's host.
        on_refused: called about refusals, at most once every `AUDIT_EVERY_S` for each cause.
    """

    def __init__(
        self,
        app: Any,
        *,
        token: str,
        sessions: Sessions,
        max_requests_per_s: float,
        max_body_bytes: int,
        on_refused: Callable[[Refusal], None],
        names: Iterable[str] = (),
    ) -> None:
        self._names = {name.lower() for name in (*names, "localhost", socket.gethostname(), socket.getfqdn())}
        self._app = app
        self._expected = f"Bearer {token}".encode()
        self._sessions = sessions
        self._rate = RateLimit(max_requests_per_s, BURST_S * max_requests_per_s)
        self._max_body_bytes = max_body_bytes
        self._on_refused = on_refused
        self._unreported: dict[str, int] = {}
        self._reported_s: dict[str, float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # neither web sockets nor a lifespan are served
        try:
            body = await self._admit(scope, receive)
        except _Refused as refused:
            self._write_down(scope, refused.cause)
            await _answer(send, refused)
        except ConnectionError:
            return  # the caller has disconnected
        else:
            await self._app(scope, _replay(body, receive), send)

    async def _admit(self, scope: Scope, receive: Receive) -> bytes:
        """Admit a call and return its whole body, or raise `_Refused`."""
        headers = dict(scope["headers"])
        if not self._is_here(headers.get(b"host", b"")):
            detail = "the Host header names another host; list the names of this one in control.names"
            raise _Refused(421, "host", detail, _CLOSE)
        is_owner = self._is_owner(scope["method"], headers)
        wait_s = self._rate.take((_client(scope), is_owner), monotonic_s())
        if wait_s:
            after = str(math.ceil(wait_s)).encode()
            raise _Refused(429, "rate", "too many calls; try again later", (b"retry-after", after))
        if not (is_owner or scope["path"] in OPEN_PATHS or scope["path"].startswith(OPEN_FOLDER)):
            detail = "the run's token is missing or wrong; it is in endpoints.json"
            raise _Refused(401, "token", detail, (b"www-authenticate", b"Bearer"))
        limit_bytes = self._max_body_bytes
        too_large = _Refused(413, "size", f"the body is larger than control.max_body_bytes, {limit_bytes}", _CLOSE)
        if int(headers.get(b"content-length", b"0")) > limit_bytes:
            raise too_large
        body = bytearray()  # counted on arrival: a body in chunks declares no length
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ConnectionError
                    body += message.get("body", b"")
                    if len(body) > limit_bytes:
                        raise too_large
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            raise _Refused(408, "slow", f"no whole body within {BODY_TIMEOUT_S:.0f} s", _CLOSE) from None
        if is_deeper(bytes(body), MAX_NESTING):
            raise _Refused(422, "depth", f"the body nests lists and objects more than {MAX_NESTING} deep", _CLOSE)
        return bytes(body)

    def _is_here(self, host: bytes) -> bool:
        """Whether a Host header names this host: an address, or one of its names. Without a header it may."""
        name = host.decode("latin-1").lower()
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return not name or name in self._names
        return True

    def _is_owner(self, method: str, headers: dict[bytes, bytes]) -> bool:
        """Whether the caller showed the run's token, or is a browser that did."""
        if hmac.compare_digest(headers.get(b"authorization", b""), self._expected):
            return True
        name, value = PAGE_HEADER
        may = method in _READING or headers.get(name) == value
        return may and self._sessions.admits_cookie(headers.get(b"cookie", b""))

    def _write_down(self, scope: Scope, cause: str) -> None:
        metrics.controller_refused_requests.labels(cause=cause).inc()
        self._unreported[cause] = self._unreported.get(cause, 0) + 1
        now_s = monotonic_s()
        if now_s - self._reported_s.get(cause, -math.inf) < AUDIT_EVERY_S:
            return
        self._reported_s[cause] = now_s
        path = quote(scope["path"][:_PATH_CHARACTERS])[:_PATH_CHARACTERS]
        refusal = Refusal(cause, self._unreported.pop(cause), scope["method"], path, _client(scope))
        log.warning("refused %d call(s), %s; the last: %s %s from %s", *refusal[1::-1], *refusal[2:])
        self._on_refused(refusal)


def is_deeper(body: bytes, limit: int) -> bool:
    """Whether JSON nests more than `limit` deep. Text that is no JSON may get either answer."""
    depth = 0
    for bracket in _BRACKETS.findall(_STRINGS.sub(b"", body)):
        depth += 1 if bracket in b"[{" else -1
        if depth > limit:
            return True
    return False


async def _answer(send: Send, refused: _Refused) -> None:
    content = json.dumps({"detail": refused.detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode()), refused.header]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def _client(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that returns the body once, and the connection's own messages afterwards."""
    is_given = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal is_given
        if is_given:
            message: MutableMapping[str, Any] = await receive()
            return message
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
