"""The live page's routes: its files, the way in, the stream, the samples, and why.

Owns: routes, their headers, and what a browser may load (the content policy). Does not own who is admitted (`guard`,
`sessions`), nor what the page is told (`monitoring.live`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from ring_async.control.sessions import Sessions
from ring_async.core.explain.explain import explain
from ring_async.monitoring.live.feed import Feed
from ring_async.monitoring.live.frames import Watched, printable_tree
from ring_async.monitoring.live.samples import SampleQuery, SampleReader

STATIC = Path(__file__).parents[1] / "monitoring" / "live" / "static"
_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FILES = {path.relative_to(STATIC).as_posix(): path for path in STATIC.rglob("*") if path.suffix in _KINDS}
"""The files that exist; a request names one of these or gets nothing."""
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


class Login(BaseModel):
    """What lets a browser in: the run's token, or the code of a link."""

    model_config = ConfigDict(extra="forbid")
    token: Annotated[str, Field(max_length=256)] = ""
    code: Annotated[str, Field(max_length=256)] = ""


class Link(BaseModel):
    """A way in that works once: append it to the run's address."""

    path: str


def page_router(run: Watched, sessions: Sessions, samples: SampleReader) -> APIRouter:
    """Build the routes of one run's page."""
    router = APIRouter()
    feed = Feed(run)

    @router.get("/", include_in_schema=False)
    async def page() -> Response:
        return _file("index.html")

    @router.get("/static/{name:path}", include_in_schema=False)
    async def static(name: str) -> Response:
        return _file(name)

    @router.post("/page/login", include_in_schema=False)
    async def login(request: Login) -> Response:
        is_let_in = sessions.admits_code(request.code) if request.code else sessions.admits_token(request.token)
        if not is_let_in:
            return Response(status_code=403, headers=HEADERS)
        return Response(status_code=204, headers=HEADERS | {"set-cookie": sessions.new_cookie()})

    @router.post("/v1/page/link")
    async def link() -> Link:
        """A link that lets one browser in, once, within an hour."""
        return Link(path=f"/#code={sessions.new_code()}")

    @router.get("/page/stream", include_in_schema=False)
    async def stream() -> Response:
        feed.check_room()
        return StreamingResponse(feed.watch(), media_type="text/event-stream", headers=HEADERS)

    @router.get("/page/samples", include_in_schema=False)
    async def read_samples(query: Annotated[SampleQuery, Query()]) -> dict[str, Any]:
        """Groups with their responses token by token; text is made printable."""
        groups = await samples.read(query)
        found: dict[str, Any] = printable_tree({"groups": groups})
        return found

    @router.get("/v1/explain")
    async def why() -> list[dict[str, str]]:
        """What is to be known about the run, the gravest first; empty if nothing is."""
        return [
            {
                "cause": str(one.cause), "gravity": one.gravity.name.lower(), "who": one.who, "what": one.what,
                "remedy": one.remedy,
            }
            for one in explain(run.recent())
        ]  # fmt: skip

    return router


def _file(name: str) -> Response:
    path = _FILES.get(name)
    if path is None:
        return Response(status_code=404, headers=HEADERS)
    return Response(path.read_bytes(), media_type=f"{_KINDS[path.suffix]}; charset=utf-8", headers=HEADERS)
