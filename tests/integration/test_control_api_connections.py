"""The control API's bounds on connections, over real sockets: they hold before a caller has shown a token."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from ring_async.config.schema import ControlSection
from ring_async.control import connections
from ring_async.control.api import make_app, serve

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def served(talk: Callable[[str, int], Coroutine[Any, Any, None]]) -> None:
    async def both() -> None:
        operations = SimpleNamespace(calls_refused=lambda refusal: None, changes=None, history=None)
        control = ControlSection()
        async with serve(make_app(operations, "token" * 8, "test", control), control) as url:  # type: ignore[arg-type]
            await talk(url, int(url.rpartition(":")[2]))

    asyncio.run(both())


async def is_closed(streams: Streams) -> bool:
    """Whether the server ends a connection on which nothing is answered."""
    reader, writer = streams
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 60.0) == b""
    writer.close()
    return True


@pytest.mark.parametrize("said", [b"", b"GET /healthz HTT", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: "])
def test_a_connection_without_a_whole_request_head_is_closed(said: bytes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections, "HEAD_TIMEOUT_S", 0.1)

    async def talk(url: str, port: int) -> None:
        streams = await asyncio.open_connection("127.0.0.1", port)
        streams[1].write(said)
        assert await is_closed(streams)
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{url}/healthz")).json() == {"run": "test"}

    served(talk)


def test_connections_above_the_most_are_closed_and_the_others_served(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(connections, "HEAD_TIMEOUT_S", 60.0)

    async def talk(url: str, port: int) -> None:
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{url}/healthz")).status_code == 200
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            assert await is_closed(await asyncio.open_connection("127.0.0.1", port))
            assert (await client.get(f"{url}/healthz")).status_code == 200  # over its own connection, which stayed
            for _, writer in held:
                writer.close()

    served(talk)
