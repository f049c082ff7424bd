"""The rollout engine inside this process: a transformers model sampled by `Batcher` in a thread of its own.

    generate · abort · swap_weights · close ──commands──▶ compute thread: apply commands, step, apply, step …
                       futures ◀──results, on the event loop──┘

Owns: the thread, and the way commands and results cross between it and the event loop. Does not own sampling
(`embedded.batcher`). The event loop never computes and never waits on compute; commands take effect between two tokens.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from ring_async.core.replay.partials import PartialResponse
from ring_async.engines.base import EngineLoad, GenerationAborted, GenerationRequest, OnUpdate, SwapReport
from ring_async.errors import ActorFailedError, ConfigError
from ring_async.telemetry.trace import BusyTrack, Tracer
from ring_async.types import Generation, PolicyVersion

_CLOSE_DEADLINE_S = 30.0
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Command:
    """`apply` runs in the compute thread; what it returns resolves `future`."""

    apply: Callable[[], Any]
    future: asyncio.Future[Any]


class EmbeddedEngine:
    """`RolloutEngine` over a Hugging Face directory, on the CPU or one GPU.

    Args:
        engine_id: goes into the provenance of what it generates.
        model_path: config, safetensors, tokenizer.
        max_running_requests: sampled at once; more wait their turn, in order.
        num_threads: compute threads on a CPU.
        dtype: of weights and cache. Log-probabilities are always computed in fp32.
        device: a torch device.
        policy_version: which version the weights in `model_path` are, where that is known (an evaluation); otherwise
            the engine serves nothing until `swap_weights` brought a version.
        tracer: draws when it computes, as spans called `generate`.
    """

    def __init__(
        self,
        engine_id: str,
        model_path: Path,
        *,
        max_running_requests: int = 64,
        num_threads: int = 1,
        dtype: Literal["float32", "bfloat16"] = "float32",
        device: str = "cpu",
        policy_version: PolicyVersion | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self.engine_id = engine_id
        self._tracer = tracer or Tracer(None, engine_id)
        self.policy_version = policy_version
        self._model_path = model_path
        self._max_running_requests = max_running_requests
        self._num_threads = num_threads
        self._dtype = dtype
        self._device = device
        self._commands: queue.SimpleQueue[_Command | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._batcher: Any = None
        self._futures: dict[str, asyncio.Future[Generation]] = {}
        self._failure: BaseException | None = None
        self._busy_s = 0.0

    async def start(self) -> None:
        """Load the model in the compute thread.

        Raises:
            ConfigError: the model cannot be loaded, or attends in a way the cache does not hold.
        """
        self._loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, args=(ready,), name=f"engine-{self.engine_id}", daemon=True)
        self._thread.start()
        await ready

    async def generate(self, request: GenerationRequest) -> Generation:
        """Sample one response; it joins the running batch as soon as a row is free.

        Raises:
            GenerationAborted: `abort`, or a swap with `on_update=abort`, ended it.
            ValueError: the request can never run (too long, empty, its id already running).
            ActorFailedError: the engine is closed, failed, or has no weights yet.
        """
        self._check_alive()
        if self.policy_version is None:
            raise ActorFailedError(f"engine {self.engine_id}: no weights are in force yet; swap a version in first")
        if request.request_id in self._futures:
            raise ValueError(f"request {request.request_id} is already running on engine {self.engine_id}")
        generation: asyncio.Future[Generation] = asyncio.get_running_loop().create_future()
        self._futures[request.request_id] = generation
        try:
            await self._call(lambda: self._batcher.submit(request))
            return await generation
        finally:
            has_outcome = generation.done() and not generation.cancelled()
            if not has_outcome and self._failure is None and self._thread is not None:
                self._post(lambda: self._batcher.abort((request.request_id,)))
            if self._futures.get(request.request_id) is generation:
                del self._futures[request.request_id]

    async def sampled(self, since: Mapping[str, int]) -> list[PartialResponse]:
        """The tokens that these requests have sampled beyond a position, between two steps.

        Raises:
            ActorFailedError: the engine is closed or failed.
        """
        self._check_alive()
        return await self._call(lambda: self._batcher.sampled(since))

    async def abort(self, request_ids: tuple[str, ...] | None = None) -> None:
        """Abort these requests (None: all); when it returns, none of them is sampled any more."""
        self._check_alive()
        await self._call(lambda: self._deliver(self._batcher.abort(request_ids), is_aborted=True))

    async def swap_weights(
        self, policy_version: PolicyVersion, tensors: Mapping[str, Any], on_update: OnUpdate
    ) -> SwapReport:
        """Put tensors (Hugging Face names) in force between two tokens; they may be reused when this returns.

        Raises:
            WeightsError: names or shapes do not fit the model; the weights in force stay.
            ActorFailedError: the engine is closed or failed.
        """
        self._check_alive()

        def swap() -> SwapReport:
            report, aborted = self._batcher.swap(policy_version, tensors, on_update)
            self.policy_version = policy_version
            self._deliver(aborted, is_aborted=True)
            return report

        return await self._call(swap)

    def load(self) -> EngineLoad:
        """The engine's load; may be called from any thread."""
        batcher = self._batcher
        if batcher is None:
            return EngineLoad(0, 0, self._max_running_requests, 0, 0.0)
        running = batcher.num_running
        return EngineLoad(
            num_running=running,
            num_waiting=max(len(self._futures) - running, 0),
            capacity=self._max_running_requests,
            generated_tokens=batcher.generated_tokens,
            busy_s=self._busy_s,
        )

    async def close(self) -> None:
        """Stop the compute thread; requests under way end with `ActorFailedError`. May be called twice.

        Raises:
            ActorFailedError: the thread did not end in time.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._commands.put(None)
        await asyncio.to_thread(thread.join, _CLOSE_DEADLINE_S)
        if thread.is_alive():
            raise ActorFailedError(f"engine {self.engine_id}: its compute thread runs on after {_CLOSE_DEADLINE_S} s")

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise ActorFailedError(f"engine {self.engine_id} failed: {self._failure!r}") from self._failure
        if self._thread is None:
            raise ActorFailedError(f"engine {self.engine_id} is not running; start it first")

    def _post(self, apply: Callable[[], _T]) -> asyncio.Future[_T]:
        future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._commands.put(_Command(apply, future))
        return future

    async def _call(self, apply: Callable[[], _T]) -> _T:
        return await self._post(apply)

    def _run(self, ready: asyncio.Future[None]) -> None:
        """The compute thread.

        consumes: commands. produces: results, on the event loop.
        waits for: a command, when nothing runs; freed by the next one, `close` included.
        """
        import torch

        try:
            torch.set_num_threads(self._num_threads)
            with torch.inference_mode():
                self._batcher = self._make_batcher()
                self._on_loop(_resolve, ready, None)
                track = BusyTrack(self._tracer, "generate")
                while self._apply_commands():
                    if self._batcher.has_work:
                        began_us = self._tracer.now_us()
                        self._deliver(self._batcher.step(), is_aborted=False)
                        ended_us = self._tracer.now_us()
                        self._busy_s += (ended_us - began_us) / 1e6
                        track.add(began_us, ended_us)
                    if not self._batcher.has_work:
                        track.flush()
            self._fail(ActorFailedError(f"engine {self.engine_id} was closed"), ready)
        except BaseException as error:  # any error that ends this thread must reach the callers that wait for it
            self._fail(error, ready)

    def _make_batcher(self) -> Any:
        import torch
        from transformers.utils import logging as transformers_logging

        from ring_async.engines.embedded.batcher import Batcher
        from ring_async.engines.tokenizer import load_tokenizer, stop_token_ids
        from ring_async.models.causal_lm import load_causal_lm

        transformers_logging.disable_progress_bar()
        try:
            model = load_causal_lm(self._model_path, dtype=getattr(torch, self._dtype), attention="sdpa")
            tokenizer = load_tokenizer(self._model_path)
        except (OSError, ValueError) as error:
            raise ConfigError(f"model.path: {self._model_path} cannot be loaded: {error}") from error
        kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ()) - {"full_attention"}
        if kinds:
            raise ConfigError(
                f"model.path: {self._model_path} has layers of kind {', '.join(sorted(kinds))}; the embedded engine "
                f"holds full attention alone; use rollout.engine: sglang"
            )
        model.to(torch.device(self._device)).eval()
        stops = stop_token_ids(tokenizer, model.generation_config)
        return Batcher(model, stops, self._max_running_requests, self.policy_version)

    def _apply_commands(self) -> bool:
        """Apply queued commands; wait for one when no request runs. Returns False once the engine is closed."""
        while True:
            try:
                command = self._commands.get(block=not self._batcher.has_work)
            except queue.Empty:
                return True
            if command is None:
                return False
            began = time.perf_counter()
            try:
                result = command.apply()
            except Exception as error:  # the caller handles the error of its command
                self._on_loop(_reject, command.future, error)
            else:
                self._on_loop(_resolve, command.future, result)
            self._busy_s += time.perf_counter() - began

    def _deliver(self, outcomes: list[tuple[str, Any]], *, is_aborted: bool) -> None:
        if outcomes:
            self._on_loop(self._settle, outcomes, is_aborted)

    def _settle(self, outcomes: list[tuple[str, Any]], is_aborted: bool) -> None:
        for request_id, generation in outcomes:
            future = self._futures.get(request_id)
            if future is None:
                continue
            if is_aborted:
                _reject(future, GenerationAborted(generation))
            else:
                _resolve(future, generation)

    def _fail(self, error: BaseException, ready: asyncio.Future[None]) -> None:
        """End every request and queued command with the engine's failure."""
        self._failure = error

        def reject_all() -> None:
            _reject(ready, error if isinstance(error, Exception) else ActorFailedError(repr(error)))
            failure = ActorFailedError(f"engine {self.engine_id} failed: {error}")
            failure.__cause__ = error
            for future in self._futures.values():
                _reject(future, failure)
            while True:
                try:
                    command = self._commands.get_nowait()
                except queue.Empty:
                    return
                if command is not None:
                    _reject(command.future, failure)

        self._on_loop(reject_all)

    def _on_loop(self, callback: Callable[..., None], *arguments: Any) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed: no caller is left
            self._loop.call_soon_threadsafe(callback, *arguments)


def _resolve(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _reject(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # marks the exception as seen: a caller that was cancelled meanwhile does not ask for it
