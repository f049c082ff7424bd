"""Keeps one server serving: starts it, looks after it, starts it again with the weights it had.

    legs ──suspicion──▶ keeper: look ─▶ well: open the gate
                                     └▶ gone, or stuck: new life, staged version in force, open the gate

Owns: the server's lives, the gate, the back-off, the limit of concurrency. Does not own responses or swaps (`engine`).
Health is progress: a server with work that brings no token is stuck, whatever `/health` says.
Invariant: `changing` is held by a swap or a restart, never by both.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ring_async.clock import monotonic_s
from ring_async.core.fleet.restart import RestartPolicy
from ring_async.core.work.concurrency import AdaptiveConcurrency, CacheLoad
from ring_async.engines.sglang.gate import Gate
from ring_async.engines.sglang.http import ServerAddress, ServerLostError, ServerRefusedError
from ring_async.engines.sglang.life import ServerLife, open_life
from ring_async.engines.sglang.requests import SERVER_INFO, Body
from ring_async.engines.sglang.server import ServerOptions, SglangServer
from ring_async.engines.sglang.weights import WeightStaging
from ring_async.errors import ActorFailedError
from ring_async.telemetry import metrics
from ring_async.types import PolicyVersion

log = logging.getLogger(__name__)

_LOOK_S = 1.0
_MAX_RESTARTS = 5
_RESTART_WINDOW_S = 600.0


@dataclass(frozen=True, slots=True)
class KeeperOptions:
    """How a server is kept.

    Attributes:
        address: of a server that runs already; None: launch one with `server`.
        log_dir: for the server's own words.
        start_deadline_s: longest start.
        stall_s: with legs under way and no token for this long, it is stuck.
        is_adaptive: whether the limit of concurrency follows the cache.
    """

    server: ServerOptions
    address: ServerAddress | None = None
    log_dir: Path | None = None
    start_deadline_s: float = 600.0
    stall_s: float = 120.0
    is_adaptive: bool = True


class ServerKeeper:
    """Example: `await keeper.start()`, `await keeper.gate.wait()`, `keeper.life.reader.read(…)`, `keeper.close()`.

    Args:
        name: of the engine, for people.
        staging: holds the version a new life begins with.
        start_version: of the weights in the model's folder; None: the server starts with random ones.
        num_under_way: how many legs the server has.
    """

    def __init__(
        self,
        name: str,
        options: KeeperOptions,
        staging: WeightStaging,
        start_version: PolicyVersion | None,
        num_under_way: Callable[[], int],
    ) -> None:
        self._name = name
        self._options = options
        self._staging = staging
        self._start_version = start_version
        self._num_under_way = num_under_way
        most = options.server.max_running_requests
        self.concurrency = AdaptiveConcurrency(lowest=min(8, most), highest=most)
        self.gate = Gate()
        self.changing = asyncio.Lock()
        self.failure: ActorFailedError | None = None
        self.in_force = start_version
        self._life: ServerLife | None = None
        self._num_tokens_before = 0
        self._restarts = RestartPolicy(_MAX_RESTARTS, _RESTART_WINDOW_S, first_delay_s=0.5, longest_delay_s=30.0)
        self._suspicion: str | None = None
        self._suspected = asyncio.Event()
        self._progress = (0, 0.0)
        self._task: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None

    @property
    def life(self) -> ServerLife:
        """Raises: ActorFailedError: there is none (any more)."""
        if self.failure is not None:
            raise ActorFailedError(f"engine {self._name} failed: {self.failure}") from self.failure
        if self._life is None:
            raise ActorFailedError(f"engine {self._name} is not running; start it first")
        return self._life

    @property
    def num_tokens(self) -> int:
        """Received since start, over all lives."""
        return self._num_tokens_before + (self._life.reader.num_tokens if self._life else 0)

    async def start(self) -> None:
        """Launch the server, or connect to it, and look after it from now on.

        Raises:
            ConfigError: its release is too old.
            ActorFailedError: it did not start; with its own last words.
        """
        self._life = await self._open_life()
        if self._start_version is not None:
            await self._life.probe()
        self._task = asyncio.create_task(self._look_after(), name=f"keep-{self._name}")
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Without anyone to look after the server, nobody may rely on it."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(f"nobody looks after its server any more: {error!r}")

    async def _open_life(self) -> ServerLife:
        options = self._options
        start_version = None if self._staging.policy_version is not None else self._start_version
        if options.address is not None:
            return await open_life(None, options.address, start_version, options.server.tensor_parallel)
        flags = replace(options.server, is_dummy=start_version is None)
        server = SglangServer(self._name, flags, options.log_dir)
        await server.start(options.start_deadline_s)
        try:
            return await open_life(server, server.address, start_version, flags.tensor_parallel)
        except BaseException:
            await server.close()
            raise

    async def _look_after(self) -> None:
        """Consumes the server's figures / produces restarts and the limit / waits for time or a suspicion / freed by
        either.
        """
        while True:
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._suspected.wait()
            except TimeoutError:
                pass
            async with self.changing:
                reason = await self._what_is_wrong()
                self._suspicion = None
                self._suspected.clear()
                if reason is not None:
                    await self.restart(reason)
                self.gate.open("suspicion")

    async def _what_is_wrong(self) -> str | None:
        """Why the server must be started again; None if it is well."""
        life = self.life
        if life.server is not None and not life.server.is_alive:
            return f"its process ended; its last words:\n{life.server.tail()}"
        now_s, num_tokens, num_under_way = monotonic_s(), life.reader.num_tokens, self._num_under_way()
        if num_tokens != self._progress[0] or not num_under_way:
            self._progress = (num_tokens, now_s)
        if now_s - self._progress[1] > self._options.stall_s:
            return f"no token came for {self._options.stall_s:g} s with {num_under_way} requests under way"
        try:
            if self._suspicion is not None:
                await life.control.get(SERVER_INFO)
            elif self._options.is_adaptive and num_under_way:
                self._adapt(await life.cache_loads(), life.reader.num_retractions)
        except ServerLostError as lost:
            return f"{self._suspicion}; {lost}" if self._suspicion is not None else None
        except ServerRefusedError as refused:
            log.warning("%s: %s", self._name, refused)
        return None

    def _adapt(self, figures: Body, num_retractions: int) -> None:
        load = CacheLoad(
            num_running=int(figures.get("num_running_reqs", 0)),
            num_waiting=int(figures.get("num_waiting_reqs", 0)),
            used_share=float(figures.get("token_usage", 0.0)),
            num_retractions=num_retractions,
        )
        before = self.concurrency.limit
        if self.concurrency.observe(load) < before:
            log.info("%s: the cache is full; %d responses at once from now on", self._name, self.concurrency.limit)

    def suspect(self, life: ServerLife, reason: str) -> None:
        """Send nothing more to a server until it was looked at."""
        if life is self._life and not life.is_closed:
            self.gate.close("suspicion")
            self._suspicion = reason
            self._suspected.set()

    async def restart(self, reason: str) -> None:
        """A new life, with the staged version in force; `changing` is held.

        Raises:
            ActorFailedError: it failed too often, or is not ours to start.
        """
        self.gate.close("restart")
        while True:
            await self._end_life()
            decision = self._restarts.on_death(f"the SGLang server of {self._name}", monotonic_s(), reason)
            if decision.delay_s is None or self._options.address is not None:
                self.fail(f"{decision.reason if decision.delay_s is None else reason}")
                raise ActorFailedError(f"engine {self._name} failed: {self.failure}")
            log.warning("%s", decision.reason)
            metrics.rollout_server_restarts.inc()
            await asyncio.sleep(decision.delay_s)
            try:
                self._life = await self._open_life()
                if self._staging.policy_version is not None:
                    await self._life.update(await self._life.prepare(self._staging))
                    self.in_force = self._staging.policy_version
                if self.in_force is not None:
                    await self._life.probe()
                break
            except (ActorFailedError, ServerLostError, ServerRefusedError) as error:
                reason = str(error)
        self._progress = (0, monotonic_s())
        self.gate.open("restart")

    async def _end_life(self) -> None:
        life, self._life = self._life, None
        if life is not None:
            self._num_tokens_before += life.reader.num_tokens
            await life.close()

    def fail(self, reason: str) -> None:
        """Give up: whoever waits is told, and the server is ended."""
        if self.failure is not None:
            return
        log.error("%s: %s", self._name, reason)
        self.failure = ActorFailedError(reason)
        self._ending = asyncio.create_task(self._end_life())
        self.gate.wake()

    async def close(self) -> None:
        """End the server. Idempotent."""
        if self.failure is None:
            self.failure = ActorFailedError("it was closed")
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._ending is not None:
            await self._ending
        await self._end_life()
        self.gate.wake()
