"""An SGLang server without a model: a real HTTP server on loopback that speaks its protocol and knows the truth.

Owns: a faithful copy of what the engine relies on: streams of deltas in steps, aborts that take one more step and wait
for the end of a pause, a step that was launched before an update and is delivered after it, a prefix cache without
versions, updates that wait for running requests unless the server is paused, and (as from 0.5.21 on) update sessions.
Which fields it takes is checked against the request classes of published releases by the tests that check ours.

The truth is in each log-probability: `-(10 w + c)`, where w is the version number of the weights that sampled the token
and c that of the oldest weights that computed its keys and values. A version is a tensor `version` with its number.

Prompts are `[n, x]`: the response has n tokens, the last of them `END`.
"""

from __future__ import annotations

import asyncio
import base64
import pickle
from dataclasses import dataclass, field
from typing import Any

import msgspec
import torch
from aiohttp import web

from ring_async.engines.sglang.plugin import TAG

END = 2
NUM_PROMPT = 2
FIELDS = {
    "/generate": {"rid", "input_ids", "sampling_params", "return_logprob", "logprob_start_len", "stream", "extra_key"},
    "/abort_request": {"rid", "abort_all"},
    "/pause_generation": {"mode"},
    "/continue_generation": {"torch_empty_cache"},
    "/update_weights_from_tensor": {"serialized_named_tensors", "load_format", "flush_cache", "weight_version"},
    "/begin_weight_update": set[str](),
    "/end_weight_update": set[str](),
    "/weights_checker": {"action"},
}
"""What each route takes; more is a problem."""


def truth(logprob: float) -> tuple[int, int]:
    """(version that sampled the token, oldest version in its cache)."""
    return divmod(round(-logprob), 10)


@dataclass(slots=True, eq=False)
class _Request:
    body: dict[str, Any]
    cache: int | None = None
    """Oldest version of its keys and values; None: not read yet."""
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    tags: list[int] = field(default_factory=list)
    num_sent: int = 0
    to_abort: bool = False
    finish: dict[str, Any] | None = None
    events: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)

    @property
    def limit(self) -> int:
        return int(self.body["sampling_params"]["max_new_tokens"])

    @property
    def position(self) -> int:
        """Of its next token in the response."""
        return len(self.body["input_ids"]) - NUM_PROMPT + len(self.ids)


