"""A rollout engine without a model: responses, lengths and durations are written down or drawn from a seed.

Owns: a faithful copy of what `engines.base.RolloutEngine` promises: slots, one token after another in (virtual) time,
exact segments across swaps, abort and resume of a prefix. Does not own weights: swaps are remembered by version alone.
Invariants: a token's id depends on the request's seed and its position; its behaviour log-probability on these and on
the version that sampled it (`scripted_logprob`), so that a test can tell from any token which version it came from.

Time is spent per response, not per token: at a swap or abort the engine works out how many tokens were sampled by then.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ring_async.clock import monotonic_s
from ring_async.core.replay.partials import PartialResponse, piece_of
from ring_async.engines.base import EngineLoad, GenerationAborted, GenerationRequest, OnUpdate, SwapReport
from ring_async.errors import ActorFailedError
from ring_async.testing.builders import ROLLOUT_ID, stable_seed
from ring_async.types import FinishReason, Float32, Generation, Int32, PolicyVersion, Segment

END_OF_SEQUENCE = 0
_ALMOST = 1e-6
"""Share of a token by which rounding of the clock may fall short of a whole one."""


@dataclass(frozen=True, slots=True)
class ScriptedResponse:
    """The response that the engine gives unless it is aborted. `response_ids`: int32 `[T]`, T ≥ 1."""

    response_ids: Int32
    finish_reason: FinishReason = "stop"


Script = Callable[[GenerationRequest], ScriptedResponse]


def seeded_script(*, mean_tokens: float = 8.0, vocabulary: int = 100) -> Script:
    """Responses drawn from the request's seed: geometric lengths cut at `max_tokens`, ids in `[1, vocabulary)`.

    A response that ends by itself ends with `END_OF_SEQUENCE`.
    """

    def respond(request: GenerationRequest) -> ScriptedResponse:
        rng = np.random.default_rng(stable_seed("response", request.seed))
        drawn, limit = int(rng.geometric(1 / mean_tokens)), request.sampling.max_tokens
        response_ids: Int32 = rng.integers(1, vocabulary, min(drawn, limit), dtype=np.int32)
        if drawn > limit:
            return ScriptedResponse(response_ids, "length")
        response_ids[-1] = END_OF_SEQUENCE
        return ScriptedResponse(response_ids)

    return respond


def fixed_script(*lengths: int) -> Script:
    """Responses of these lengths in the order asked for, over and over; ids count 1, 2, 3, …"""
    remaining: deque[int] = deque(lengths)

    def respond(request: GenerationRequest) -> ScriptedResponse:
        remaining.rotate(-1)
        length = min(remaining[-1], request.sampling.max_tokens)
        ids: Int32 = np.arange(1, length + 1, dtype=np.int32)
        return ScriptedResponse(ids, "length" if remaining[-1] > length else "stop")

    return respond


def scripted_logprob(seed: int, position: int, policy_version: PolicyVersion) -> float:
    """The behaviour log-probability this engine gives the token at `position` when `policy_version` samples it."""
    drawn = stable_seed("logprob", seed, position, policy_version.incarnation, policy_version.number)
    return float(np.float32(-(drawn % 1_000_003) / 1_000_003))


@dataclass(slots=True, eq=False)
class _Running:
    """One response under way. `began_s` is None while nothing is sampled: before its slot, and in a swap's pause."""

    request: GenerationRequest
    script: ScriptedResponse
    logprobs: list[float] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    began_s: float | None = None
    sampled_before: int = 0
    """Tokens sampled when `began_s` was set: the clock since then says how many more there are."""
    disturbed: asyncio.Event = field(default_factory=asyncio.Event)
    is_aborted: bool = False

    @property
    def num_sampled(self) -> int:
        return len(self.logprobs)

    @property
    def is_done(self) -> bool:
        return self.num_sampled >= self.script.response_ids.size

    def generation(self, finish_reason: FinishReason) -> Generation:
        logprobs: Float32 = np.array(self.logprobs, np.float32)
        return Generation(
            self.script.response_ids[: self.num_sampled].copy(), logprobs, tuple(self.segments), finish_reason
        )


