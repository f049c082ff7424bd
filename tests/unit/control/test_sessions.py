"""Who gets a cookie, and what the cookie is good for."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_operations import TOKEN, Recorded
from ring_async.config.schema import ControlSection
from ring_async.control import sessions as module
from ring_async.control.api import make_app
from ring_async.control.page import HEADERS
from ring_async.control.sessions import CODE_S, MAX_CODES, SESSION_S, Sessions
from ring_async.testing.virtual_clock import run_virtual

OWNER = {"authorization": f"Bearer {TOKEN}"}
PAGE = {"x-ring-async": "page"}


def cookie_of(sessions: Sessions) -> str:
    return sessions.new_cookie().partition(";")[0]


def test_a_code_works_once(monkeypatch: pytest.MonkeyPatch):
    sessions = Sessions(TOKEN)
    code = sessions.new_code()
    assert sessions.admits_code(code)
    assert not sessions.admits_code(code)
    assert not sessions.admits_code("")
    late = sessions.new_code()
    now = module.wall_s()
    monkeypatch.setattr(module, "wall_s", lambda: now + CODE_S + 1)
    assert not sessions.admits_code(late)


def test_only_the_newest_codes_wait_to_be_used():
    sessions = Sessions(TOKEN)
    codes = [sessions.new_code() for _ in range(MAX_CODES + 1)]
    assert [sessions.admits_code(code) for code in codes] == [False] + [True] * MAX_CODES


def test_a_cookie_outlives_the_controller_but_not_its_time(monkeypatch: pytest.MonkeyPatch):
    cookie = cookie_of(Sessions(TOKEN)).encode()
    assert Sessions(TOKEN).admits_cookie(cookie)
    assert Sessions(TOKEN).admits_cookie(b"other=1; " + cookie)
    assert not Sessions("another run's token").admits_cookie(cookie)
    now = module.wall_s()
    monkeypatch.setattr(module, "wall_s", lambda: now + SESSION_S + 1)
    assert not Sessions(TOKEN).admits_cookie(cookie)


def test_a_cookie_with_a_later_end_is_forged():
    sessions = Sessions(TOKEN)
    name, _, value = cookie_of(sessions).partition("=")
    until, _, proof = value.partition(".")
    assert not sessions.admits_cookie(f"{name}={int(until) + 1}.{proof}".encode())
    assert not sessions.admits_cookie(f"{name}={until}.".encode())


@given(st.binary(max_size=200))
def test_no_header_breaks_it(header: bytes):
    sessions = Sessions(TOKEN)
    assert not sessions.admits_cookie(header)
    assert not sessions.admits_cookie(sessions.cookie_name.encode() + b"=" + header)


def test_the_cookie_is_kept_from_scripts_and_other_sites():
    plain, https = Sessions(TOKEN).new_cookie(), Sessions(TOKEN, is_https=True).new_cookie()
    assert "HttpOnly" in plain
    assert "SameSite=Strict" in plain
    assert "Secure" not in plain
    assert "Secure" in https
    assert TOKEN not in plain


def calls(talk):
    async def both():
        app = make_app(Recorded(), TOKEN, "test", ControlSection())
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await talk(client)

    return run_virtual(both())


def test_a_browser_reads_with_its_cookie_and_changes_only_with_the_pages_header():
    async def talk(client: httpx.AsyncClient) -> list[int]:
        link = (await client.post("/v1/page/link", headers=OWNER)).json()["path"]
        code = link.partition("code=")[2]
        codes = [(await client.post("/page/login", json={"code": code})).status_code for _ in range(2)]
        codes.append((await client.get("/v1/status")).status_code)
        codes.append((await client.post("/v1/pause")).status_code)
        codes.append((await client.post("/v1/pause", headers=PAGE)).status_code)
        return codes

    assert calls(talk) == [204, 403, 200, 401, 200]


def test_the_token_lets_in_and_anything_else_does_not():
    async def talk(client: httpx.AsyncClient) -> list[int]:
        tried = [{"token": "x"}, {}, {"token": "é\x00"}, {"token": TOKEN}]
        return [(await client.post("/page/login", json=body)).status_code for body in tried]

    assert calls(talk) == [403, 403, 403, 204]


@pytest.mark.parametrize("path", ["/", "/static/page.js", "/static/page.css", "/static/uplot/uPlot.iife.min.js"])
def test_the_pages_own_files_are_open_and_may_load_nothing_else(path: str):
    answer = calls(lambda client: client.get(path))
    assert answer.status_code == 200
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert "unsafe" not in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "path", ["/static/../api.py", "/static/%2e%2e/api.py", "/static/uplot/LICENSE", "/static/", "/static/none.js"]
)
def test_no_other_file_is_served(path: str):
    assert calls(lambda client: client.get(path)).status_code in {401, 404}