class FakeSglang:
    """Example: `async with FakeSglang(version="0.5.17") as server: engine = SglangEngine(…, address=server.url)`.

    Args:
        version: of the release it says it is.
        has_tags: as if our plugin were loaded.
        step_s: time of one step.
        capacity: requests sampled at once.
        port: 0: any that is free.
    """

    def __init__(
        self,
        version: str = "0.5.17",
        *,
        has_tags: bool = True,
        step_s: float = 0.002,
        capacity: int = 64,
        port: int = 0,
    ) -> None:
        self._port = port
        self.version = version
        self.has_tags = has_tags
        self.step_s = step_s
        self.capacity = capacity
        self.url = ""
        self.problems: list[str] = []
        """What no real server would take."""
        self.weights = 0
        self.serial = 0
        self.salts: list[str] = []
        """Of all requests, in order."""
        self.num_requests = 0
        self._names = {"version": "start"}
        self._requests: dict[str, _Request] = {}
        self._cached: dict[tuple[str, tuple[int, ...]], int] = {}
        self._pending: list[tuple[_Request, int, float, int]] = []
        self._running = asyncio.Event()
        self._running.set()
        self._request_ended = asyncio.Event()
        self._in_session = False
        self._runner: web.AppRunner | None = None
        self._stepper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> FakeSglang:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_post("/generate", self._generate)
        app.router.add_get("/server_info", self._server_info)
        app.router.add_get("/v1/loads", self._loads)
        for path, handler in {
            "/abort_request": self._abort,
            "/pause_generation": self._pause,
            "/continue_generation": self._continue,
            "/update_weights_from_tensor": self._update,
            "/weights_checker": self._check_weights,
            "/begin_weight_update": self._begin,
            "/end_weight_update": self._end,
        }.items():
            app.router.add_post(path, handler)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        self._stepper = asyncio.create_task(self._step_on())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._stepper is not None
        assert self._runner is not None
        self._stepper.cancel()
        for request in self._requests.values():
            request.events.put_nowait(None)
        await self._runner.cleanup()

    # -- sampling

    async def _step_on(self) -> None:
        """Consumes requests / produces tokens / waits for time / freed by it."""
        while True:
            await asyncio.sleep(self.step_s)
            await self._running.wait()
            running = [request for request in self._requests.values() if request.finish is None][: self.capacity]
            launched = [self._launch(request) for request in running]
            self._deliver()
            self._pending = [step for step in launched if step[0].finish is None]

    def _launch(self, request: _Request) -> tuple[_Request, int, float, int]:
        """One step of one request, under the weights in force now."""
        if request.cache is None:
            prompt = (request.body["extra_key"], tuple(request.body["input_ids"][:NUM_PROMPT]))
            request.cache = min(self.weights, self._cached.setdefault(prompt, self.weights))
        return request, self.weights, -(10.0 * self.weights + request.cache), self.serial

    def _deliver(self) -> None:
        """Results of the step launched before this one."""
        for request, _, logprob, serial in self._pending:
            if request.finish is not None:
                continue
            num_wanted = request.body["input_ids"][0]
            token = END if request.position + 1 >= num_wanted else 3 + (request.position * 7) % 40
            request.ids.append(token)
            request.logprobs.append(logprob)
            request.tags.append(serial)
            sampling = request.body["sampling_params"]
            if request.to_abort:
                request.finish = {"type": "abort", "message": "Abort"}
            elif len(request.ids) >= request.limit:
                request.finish = {"type": "length", "length": request.limit}
            elif token in sampling["stop_token_ids"] and not sampling["ignore_eos"]:
                request.finish = {"type": "stop", "matched": token}
            if request.finish is not None or len(request.ids) % sampling["stream_interval"] == 1:
                self._send(request)

    def _send(self, request: _Request) -> None:
        new = slice(request.num_sent, len(request.ids))
        meta: dict[str, Any] = {
            "id": request.body["rid"],
            "finish_reason": request.finish,
            "completion_tokens": len(request.ids),
            "num_retractions": 0,
            "output_token_logprobs": [
                (logprob, token, None) for logprob, token in zip(request.logprobs[new], request.ids[new], strict=True)
            ],
        }
        if self.has_tags:
            meta[TAG] = request.tags[new]
        request.num_sent = len(request.ids)
        request.events.put_nowait(msgspec.json.encode({"output_ids": request.ids[new], "meta_info": meta}))
        if request.finish is not None:
            request.events.put_nowait(None)

    # -- routes

    async def _generate(self, http: web.Request) -> web.StreamResponse:
        body = await self._body(http)
        self.num_requests += 1
        self.salts.append(body["extra_key"])
        await self._running.wait()
        request = _Request(body)
        self._requests[body["rid"]] = request
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        try:
            await response.prepare(http)
            while (event := await request.events.get()) is not None:
                await response.write(b"data: " + event + b"\n\n")
            if request.finish is not None:
                await response.write(b"data: [DONE]\n\n")
                await response.write_eof()
            elif http.transport is not None:
                http.transport.abort()
        finally:
            request.finish = request.finish or {"type": "abort"}
            self._requests.pop(body["rid"], None)
            self._request_ended.set()
        return response

    async def _abort(self, http: web.Request) -> web.Response:
        body = await self._body(http)
        for request in self._requests.values():
            if body.get("abort_all") or request.body["rid"].startswith(body["rid"]):
                request.to_abort = True
        return web.Response()

    async def _pause(self, http: web.Request) -> web.Response:
        body = await self._body(http)
        if body["mode"] != "in_place":
            self.problems.append(f"pause mode {body['mode']}")
        self._running.clear()
        self._request_ended.set()
        return web.json_response({})

    async def _continue(self, http: web.Request) -> web.Response:
        await self._body(http)
        self._running.set()
        return web.json_response({})

    async def _begin(self, http: web.Request) -> web.Response:
        return await self._session(http, is_begin=True)

    async def _end(self, http: web.Request) -> web.Response:
        return await self._session(http, is_begin=False)

    async def _session(self, http: web.Request, *, is_begin: bool) -> web.Response:
        await self._body(http)
        if not self._needs_session or self._in_session == is_begin:
            return web.json_response({"success": False, "message": "no session to begin or end"}, status=400)
        self._in_session = is_begin
        return web.json_response({"success": True})

    @property
    def _needs_session(self) -> bool:
        return tuple(int(part) for part in self.version.split(".")) >= (0, 5, 21)

    async def _update(self, http: web.Request) -> web.Response:
        body = await self._body(http)
        if self._needs_session and not self._in_session:
            return web.json_response({"success": False, "message": "no session"}, status=400)
        while self._requests and self._running.is_set():  # the writer's side of the lock
            self._request_ended.clear()
            await self._request_ended.wait()
        if body["flush_cache"] and self._requests:
            self.problems.append("flush under running requests: a real server dies")
        bucket = pickle.loads(base64.b64decode(body["serialized_named_tensors"][0]))  # noqa: S301 - our own, in a test
        for meta in bucket["metadata"]:
            flat: torch.Tensor = bucket["flattened_tensor"][meta.start_idx : meta.end_idx]
            tensor = flat.view(meta.dtype).view(meta.shape)
            if meta.name in self._names:
                self._names[meta.name] = str(tensor.tolist())
                self.weights = int(tensor.flatten()[0])
        if body["weight_version"] is not None:
            self.serial = int(body["weight_version"])
        return web.json_response({"success": True, "message": "Success"})

    async def _check_weights(self, http: web.Request) -> web.Response:
        await self._body(http)
        return web.json_response({"success": True, "ranks": [{"checksums": self._names}]})

    async def _server_info(self, _: web.Request) -> web.Response:
        return web.json_response({"version": self.version})

    async def _loads(self, _: web.Request) -> web.Response:
        num_running = min(len(self._requests), self.capacity)
        load = {
            "num_running_reqs": num_running,
            "num_waiting_reqs": len(self._requests) - num_running,
            "token_usage": 0.1,
        }
        return web.json_response({"loads": [load]})

    async def _body(self, http: web.Request) -> dict[str, Any]:
        body: dict[str, Any] = await http.json()
        unknown = body.keys() - FIELDS[http.path]
        if unknown:
            self.problems.append(f"{http.path}: {', '.join(sorted(unknown))}")
        return body

    # -- faults

    def stall(self) -> None:
        """Stop stepping, without a word; everything else answers."""
        self._running.clear()

    def break_off(self) -> None:
        """Drop every stream without its end, as a dying server does."""
        for request in self._requests.values():
            request.finish = None
            request.events.put_nowait(None)
