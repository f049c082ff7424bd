"""The rollout engine on an SGLang server: responses over HTTP, weights over CUDA IPC, versions exact for each token.

    generate ──leg──▶ server ──chunks──▶ response ──(cut for new weights, or the server died)──▶ next leg …
    swap_weights: stage (generation goes on) ─▶ pause ─▶ update ─▶ abort what may not go on ─▶ continue

Owns: responses from request to result, and the order of a swap. Does not own the server (`keeper`), parsing (`stream`,
`response`) or bytes (`weights`).

Invariants:
* Nothing is sampled for a request before the current weights are in force, after a restart too.
* The salt of the prefix cache changes only when an update was confirmed; legs of one salt share keys and values that
  are never older than it.
* A server that tags its steps (`plugin`) is updated under way; one that does not is emptied first, so that no leg of it
  sees two versions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

from ring_async.clock import monotonic_s
from ring_async.core.replay.partials import PartialResponse
from ring_async.engines.base import EngineLoad, GenerationAborted, GenerationRequest, OnUpdate, SwapReport
from ring_async.engines.sglang.http import ServerAddress, ServerLostError, ServerRefusedError
from ring_async.engines.sglang.imposed import imposed_length
from ring_async.engines.sglang.keeper import KeeperOptions, ServerKeeper
from ring_async.engines.sglang.legs import LegsUnderWay
from ring_async.engines.sglang.life import PreparedUpdate, ServerLife
from ring_async.engines.sglang.model import ServedModel
from ring_async.engines.sglang.requests import Body, generate_body
from ring_async.engines.sglang.response import BrokenServerError, Leg, Response, age
from ring_async.engines.sglang.server import ServerOptions
from ring_async.engines.sglang.weights import WeightStaging
from ring_async.errors import ActorFailedError, ConfigError
from ring_async.telemetry import metrics
from ring_async.telemetry.trace import BusyTrack, Tracer
from ring_async.types import Generation, PolicyVersion

_MAX_FRUITLESS = 3
_SEED_MASK = 0x7FFF_FFFF


class SglangEngine:
    """`RolloutEngine` on an SGLang server of its own, or on one that runs already (`address`).

    Args:
        engine_id: goes into the provenance of what it generates.
        model_path: config, tokenizer, and safetensors where the model is not random.
        max_running_requests: most responses sampled at once; adapted below that to what the cache holds.
        dtype: of weights and cache.
        device: of the staged weights: the GPU of the server's first rank; `cpu` sends weights as bytes.
        tensor_parallel: ranks of the server.
        stream_interval: tokens a response streams at a time: what is lost of it, and sampled again, if the server dies.
            Each step costs the server's scheduler and its HTTP process.
        deterministic: a response depends on its seed, weights and prompt alone, at a price; otherwise the seed is
            not heeded.
        is_adaptive: whether `load().capacity` follows the cache.
        max_kv_age: under `keep`, responses whose cache would grow older (in versions) are computed again; None: never.
        ignore_stops: every response runs to `max_tokens`; for measurements.
        mean_tokens: every response stops at a length drawn from its seed, with this mean; for measurements. None: by
            itself.
        address, api_key: of a server that runs on this host already, for this engine alone; None: launch one.
        server_args: further flags of the server, by name.
        log_dir: for the server's own words.
        start_deadline_s: longest start of a server.
        stall_s: with responses under way and no token for this long, the server counts as dead.
        policy_version: which version the weights in `model_path` are, where that is known (an evaluation); otherwise
            the engine serves nothing until `swap_weights` brought a version.
        tracer: draws when it generates, as spans called `generate`.
    """

    def __init__(
        self,
        engine_id: str,
        model_path: Path,
        *,
        max_running_requests: int = 256,
        dtype: str = "bfloat16",
        device: str = "cuda",
        tensor_parallel: int = 1,
        stream_interval: int = 128,
        deterministic: bool = False,
        is_adaptive: bool = True,
        max_kv_age: int | None = None,
        ignore_stops: bool = False,
        mean_tokens: float | None = None,
        address: str | None = None,
        api_key: str = "",
        server_args: Mapping[str, Any] | None = None,
        log_dir: Path | None = None,
        start_deadline_s: float = 600.0,
        stall_s: float = 120.0,
        policy_version: PolicyVersion | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self.engine_id = engine_id
        self._model = ServedModel(model_path)
        self._is_deterministic = deterministic
        self._stream_interval = stream_interval
        self._max_kv_age = max_kv_age
        self._ignore_stops = ignore_stops or mean_tokens is not None
        self._mean_tokens = mean_tokens
        server = ServerOptions(
            model_path,
            dtype,
            is_dummy=policy_version is None,
            tensor_parallel=tensor_parallel,
            max_running_requests=max_running_requests,
            stream_interval=stream_interval,
            is_deterministic=deterministic,
            extra=server_args or {},
        )
        options = KeeperOptions(
            server,
            address=ServerAddress(address.rstrip("/"), api_key) if address else None,
            log_dir=log_dir,
            start_deadline_s=start_deadline_s,
            stall_s=stall_s,
            is_adaptive=is_adaptive,
        )
        self._legs = LegsUnderWay()
        self._staging = WeightStaging(device)
        self._keeper = ServerKeeper(engine_id, options, self._staging, policy_version, self._legs.__len__)
        self._responses: dict[str, Response] = {}
        self._num_legs = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._tracer = tracer or Tracer(None, engine_id)
        self._track = BusyTrack(self._tracer, "generate")
        self._busy_since_us: float | None = None
        self._busy_us = 0.0

    @property
    def policy_version(self) -> PolicyVersion | None:
        return self._keeper.in_force

    async def start(self) -> None:
        """Launch the server, or connect to it.

        Raises:
            ConfigError: the model cannot be read, or the server's release is too old.
            ActorFailedError: the server did not start; with its own last words.
        """
        await asyncio.to_thread(self._model.read)
        await self._keeper.start()

    async def close(self) -> None:
        """End the server; responses under way end with `ActorFailedError`. May be called twice."""
        await self._keeper.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._track.flush()

    # -- responses

    async def generate(self, request: GenerationRequest) -> Generation:
        """Sample one response; its column `kv_age` says how old its cache was at each token.

        Raises:
            GenerationAborted: `abort`, or a swap with `on_update=abort`, ended it.
            ValueError: the request can never run (too long, empty, its id already running), or the server refuses it.
            ActorFailedError: the engine is closed, failed, or has no weights yet.
        """
        if self.policy_version is None:
            raise ActorFailedError(f"engine {self.engine_id}: no weights are in force yet; swap a version in first")
        if request.request_id in self._responses:
            raise ValueError(f"request {request.request_id} is already running on engine {self.engine_id}")
        self._model.check_fits(request)
        stops = frozenset[int]() if self._ignore_stops else self._model.stop_ids
        mean, longest = self._mean_tokens, request.sampling.max_tokens
        length = None if mean is None else imposed_length(request.seed, mean, longest)
        response = self._responses[request.request_id] = Response(request, stops, length)
        try:
            return await self._complete(response)
        finally:
            del self._responses[request.request_id]

    async def _complete(self, response: Response) -> Generation:
        """One leg after the other, until the response has ended."""
        while True:
            await self._keeper.gate.wait(lambda: response.is_aborted or self._keeper.failure is not None)
            if response.is_aborted:
                raise GenerationAborted(response.partial)
            life = self._keeper.life
            leg = await self._run_leg(life, response)
            response.absorb(leg, life.versions)
            reason = response.ended(leg)
            if reason is not None:
                metrics.rollout_kv_age.observe(response.max_kv_age)
                return response.generation(reason)
            is_fruitless = not (leg.ids or leg.is_cut or life.is_closed)
            response.num_fruitless = response.num_fruitless + 1 if is_fruitless else 0
            if response.num_fruitless >= _MAX_FRUITLESS:
                raise ValueError(
                    f"request {response.request.request_id}: the server broke it off {_MAX_FRUITLESS} times"
                )

    async def _run_leg(self, life: ServerLife, response: Response) -> Leg:
        """Submit what there is of a response, and read until the leg ends, however it ends."""
        assert self.policy_version is not None
        self._num_legs += 1
        leg = Leg(f"{self._num_legs}.", salt=self.policy_version, serial=life.serial)
        body = self._body(leg, response)
        self._count_busy()
        self._legs.add(leg, response, life)
        try:
            await life.reader.read(leg, body)
            if not leg.is_cut and leg.finish is not None and leg.finish.type == "abort":
                self._keeper.suspect(life, f"it aborted a request unasked: {leg.finish.message}")
        except ServerLostError as lost:
            leg.finish = None
            self._keeper.suspect(life, str(lost))
        except BrokenServerError as broken:
            self._keeper.fail(str(broken))
            raise ActorFailedError(f"engine {self.engine_id} failed: {broken}") from broken
        except asyncio.CancelledError:
            self._beside(life, life.abort(leg.request_id))
            raise
        finally:
            self._count_busy()
            self._legs.remove(leg)
        return leg

    def _body(self, leg: Leg, response: Response) -> Body:
        request = response.request
        return generate_body(
            leg.request_id,
            response.input_ids,
            max_new_tokens=response.num_left,
            temperature=request.sampling.temperature,
            stop_token_ids=response.stop_ids,
            stream_interval=self._stream_interval,
            salt=str(leg.salt),
            seed=request.seed & _SEED_MASK if self._is_deterministic else None,
            ignore_stops=self._ignore_stops,
        )

    async def sampled(self, since: Mapping[str, int]) -> list[PartialResponse]:
        """The tokens of these requests beyond a position, as far as they have arrived from the server.

        Raises:
            ActorFailedError: the engine failed.
        """
        if self._keeper.failure is not None:
            raise ActorFailedError(f"engine {self.engine_id} failed: {self._keeper.failure}")
        under_way = self._legs.by_request()
        pieces = []
        for request_id in since.keys() & self._responses.keys():
            leg, life = under_way.get(request_id, (None, None))
            piece = self._responses[request_id].sampled(since[request_id], leg, life.versions if life else {})
            if piece is not None:
                pieces.append(piece)
        return pieces

    async def abort(self, request_ids: tuple[str, ...] | None = None) -> None:
        """Abort these requests (None: all); when it returns, none of them is sampled any more."""
        for request_id, response in self._responses.items():
            if request_ids is None or request_id in request_ids:
                response.is_aborted = True
        self._keeper.gate.wake()
        cut = self._legs.of_aborted()
        if not cut:
            return
        life = self._keeper.life
        try:
            await self._legs.cut_off(life, cut)
            await self._legs.until_ended(life, cut)
        except ServerLostError as lost:
            self._keeper.suspect(life, str(lost))

    # -- weights

    async def swap_weights(
        self, policy_version: PolicyVersion, tensors: Mapping[str, Any], on_update: OnUpdate
    ) -> SwapReport:
        """Put tensors (Hugging Face names) in force; they may be reused when this returns.

        `pause_s` is from the call that stops the server, or empties it, to the one that lets it go on. What `reprefill`
        costs beyond that (prompts and partial responses are read again) is spread over the steps that follow.

        Raises:
            WeightsError: names or shapes do not fit the model; the weights in force stay.
            ConfigError: `keep`, and the server does not tag its steps.
            ActorFailedError: the engine is closed or failed.
        """
        keeper = self._keeper
        async with keeper.changing:
            life = keeper.life
            if on_update == "keep" and self.policy_version is not None and not life.has_tags:
                raise ConfigError(
                    "rollout.on_update: keep needs a server that tags its steps, or versions would be off by one "
                    "token; install ring-async where the server runs (SGLang finds our plugin through the package's "
                    "entry points), or use reprefill or abort"
                )
            await asyncio.to_thread(self._staging.fill, policy_version, tensors, self._model.expected)
            prepared = await life.prepare(self._staging)
            num_in_flight = len(self._legs)
            keeper.gate.close("swap")
            began_s = monotonic_s()
            try:
                await self._put_in_force(life, prepared, on_update)
            except ServerLostError as lost:
                await keeper.restart(f"it was lost in an update: {lost}")
            except ServerRefusedError as refused:  # what the server holds is neither version
                keeper.fail(f"version {policy_version} was not loaded: {refused}")
                raise ActorFailedError(f"engine {self.engine_id} failed: {keeper.failure}") from refused
            finally:
                keeper.gate.open("swap")
            return SwapReport(policy_version, monotonic_s() - began_s, num_in_flight)

    async def _put_in_force(self, life: ServerLife, prepared: PreparedUpdate, on_update: OnUpdate) -> None:
        if self.policy_version is None:
            await (life.update_checked if life.server else life.update)(prepared)
            await life.probe()
        elif not self._legs:
            await life.update(prepared)
        elif life.has_tags:
            await self._update_under_way(life, prepared, on_update)
        else:
            await self._update_emptied(life, prepared, on_update)
        self._keeper.in_force = prepared.policy_version

    async def _update_under_way(self, life: ServerLife, prepared: PreparedUpdate, on_update: OnUpdate) -> None:
        """Pause, update, go on. Legs that may not go on are aborted; what they sample of the new weights does not
        count: it would be over keys and values of the old ones.
        """
        cut = [leg for leg in self._legs if on_update != "keep" or self._is_too_old(leg, prepared.policy_version)]
        for leg in cut:
            leg.last_serial = life.serial
        await life.pause()
        await life.update(prepared)
        if on_update == "abort":
            self._legs.mark_aborted(cut)
        await self._legs.cut_off(life, cut)
        await life.resume()
        if cut:
            self._beside(life, self._legs.until_ended(life, cut))

    def _is_too_old(self, leg: Leg, policy_version: PolicyVersion) -> bool:
        return self._max_kv_age is not None and age(policy_version, leg.salt) > self._max_kv_age

    async def _update_emptied(self, life: ServerLife, prepared: PreparedUpdate, on_update: OnUpdate) -> None:
        """Abort everything, wait until the last token is here, update."""
        cut = list(self._legs)
        if on_update == "abort":
            self._legs.mark_aborted(cut)
        await self._legs.cut_off(life, cut)
        await self._legs.until_ended(life, cut)
        await life.update(prepared)

    def _beside(self, life: ServerLife, work: Coroutine[Any, Any, None]) -> None:
        """Do something without waiting for it; if the server is lost meanwhile, the keeper hears of it."""

        async def run() -> None:
            try:
                await work
            except (ServerLostError, ServerRefusedError) as error:
                self._keeper.suspect(life, str(error))

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- figures

    def load(self) -> EngineLoad:
        """How busy it is. `generated_tokens` are those received; some of legs that were cut do not count in the end."""
        self._count_busy()
        capacity = self._keeper.concurrency.limit
        num_running = min(len(self._legs), capacity)
        return EngineLoad(
            num_running=num_running,
            num_waiting=len(self._responses) - num_running,
            capacity=capacity,
            generated_tokens=self._keeper.num_tokens,
            busy_s=self._busy_us / 1e6,
        )

    def _count_busy(self) -> None:
        """Busy is the time in which at least one leg was at the server; called before that changes."""
        now_us = self._tracer.now_us()
        if self._legs and self._busy_since_us is not None:
            self._busy_us += now_us - self._busy_since_us
            self._track.add(self._busy_since_us, now_us)
        self._busy_since_us = now_us