class ScriptedEngine:
    """Implements `engines.base.RolloutEngine`.

    Args:
        engine_id: as in the groups' provenance.
        script: the response to each request; asked once, before the first token.
        token_s: time one token takes, whatever else runs.
        capacity: responses sampled at once; others wait in order.
        swap_pause_s: how long a swap keeps everything from sampling.
        policy_version: in force from the start; None: `generate` waits for the first swap.
    """

    def __init__(
        self,
        engine_id: str = ROLLOUT_ID,
        *,
        script: Script | None = None,
        token_s: float = 0.01,
        capacity: int = 64,
        swap_pause_s: float = 0.0,
        policy_version: PolicyVersion | None = None,
    ) -> None:
        self.engine_id = engine_id
        self.policy_version = policy_version
        self.swaps: list[tuple[PolicyVersion, OnUpdate]] = []
        """Every swap, in order, for assertions."""
        self._script = script or seeded_script()
        self._token_s = token_s
        self._capacity = capacity
        self._swap_pause_s = swap_pause_s
        self._num_slots_taken = 0
        self._queue: deque[_Running] = deque()
        self._requests: dict[str, _Running] = {}
        self._may_sample = asyncio.Event()
        self._swapping = asyncio.Lock()
        self._generated_tokens = 0
        self._busy_s = 0.0
        self._busy_since_s: float | None = None
        self._failure: str | None = None
        if policy_version is not None:
            self._may_sample.set()

    async def start(self) -> None:
        """Nothing to load."""

    async def generate(self, request: GenerationRequest) -> Generation:
        """Sample one response.

        Raises:
            GenerationAborted: `abort` was called, or a swap under `abort`; carries what was sampled.
            ActorFailedError: `crash` or `close` was called.
            ValueError: the request's id is under way already.
        """
        if request.request_id in self._requests:
            raise ValueError(f"{self.engine_id}: request {request.request_id} is under way already")
        running = _Running(request, self._script(request))
        if request.prefix is not None:
            running.logprobs = request.prefix.behavior_logprobs.tolist()
            running.segments = list(request.prefix.segments)
        self._requests[request.request_id] = running
        try:
            await self._take_slot(running)
            try:
                while not running.is_done:
                    await self._sample_until_disturbed(running)
            finally:
                self._num_slots_taken -= 1
                self._wake_next()
        finally:
            del self._requests[request.request_id]
            self._count_busy()
        return running.generation(running.script.finish_reason)

    async def _take_slot(self, running: _Running) -> None:
        """Consumes nothing / produces a taken slot / waits for its turn / freed by a slot, an abort or a crash."""
        self._queue.append(running)
        try:
            self._check(running)
            while self._num_slots_taken >= self._capacity or self._queue[0] is not running:
                running.disturbed.clear()
                await running.disturbed.wait()
                self._check(running)
            self._num_slots_taken += 1
        finally:
            self._queue.remove(running)
            self._wake_next()

    def _wake_next(self) -> None:
        if self._queue and self._num_slots_taken < self._capacity:
            self._queue[0].disturbed.set()

    async def _sample_until_disturbed(self, running: _Running) -> None:
        """Consumes time / produces tokens / waits for the last token / freed by time, a swap, an abort or a crash."""
        self._check(running)
        running.disturbed.clear()
        if not self._may_sample.is_set():
            await _first(self._may_sample, running.disturbed)
            return
        running.began_s, running.sampled_before = monotonic_s(), running.num_sampled
        self._count_busy()
        remaining_s = (running.script.response_ids.size - running.num_sampled) * self._token_s
        try:
            async with asyncio.timeout(remaining_s):
                await running.disturbed.wait()
        except TimeoutError:
            self._settle(running, is_finished=True)
        finally:
            running.began_s = None
        self._check(running)

    def _check_engine(self) -> None:
        if self._failure is not None:
            raise ActorFailedError(f"{self.engine_id}: {self._failure}")

    def _check(self, running: _Running) -> None:
        self._check_engine()
        if running.is_aborted:
            raise GenerationAborted(running.generation("stop") if running.num_sampled else None)

    def _settle(self, running: _Running, *, is_finished: bool = False) -> None:
        """Write down the tokens sampled up to now, all by the version in force."""
        if running.began_s is None or self.policy_version is None:
            return
        total = int(running.script.response_ids.size)
        elapsed = (monotonic_s() - running.began_s) / self._token_s if self._token_s else math.inf
        reached = total if is_finished else int(min(total, running.sampled_before + elapsed + _ALMOST))
        start = running.num_sampled
        if reached <= start:
            return
        seed, version = running.request.seed, self.policy_version
        running.logprobs += [scripted_logprob(seed, position, version) for position in range(start, reached)]
        self._generated_tokens += reached - start
        if running.segments and running.segments[-1].policy_version == version:
            start = running.segments.pop().start
        running.segments.append(Segment(start, reached, version))

    async def sampled(self, since: Mapping[str, int]) -> list[PartialResponse]:
        """The tokens that these requests have sampled up to now, beyond a position."""
        self._check_engine()
        pieces = []
        for request_id, start in since.items():
            if (running := self._requests.get(request_id)) is not None:
                self._settle(running)
                if running.num_sampled > start:
                    pieces.append(piece_of(request_id, running.generation("length"), start, running.num_sampled))
        return pieces

    async def abort(self, request_ids: tuple[str, ...] | None = None) -> None:
        """Abort these requests (None: all)."""
        for request_id, running in self._requests.items():
            if request_ids is None or request_id in request_ids:
                self._settle(running)
                running.is_aborted = True
                running.disturbed.set()

    async def swap_weights(
        self, policy_version: PolicyVersion, tensors: Mapping[str, Any], on_update: OnUpdate
    ) -> SwapReport:
        """Move to `policy_version` after `swap_pause_s` without sampling. `tensors` are not looked at."""
        async with self._swapping:
            began_s = monotonic_s()
            num_in_flight = sum(running.began_s is not None for running in self._requests.values())
            self._may_sample.clear()
            for running in self._requests.values():
                self._settle(running)
                running.began_s = None
                running.is_aborted |= on_update == "abort"
                running.disturbed.set()
            self._count_busy()
            if self._swap_pause_s:
                await asyncio.sleep(self._swap_pause_s)
            self.policy_version = policy_version
            self.swaps.append((policy_version, on_update))
            self._may_sample.set()
            return SwapReport(policy_version, pause_s=monotonic_s() - began_s, num_in_flight=num_in_flight)

    def crash(self, reason: str = "engine process died") -> None:
        """Lose everything under way: every `generate`, now and later, raises `ActorFailedError`."""
        self._failure = reason
        for running in self._requests.values():
            running.disturbed.set()

    def load(self) -> EngineLoad:
        for running in self._requests.values():
            self._settle(running)
        self._count_busy()
        num_running = sum(running.began_s is not None for running in self._requests.values())
        return EngineLoad(
            num_running=num_running,
            num_waiting=len(self._requests) - num_running,
            capacity=self._capacity,
            generated_tokens=self._generated_tokens,
            busy_s=self._busy_s,
        )

    def _count_busy(self) -> None:
        """Busy is the time in which at least one response was being sampled."""
        now_s = monotonic_s()
        if self._busy_since_s is not None:
            self._busy_s += now_s - self._busy_since_s
        is_busy = any(running.began_s is not None for running in self._requests.values())
        self._busy_since_s = now_s if is_busy else None

    async def close(self) -> None:
        """End every request with `ActorFailedError`. Idempotent."""
        self.crash("closed")


async def _first(*events: asyncio.Event) -> None:
    """Wait for whichever is set first."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
