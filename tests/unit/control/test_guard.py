"""Who is let in, how often, and with how much."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from control_operations import TOKEN, Recorded
from ring_async.config.schema import ControlSection
from ring_async.control.api import make_app
from ring_async.control.guard import AUDIT_EVERY_S, BODY_TIMEOUT_S, MAX_CALLERS, Guard, RateLimit, Refusal
from ring_async.errors import ConfigError, RunError
from ring_async.telemetry import metrics
from ring_async.testing.virtual_clock import run_virtual

OWNER = {"authorization": f"Bearer {TOKEN}"}
JSON = OWNER | {"content-type": "application/json"}


def calls(operations: Recorded, talk: Callable[[httpx.AsyncClient], Any], **limits: Any) -> Any:
    """Let `talk` call the real application, on a virtual clock."""

    async def both() -> Any:
        app = make_app(operations, TOKEN, "test", ControlSection(**limits))
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await talk(client)

    return run_virtual(both())


@pytest.mark.parametrize("path", ["/v1/status", "/v1/discovery", "/openapi.json", "/docs", "/no/such/path"])
@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN}])
def test_nothing_is_answered_without_the_token(path: str, headers: dict[str, str]):
    answer = calls(Recorded(), lambda client: client.get(path, headers=headers))
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"


def test_health_is_open():
    assert calls(Recorded(), lambda client: client.get("/healthz")).json() == {"run": "test"}


def test_a_caller_may_burst_then_must_wait_for_as_long_as_it_is_told():
    async def talk(client: httpx.AsyncClient) -> list[int]:
        codes = [(await client.get("/v1/status", headers=OWNER)).status_code for _ in range(5)]
        refused = await client.get("/v1/status", headers=OWNER)
        await asyncio.sleep(int(refused.headers["retry-after"]))
        return [*codes, refused.status_code, (await client.get("/v1/status", headers=OWNER)).status_code]

    assert calls(Recorded(), talk, max_requests_per_s=2) == [200] * 4 + [429, 429, 200]


def test_strangers_cannot_use_up_the_owners_rate():
    async def talk(client: httpx.AsyncClient) -> tuple[int, int]:
        for _ in range(50):
            stranger = await client.get("/v1/status")
        return stranger.status_code, (await client.get("/v1/status", headers=OWNER)).status_code

    assert calls(Recorded(), talk, max_requests_per_s=2) == (429, 200)


def test_buckets_refill_evenly_and_are_bounded():
    limit = RateLimit(per_s=10, burst=1)
    assert [limit.take("one", now_s) for now_s in (0.0, 0.05, 0.1)] == [0.0, pytest.approx(0.05), 0.0]
    for number in range(2 * MAX_CALLERS):
        limit.take(number, 0.2)
    assert len(limit._levels) == MAX_CALLERS


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_beyond_the_limit_is_refused_and_never_reaches_a_route(is_chunked: bool):
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b" " * 10

    async def talk(client: httpx.AsyncClient) -> tuple[httpx.Response, httpx.Response]:
        large = chunks() if is_chunked else b" " * 110
        return (
            await client.post("/v1/down", headers=OWNER, content=large),
            await client.post("/v1/down", headers=JSON, content=json.dumps({"deadline_s": 3}).ljust(100)),
        )

    operations = Recorded()
    refused, taken = calls(operations, talk, max_body_bytes=100)
    assert (refused.status_code, taken.status_code) == (413, 200)
    assert operations.asked == [3.0]
    assert [one.cause for one in operations.refused] == ["size"]


def asgi(receive: Any, on_refused: Any = lambda refusal: None) -> list[dict[str, Any]]:
    """What the guard sends, when the application behind it must not be reached."""
    sent: list[dict[str, Any]] = []

    async def never(*_: Any) -> None:
        raise AssertionError("the application was reached")

    async def send(message: Any) -> None:
        sent.append(message)

    guard = Guard(never, token=TOKEN, max_requests_per_s=1, max_body_bytes=10, on_refused=on_refused)
    headers = [(b"authorization", f"Bearer {TOKEN}".encode())]
    scope = {"type": "http", "method": "POST", "path": "/v1/\x1b[2J", "headers": headers, "client": ("10.0.0.1", 1)}
    run_virtual(guard(scope, receive, send))
    return sent


def test_a_body_that_does_not_arrive_is_given_up():
    refused: list[Refusal] = []

    async def receive() -> Any:
        await asyncio.sleep(BODY_TIMEOUT_S / 3)
        return {"type": "http.request", "body": b"x", "more_body": True}

    assert asgi(receive, refused.append)[0]["status"] == 408
    assert refused == [Refusal("slow", 1, "POST", "/v1/%1B%5B2J", "10.0.0.1")]


def test_a_caller_that_leaves_in_the_middle_of_its_body_is_not_obeyed():
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    assert asgi(receive) == []


def test_refusals_are_counted_one_by_one_and_written_down_now_and_then():
    async def talk(client: httpx.AsyncClient) -> None:
        for _ in range(3):
            await client.get("/v1/status")
        await asyncio.sleep(AUDIT_EVERY_S)
        await client.get("/v1/status")

    name = "ring_controller_refused_requests_total{cause=token}"
    before = metrics.values().get(name, 0.0)
    operations = Recorded()
    calls(operations, talk)
    assert metrics.values()[name] - before == 4
    assert [(one.cause, one.num) for one in operations.refused] == [("token", 1), ("token", 3)]
    assert TOKEN not in repr(operations.refused)


BAD_BODIES = {
    "not a number": b'{"deadline_s": NaN}',
    "infinite": b'{"deadline_s": 1e999}',
    "half a character": b'{"\\ud800": 1, "deadline_s": "\\udfff"}',
    "deep": b"[" * 100_000,
    "long number": b'{"deadline_s": ' + b"9" * 10_000 + b"}",
    "not text": b"\xff\xfe\x00",
    "not JSON": b"{",
    "nothing": b"",
    "another type": b'{"deadline_s": [[]]}',
    "an unknown key": b'{"deadline": 3}',
}


@pytest.mark.parametrize("body", BAD_BODIES)
@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/json; charset=nonsense"])
def test_no_body_is_the_servers_fault(body: str, kind: str):
    operations = Recorded()
    headers = OWNER | {"content-type": kind}
    answer = calls(operations, lambda client: client.post("/v1/down", headers=headers, content=BAD_BODIES[body]))
    assert answer.status_code in {400, 422}, answer.text
    assert answer.text.isascii()
    assert isinstance(answer.json()["detail"], str)
    assert operations.asked == []


@pytest.mark.parametrize(("failure", "code"), [(RunError("no such \ud800"), 409), (ConfigError("never"), 422)])
def test_what_cannot_be_done_is_told(failure: Exception, code: int):
    answer = calls(Recorded(failure), lambda client: client.post("/v1/pause", headers=OWNER))
    assert (answer.status_code, answer.json()) == (code, {"detail": str(failure)})


def test_figures_that_are_no_numbers_do_not_break_the_status():
    answer = calls(Recorded(), lambda client: client.get("/v1/status", headers=OWNER))
    status = answer.json()
    assert (status["state"], status["last_step"]["entropy"]) == ("running", None)
