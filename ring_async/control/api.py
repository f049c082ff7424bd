"""The control API: HTTP on the controller, for the CLI and for people's scripts.

Owns: the routes, and the HTTP status of each error. Does not own what a call does (`Operations`), or who may call
(`guard`, which checks every call first).
Invariant: an invalid call is answered with 4xx, never 5xx, and with plain ASCII, whatever was sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import socket
from collections.abc import AsyncIterator
from typing import Annotated, Any, Protocol

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from ring_async.config.schema import ControlSection
from ring_async.control.changes_api import Changes, changes_router
from ring_async.control.guard import Guard, Refusal
from ring_async.errors import ConfigError, RingAsyncError
from ring_async.records.status import RunStatus, status_schema
from ring_async.telemetry.discovery import scrape_targets
from ring_async.transport.messages.fleet import Member


class Operations(Protocol):
    """The operations that the API needs of the controller."""

    @property
    def changes(self) -> Changes: ...

    def status(self) -> RunStatus: ...

    def live_members(self) -> list[Member]: ...

    async def pause(self) -> None: ...

    async def resume(self) -> None: ...

    async def checkpoint(self) -> str: ...

    def shut_down(self, reason: str, deadline_s: float) -> None: ...

    def calls_refused(self, refusal: Refusal) -> None: ...


class DownRequest(BaseModel):
    """How to end a run."""

    model_config = ConfigDict(extra="forbid")
    deadline_s: Annotated[float, Field(gt=0, le=3600)] = 20.0


class Accepted(BaseModel):
    """The answer to a call that was accepted."""

    status: str = "accepted"


class CheckpointWritten(BaseModel):
    path: str


class Problem(BaseModel):
    """The answer to a call that was refused or could not be carried out."""

    detail: str


_ANSWERS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": meaning}
    for status, meaning in {
        400: "not JSON",
        401: "no valid token",
        409: "not possible now",
        413: "body too large",
        422: "not valid",
        429: "too many calls",
    }.items()
}


def make_app(operations: Operations, token: str, run_name: str, control: ControlSection | None = None) -> FastAPI:
    """Build the application; every path but `/healthz` requires `Authorization: Bearer <token>`."""
    control = control or ControlSection()
    app = FastAPI(
        title="ring-async control API", version="1", docs_url=None, redoc_url=None, default_response_class=_AsciiJson,
        responses=_ANSWERS,
    )  # fmt: skip
    app.add_middleware(
        Guard,
        token=token,
        max_requests_per_s=control.max_requests_per_s,
        max_body_bytes=control.max_body_bytes,
        on_refused=operations.calls_refused,
    )

    _explain_errors(app)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"run": run_name}

    reference, components = status_schema()

    @app.get("/v1/status", responses={200: {"content": {"application/json": {"schema": reference}}}})
    async def status() -> Response:
        """The run as it is now: `records.status.RunStatus`."""
        return _AsciiJson(operations.status().plain())

    _add_schemas(app, components)

    @app.get("/v1/discovery")
    async def discovery() -> list[dict[str, Any]]:
        """Prometheus HTTP service discovery."""
        return scrape_targets(operations.live_members(), run=run_name)

    @app.post("/v1/pause")
    async def pause() -> Accepted:
        await operations.pause()
        return Accepted()

    @app.post("/v1/resume")
    async def resume() -> Accepted:
        await operations.resume()
        return Accepted()

    @app.post("/v1/checkpoint")
    async def checkpoint() -> CheckpointWritten:
        return CheckpointWritten(path=await operations.checkpoint())

    @app.post("/v1/down")
    async def down(request: DownRequest) -> Accepted:
        operations.shut_down("ring-async down", request.deadline_s)
        return Accepted()

    app.include_router(changes_router(operations.changes))
    return app


def _add_schemas(app: FastAPI, components: dict[str, Any]) -> None:
    """Add the schemas of records, which are no pydantic models, to those that FastAPI collects from the routes."""
    collect = app.openapi

    def openapi() -> dict[str, Any]:
        document = collect()
        document.setdefault("components", {}).setdefault("schemas", {}).update(components)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _explain_errors(app: FastAPI) -> None:
    """Turn errors of operations into answers with a sentence."""

    @app.exception_handler(RingAsyncError)
    async def refuse(request: Request, error: Exception) -> Response:
        """Choose the status: 422 for a call that can never succeed, 409 for one that cannot succeed now."""
        return _AsciiJson({"detail": str(error)}, 422 if isinstance(error, ConfigError) else 409)

    @app.exception_handler(RequestValidationError)
    async def explain(request: Request, error: Exception) -> Response:
        """One line for each invalid field. The field's value is left out: it may be anything, also NaN or half a
        character.
        """
        assert isinstance(error, RequestValidationError)
        lines = (f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
        return _AsciiJson({"detail": "; ".join(lines)}, 422)


class _AsciiJson(JSONResponse):
    """A JSON answer for any content: half a surrogate pair is escaped, a number that is not finite becomes null."""

    def render(self, content: Any) -> bytes:
        try:
            return json.dumps(content, allow_nan=False).encode()
        except ValueError:
            return json.dumps(_finite(content)).encode()


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


@contextlib.asynccontextmanager
async def serve(app: FastAPI, control: ControlSection) -> AsyncIterator[str]:
    """Serve the application inside the running event loop; yields the base URL, for clients on this machine."""
    listener = socket.create_server(
        (control.host, control.port), family=socket.AF_INET6 if ":" in control.host else socket.AF_INET
    )
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
        ssl_certfile=control.tls_cert or None,
        ssl_keyfile=control.tls_key or None,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="control-api")
    try:
        yield f"{'https' if control.tls_cert else 'http'}://{_reachable(control.host)}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
        listener.close()


def _reachable(host: str) -> str:
    """The address that clients connect to: `0.0.0.0` and `::` are for listening alone."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - nothing is bound here
    return f"[{host}]" if ":" in host else host


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to its process."""

    @contextlib.contextmanager
    def capture_signals(self):
        yield
