"""HTTP to one SGLang server: requests from the actor's loop, streams from a thread of their own.

Owns: the connections and what their failures mean. Every failure to reach the server is a `ServerLostError`; what the
server itself says no to is a `ServerRefusedError`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
import msgspec

from ring_async.engines.sglang.requests import GENERATE, Body
from ring_async.engines.sglang.response import Leg
from ring_async.engines.sglang.stream import EventCutter

_T = TypeVar("_T")
_CONNECT_S = 10.0
_JOIN_DEADLINE_S = 10.0


class ServerLostError(Exception):
    """The server cannot be reached, or broke off."""


class ServerRefusedError(Exception):
    """The server answered with an error; the message is its own."""


class ServerAddress(msgspec.Struct, frozen=True):
    """`url` without a trailing slash; `api_key` may be empty."""

    url: str
    api_key: str = ""

    def session(self) -> aiohttp.ClientSession:
        """A session of the running loop. Without a total timeout: a response takes as long as it takes."""
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
        return aiohttp.ClientSession(self.url, headers=headers, timeout=timeout, connector=connector)


class ControlClient:
    """Short requests: pause, update, abort, figures. Lives on the loop that made it."""

    def __init__(self, address: ServerAddress) -> None:
        self._session = address.session()

    async def post(self, path: str, body: Body, *, timeout_s: float = 60.0) -> Any:
        """The decoded answer, None if it has no body.

        Raises:
            ServerLostError, ServerRefusedError
        """
        return await self._send("POST", path, timeout_s, msgspec.json.encode(body))

    async def get(self, path: str, *, timeout_s: float = 10.0) -> Any:
        return await self._send("GET", path, timeout_s, None)

    async def _send(self, method: str, path: str, timeout_s: float, data: bytes | None) -> Any:
        if self._session.closed:
            raise ServerLostError(f"{method} {path}: the connection was closed")
        headers = {"Content-Type": "application/json"}
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.request(method, path, data=data, headers=headers) as reply,
            ):
                content = await reply.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ServerLostError(f"{method} {path}: {error or type(error).__name__}") from error
        if reply.status != 200:
            words = content.decode(errors="replace")[:500]
            raise ServerRefusedError(f"{method} {path}: {reply.status} {words}")
        return msgspec.json.decode(content) if content else None

    async def close(self) -> None:
        await self._session.close()


class StreamReader:
    """Reads the streams of all legs in a thread of its own, so that parsing never holds up the actor's loop.

    consumes: bytes from the server. produces: tokens in the legs.
    waits for: the server; freed by its next chunk, its end, or the cancellation of `read`.
    """

    def __init__(self, address: ServerAddress) -> None:
        self._address = address
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="sglang-reader", daemon=True)
        self._session: aiohttp.ClientSession | None = None
        self._is_closing = False
        self.num_tokens = 0
        """Received since start."""
        self.num_retractions = 0
        """Requests the server threw out of its cache and computed again, since start."""
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def read(self, leg: Leg, body: Body) -> None:
        """Submit a leg and read it to its end; what came stays in the leg, however this ends.

        Raises:
            ServerLostError: the server broke off.
            BrokenServerError: it said what no sound server says.
            ValueError: it refused the request.
        """
        if self._is_closing:
            raise ServerLostError(f"{GENERATE}: the connection was closed")
        try:
            await self._call(self._read(leg, body))
        except asyncio.CancelledError:
            if self._is_closing:  # the stream was cancelled, not whoever waits for it
                raise ServerLostError(f"{GENERATE}: the connection was closed") from None
            raise

    async def _read(self, leg: Leg, body: Body) -> None:
        if self._session is None:
            self._session = self._address.session()
        headers = {"Content-Type": "application/json"}
        cutter = EventCutter()
        try:
            async with self._session.post(GENERATE, data=msgspec.json.encode(body), headers=headers) as reply:
                if reply.status != 200:
                    words = (await reply.read()).decode(errors="replace")[:500]
                    if reply.status >= 500:
                        raise ServerLostError(f"{GENERATE}: {reply.status} {words}")
                    raise ValueError(f"request {leg.request_id}: {words}")
                async for data, _ in reply.content.iter_chunks():
                    for chunk in cutter.feed(data):
                        num_retractions = leg.num_retractions
                        self.num_tokens += leg.take(chunk)
                        self.num_retractions += leg.num_retractions - num_retractions
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ServerLostError(f"{GENERATE}: {error or type(error).__name__}") from error
        if leg.finish is None:
            raise ServerLostError(f"{GENERATE}: the stream of {leg.request_id} ended before the response did")

    async def _call(self, work: Coroutine[Any, Any, _T]) -> _T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def close(self) -> None:
        """Break off all streams and end the thread. Idempotent."""
        if self._is_closing:
            return
        self._is_closing = True
        await self._call(self._close_session())
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join, _JOIN_DEADLINE_S)
        if not self._thread.is_alive():
            self._loop.close()

    async def _close_session(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
