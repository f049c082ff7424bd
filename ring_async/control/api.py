"""The control API: HTTP on the controller, for the CLI and for people's scripts.

Owns: routes, the bearer token, and an account of refused calls. Does not own what a call does: `Operations` does.
Invariants: nothing is answered without the run's token, but `/healthz`; tokens are compared in constant time.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import socket
from collections.abc import AsyncIterator
from typing import Annotated, Any, Protocol

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field

from ring_async.monitoring.discovery import scrape_targets
from ring_async.transport.messages import Member

log = logging.getLogger(__name__)


class Operations(Protocol):
    """What the API asks of the controller."""

    def status(self) -> dict[str, Any]: ...

    def live_members(self) -> list[Member]: ...

    async def pause(self) -> None: ...

    async def resume(self) -> None: ...

    async def checkpoint(self) -> str: ...

    def shut_down(self, reason: str, deadline_s: float) -> None: ...


class DownRequest(BaseModel):
    """How to end a run."""

    model_config = ConfigDict(extra="forbid")
    deadline_s: Annotated[float, Field(gt=0, le=3600)] = 20.0


class Accepted(BaseModel):
    """The plain yes."""

    status: str = "accepted"


class CheckpointWritten(BaseModel):
    path: str


def make_app(operations: Operations, token: str, run_name: str) -> FastAPI:
    """The application; every route but `/healthz` asks for `Authorization: Bearer <token>`."""

    def authorize(request: Request) -> None:
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            client = request.client.host if request.client else "unknown"
            log.warning("refused %s %s from %s: no valid token", request.method, request.url.path, client)
            raise HTTPException(401, "the run's token is missing or wrong; it is in endpoints.json")

    app = FastAPI(title="ring-async control API", version="1", docs_url=None, redoc_url=None)
    guarded = [Depends(authorize)]

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"run": run_name}

    @app.get("/v1/status", dependencies=guarded)
    async def status() -> dict[str, Any]:
        return operations.status()

    @app.get("/v1/discovery", dependencies=guarded)
    async def discovery() -> list[dict[str, Any]]:
        """Prometheus HTTP service discovery."""
        return scrape_targets(operations.live_members(), run=run_name)

    @app.post("/v1/pause", dependencies=guarded)
    async def pause() -> Accepted:
        await operations.pause()
        return Accepted()

    @app.post("/v1/resume", dependencies=guarded)
    async def resume() -> Accepted:
        await operations.resume()
        return Accepted()

    @app.post("/v1/checkpoint", dependencies=guarded)
    async def checkpoint() -> CheckpointWritten:
        return CheckpointWritten(path=await operations.checkpoint())

    @app.post("/v1/down", dependencies=guarded)
    async def down(request: DownRequest) -> Accepted:
        operations.shut_down("ring-async down", request.deadline_s)
        return Accepted()

    return app


@contextlib.asynccontextmanager
async def serve(app: FastAPI, host: str, port: int) -> AsyncIterator[str]:
    """Serve inside the running event loop; yields the base URL."""
    listener = socket.create_server((host, port))
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=1)
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="control-api")
    try:
        yield f"http://{host}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
        listener.close()


class _Server(uvicorn.Server):
    """Leaves signals to the process it lives in."""

    @contextlib.contextmanager
    def capture_signals(self):
        yield
