"""The verifiers of one reward actor: those in force, one that is being tried, and those that finish their last groups.

    prepare ──golden cases──▶ tried ──commit──▶ in force ──next commit──▶ finishing ──last group──▶ closed
                               └─ shadow: judges along, without effect ─┘

Owns: verifier instances, their epochs, and the comparison of a tried verifier with the one in force. Does not own when
verifiers change: the controller decides.
Invariant: a group is judged from its first to its last response by the verifier that was in force when it began.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ring_async.clock import monotonic_s
from ring_async.config.schema import Config, VerifierSection
from ring_async.core.verifier_swap import ShadowCounts
from ring_async.errors import ConfigError, RefusedError, RingAsyncError, VerifierError
from ring_async.transport.messages.changes import VerifierPrepared
from ring_async.types import GroupHeader, Verdict, VerifierInForce, VerifierStamp
from ring_async.verifiers.base import Response, Verifier
from ring_async.verifiers.golden import require_golden_cases
from ring_async.verifiers.registry import make_verifier
from ring_async.verifiers.scoring import score_group

log = logging.getLogger(__name__)

AGREEMENT = 1e-6
"""Rewards closer than this count as equal."""


@dataclass(slots=True)
class Service:
    """One verifier at work. `num_judging`: groups that it is judging now."""

    verifier: Verifier
    epoch: int
    num_judging: int = 0
    is_finishing: bool = False

    @property
    def stamp(self) -> VerifierStamp:
        return VerifierStamp(self.verifier.name, self.verifier.version, self.epoch)


@dataclass(slots=True)
class _Shadow:
    """A verifier that is being tried, and its comparison with the one in force so far."""

    service: Service
    is_judging: bool
    counts: ShadowCounts = field(default_factory=ShadowCounts)


class VerifierSet:
    """The open verifiers of one reward actor.

        await verifiers.open(["math"])                              # epoch 0, from the configuration
        await verifiers.prepare(wanted, is_shadow=True)             # beside it, for epoch 1
        async with verifiers.judging("math") as service:            # still epoch 0
            ...
        await verifiers.commit(wanted)                              # epoch 1 from the next group on

    Args:
        config: of the run.
        bring: fetches the files that a verifier is loaded from, where this host lacks them.
    """

    def __init__(self, config: Config, bring: Callable[[str, dict[str, Any]], Awaitable[None]]) -> None:
        self._config = config
        self._bring = bring
        self._services: dict[str, Service] = {}
        self._tried: dict[int, _Shadow] = {}
        self._opening = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    async def open(self, names: Iterable[str]) -> None:
        """Build the configuration's verifiers and judge with them.

        Raises:
            ConfigError: a verifier cannot be built, or fails a golden case.
        """
        for name in names:
            section = self._config.verifiers[name]
            service = await self._build(VerifierInForce(name, section.use, section.options, epoch=0))
            await require_golden_cases(service.verifier)
            self._services[name] = service

    def epochs(self) -> dict[str, int]:
        """The epoch in force of each open verifier, by name."""
        return {name: service.epoch for name, service in self._services.items()}

    async def adopt(self, verifiers: Iterable[VerifierInForce]) -> None:
        """Judge with the verifiers that the controller says are in force."""
        for verifier in verifiers:
            await self.commit(verifier)

    @contextlib.asynccontextmanager
    async def judging(self, name: str) -> AsyncIterator[Service]:
        """The verifier in force under this name. It stays open at least as long as this block.

        Raises:
            VerifierError: the verifier cannot be built.
        """
        service = await self._service(name)
        service.num_judging += 1
        try:
            yield service
        finally:
            service.num_judging -= 1
            self._close_if_done(service)

    # -- swaps

    async def prepare(self, wanted: VerifierInForce, *, is_shadow: bool) -> VerifierPrepared:
        """Build and check a verifier while the one in force goes on judging.

        Raises:
            ConfigError: the verifier cannot be built, or fails a golden case.
        """
        began_s = monotonic_s()
        service = await self._build(wanted)
        try:
            num_cases = await require_golden_cases(service.verifier, self._config.reward.timeout_s)
        except BaseException:
            await asyncio.to_thread(service.verifier.close)
            raise
        self.drop(wanted.epoch)
        self._tried[wanted.epoch] = _Shadow(service, is_shadow)
        return VerifierPrepared(service.verifier.version, num_cases, monotonic_s() - began_s)

    def drop(self, epoch: int) -> None:
        """Close the verifier that was prepared for this epoch: it will not be used."""
        if (tried := self._tried.pop(epoch, None)) is not None:
            self._finish(tried.service)

    async def commit(self, wanted: VerifierInForce) -> None:
        """Judge with this verifier from the next group on. It is built now if it was not prepared before.

        Raises:
            ConfigError: the verifier cannot be built.
        """
        async with self._opening:
            current = self._services.get(wanted.name)
            if current is not None and current.epoch >= wanted.epoch:
                return
            tried = self._tried.pop(wanted.epoch, None)
            self._services[wanted.name] = tried.service if tried else await self._build(wanted)
            if current is not None:
                self._finish(current)
        log.info("verifier %s: epoch %d, version %s", wanted.name, wanted.epoch, wanted.version)

    # -- the shadow

    def shadow_of(self, name: str) -> _Shadow | None:
        """The verifier that is being tried under this name, if there is one."""
        return next((one for one in self._tried.values() if one.is_judging and one.service.verifier.name == name), None)

    async def judge_along(
        self, shadow: _Shadow, header: GroupHeader, responses: list[Response], verdicts: list[Verdict], took_s: float
    ) -> None:
        """Have the tried verifier judge responses that the one in force has judged, and count how the two compare."""
        service = shadow.service
        service.num_judging += 1
        began_s = monotonic_s()
        try:
            reward = self._config.reward
            tried = await score_group(service.verifier, header.prompt, responses, reward.timeout_s, reward.bound)
        except VerifierError as failure:
            shadow.counts += ShadowCounts(num_groups=1, failures={failure.cause: 1})
            return
        finally:
            service.num_judging -= 1
            self._close_if_done(service)
        shadow.counts += ShadowCounts(
            num_trajectories=len(verdicts),
            num_agreed=sum(abs(a.reward - b.reward) <= AGREEMENT for a, b in zip(verdicts, tried, strict=True)),
            reward_before=sum(verdict.reward for verdict in verdicts),
            reward_after=sum(verdict.reward for verdict in tried),
            seconds_before=took_s,
            seconds_after=monotonic_s() - began_s,
            num_groups=1,
        )

    def shadow_counts(self, epoch: int) -> ShadowCounts:
        """The comparison so far of the verifier that was prepared for this epoch with the one in force.

        Raises:
            RefusedError: no verifier was prepared here for this epoch.
        """
        if epoch not in self._tried:
            raise RefusedError(f"no verifier is prepared for epoch {epoch}")
        return self._tried[epoch].counts

    # -- life

    async def close(self) -> None:
        await asyncio.gather(*self._closing, return_exceptions=True)
        for service in (*self._services.values(), *(tried.service for tried in self._tried.values())):
            service.verifier.close()

    async def _service(self, name: str) -> Service:
        if name not in self._services:  # a verifier of a source that was added to the mixture later
            async with self._opening:
                if name not in self._services:
                    try:
                        await self.open([name])
                    except VerifierError:
                        raise
                    except RingAsyncError as error:  # it cannot be made, or its file cannot be had now
                        raise VerifierError("unavailable", str(error)) from error
        return self._services[name]

    async def _build(self, wanted: VerifierInForce) -> Service:
        section = VerifierSection(use=wanted.use, options=wanted.options)
        num_workers = self._config.reward.num_workers
        await self._bring(wanted.use, wanted.options)
        try:
            verifier = await asyncio.to_thread(make_verifier, wanted.name, section, num_workers=num_workers)
        except RingAsyncError:
            raise
        except (Exception, SystemExit) as error:  # a plugin may raise anything when it is imported or built
            raise ConfigError(f"verifiers.{wanted.name}: {type(error).__name__}: {error}") from error
        return Service(verifier, wanted.epoch)

    def _finish(self, service: Service) -> None:
        service.is_finishing = True
        self._close_if_done(service)

    def _close_if_done(self, service: Service) -> None:
        if service.is_finishing and not service.num_judging:
            task = asyncio.create_task(asyncio.to_thread(service.verifier.close))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
