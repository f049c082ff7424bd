"""What people change while the run goes on: verifiers, mixture, settings, size of the fleet.

    control API ──▶ LiveChanges ──verifiers──▶ SwapDesk ──▶ reward actors, replay
                        ├──mixture, sources, difficulty windows──▶ WorkDesk
                        ├──settings──▶ WorkDesk, learner, replay
                        └──scale──▶ Fleet ──▶ launcher

Owns: that a change is checked before it is made, durable before anybody hears of it, and an event with author, before
and after; and what an actor that registers must be told. Does not own the effect: those named above do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import msgspec

from ring_async.actors.controller.member_book import MemberBook
from ring_async.actors.controller.member_links import MemberLinks
from ring_async.actors.controller.prompt_search import window_of
from ring_async.actors.controller.run_log import StepLog
from ring_async.actors.controller.verifier_swap import SwapDesk
from ring_async.actors.controller.work import WorkDesk
from ring_async.clock import monotonic_s
from ring_async.config.schema import Config, DifficultyWindow, MixtureStep, SourceSection
from ring_async.config.tunable import knobs_of, tuned
from ring_async.core.fleet.fleet import Fleet
from ring_async.core.roster import CONTROLLER_ID, SCALABLE, Role
from ring_async.core.work.difficulty import Window
from ring_async.errors import ConfigError, PeerTimeoutError, RefusedError, RingAsyncError, RunError
from ring_async.storage.run_dir import RunDir
from ring_async.transport.messages.base import Message
from ring_async.transport.messages.changes import TuneKnobs, UseSources, VerifierFailing
from ring_async.transport.messages.fleet import Shutdown

log = logging.getLogger(__name__)

LEAVE_S = 30.0
"""Longest time for an actor that is scaled away to finish what it has under way."""
TUNE_TIMEOUT_S = 300.0
"""A learner takes up settings between two steps; a step of a large model takes minutes."""


class LiveChanges:
    """See the module. `spawn` runs work that outlives a call, `tell_members` brings the list of members to all."""

    def __init__(
        self,
        config: Config,
        run_dir: RunDir,
        *,
        work: WorkDesk,
        fleet: Fleet,
        book: MemberBook,
        links: MemberLinks,
        steps: StepLog,
        spawn: Callable[[Coroutine[Any, Any, Any]], None],
        tell_members: Callable[[], None],
        is_resumed: bool,
    ) -> None:
        self._config = config
        self._work = work
        self._fleet = fleet
        self._book = book
        self._links = links
        self._steps = steps
        self._spawn = spawn
        self._tell_members = tell_members
        self._changing = asyncio.Lock()
        noted = work.noted if is_resumed else lambda key: None
        self._swaps = SwapDesk(
            config, run_dir.verifiers, links, book,
            noted=noted("verifiers"), note=lambda snapshot: work.note("verifiers", snapshot),
            event=steps.event, spawn=spawn, on_commit=self._verifier_changed,
        )  # fmt: skip
        self.knobs = self._kept_knobs(noted("knobs") or {})
        self._sources: dict[str, dict[str, Any]] = noted("sources") or {}
        work.tune(tuned(config, self.knobs))
        self._configured_counts = {role: config.roster.counts[role] for role in SCALABLE}
        scale = noted("scale") or {}
        is_kept = scale.get("configured") == self._configured_counts
        self.counts: dict[Role, int] = dict(self._configured_counts)
        if is_kept:
            self.counts |= {Role(role): num for role, num in scale["counts"].items()}
        self._schedule_done = int(noted("schedule") or 0)
        work.on_empty_window(self._window_is_empty)

    # -- what others ask

    def for_newcomer(self) -> dict[str, Any]:
        """Fields of `Registered` that say how the run differs from its configuration."""
        return {
            "verifiers": self._swaps.changed,
            "epoch_rules": self._swaps.rules,
            "source_verifiers": {name: section["verifier"] for name, section in self._sources.items()},
            "knobs": self._knobs_for_actors(),
        }

    def status(self) -> dict[str, Any]:
        """What is in force: plain data."""
        return {
            "mixture": self._work.shares,
            "mixture_epoch": self._work.mixture_epoch,
            "difficulty": {
                name: _plain(window) | {"num_passed": self._work.num_passed(name)}
                for name, window in self._work.windows.items()
            },
            "verifiers": {v.name: {"use": v.use, "version": v.version, "epoch": v.epoch} for v in self._swaps.changed},
            "knobs": self.knobs,
            "scale": self.counts,
        }

    # -- verifiers

    def swap_verifier(
        self,
        name: str,
        use: str,
        options: Mapping[str, Any],
        *,
        shadow: int = 0,
        rescore: bool = False,
        hold: bool = False,
        author: str = "api",
    ) -> dict[str, Any]:
        """Begin to change a verifier; returns the swap, to be followed by its id.

        Raises:
            RefusedError: no such verifier, or another change is under way.
            ConfigError: its file cannot be read.
        """
        swap = self._swaps.swap(name, use, dict(options), author=author, shadow=shadow, rescore=rescore, hold=hold)
        return swap.to_plain()

    def roll_back_verifier(self, name: str, *, author: str = "api", cause: str = "") -> dict[str, Any]:
        """Begin to go back to the verifier before the present one; what the present one scored is judged again.

        Raises:
            RefusedError: there is none, or another change is under way.
        """
        return self._swaps.roll_back(name, author=author, cause=cause).to_plain()

    def decide(self, swap_id: str, *, commit: bool) -> dict[str, Any]:
        """Commit a swap that is held after its shadow, or call one off.

        Raises:
            RefusedError: no such swap, or it is past that.
        """
        return self._swaps.decide(swap_id, commit=commit).to_plain()

    async def follow_swap(self, swap_id: str, wait_s: float) -> dict[str, Any]:
        """How far a swap is; waits up to `wait_s` for its end.

        Raises:
            RefusedError: no such swap.
        """
        swap = self._swaps.get(swap_id)
        try:
            await asyncio.wait_for(swap.ended.wait(), wait_s)
        except TimeoutError:
            pass
        return swap.to_plain()

    def handle_failing(self, failing: VerifierFailing) -> list[str]:
        """A verifier fails too often: roll back the swap that brought it, if one did; returns sources to pause."""
        current = self._swaps.in_force(failing.verifier)
        if failing.epoch != current.epoch:
            return []
        if self._swaps.can_roll_back(failing.verifier):
            try:
                self.roll_back_verifier(failing.verifier, author=CONTROLLER_ID, cause=failing.reason)
                return []
            except RefusedError as refusal:
                log.warning("verifier %s is not rolled back: %s", failing.verifier, refusal)
        return self._work.sources_of(failing.verifier)

    def _verifier_changed(self, name: str) -> None:
        if resumed := self._work.unpause_sources(self._work.sources_of(name)):
            self._steps.event("domain_resumed", author=CONTROLLER_ID, sources=sorted(resumed), verifier=name)

    # -- mixture

    async def set_mixture(
        self,
        weights: Mapping[str, float],
        sources: Mapping[str, Any] | None = None,
        difficulty: Mapping[str, Any] | None = None,
        *,
        author: str = "api",
    ) -> dict[str, Any]:
        """Put new weights and difficulty windows in force from the next reservation on; `sources` are added first.

        Args:
            weights: of all sources that have one; empty, where windows are given: they stay.
            sources: sections of new ones, by name.
            difficulty: windows by source; None lifts one, those left out stay.
            author: whom the event names.

        Raises:
            ConfigError: an unknown source, no weight above 0, a source that cannot be made, or a window that none of
                its prompts satisfies.
        """
        async with self._changing:
            for name, section in (sources or {}).items():
                await self._add_source(name, SourceSection.model_validate(section), author)
            windows = {name: await self._checked(name, wanted) for name, wanted in (difficulty or {}).items()}
            shares, former = self._work.shares, self._work.windows
            self._work.set_mixture(weights, windows)
            if weights:
                await self._tell_knobs(Role.REPLAY)
                self._steps.event(
                    "mixture_changed", author=author, before=shares, after=self._work.shares,
                    mixture_epoch=self._work.mixture_epoch,
                )  # fmt: skip
            if windows:
                self._steps.event(
                    "difficulty_changed", author=author, before={name: _plain(former.get(name)) for name in windows},
                    after={name: _plain(window) for name, window in windows.items()},
                    mixture_epoch=self._work.mixture_epoch,
                )  # fmt: skip
            return self.status()

    async def _checked(self, name: str, wanted: Any) -> Window | None:
        """A window that prompts satisfy; the loop goes on meanwhile."""
        if wanted is None:
            return None
        window = window_of(DifficultyWindow.model_validate(wanted))
        for _ in self._work.probe(name, window):
            await asyncio.sleep(0)
        return window

    def _window_is_empty(self, source: str, window: Window, num_passed: int) -> None:
        log.warning("source %s: %d prompts in a row lie outside %s", source, num_passed, window)
        self._steps.event(
            "difficulty_window_empty", author=CONTROLLER_ID, source=source, window=_plain(window),
            num_passed=num_passed,
        )  # fmt: skip

    async def _add_source(self, name: str, section: SourceSection, author: str) -> None:
        if name in self._config.sources or name in self._sources:
            raise ConfigError(f"sources.{name}: there is a source of this name; choose another")
        self._swaps.in_force(section.verifier)
        await asyncio.to_thread(self._work.add_source, name, section)
        self._sources[name] = section.model_dump(mode="json")
        self._work.note("sources", self._sources)
        news = UseSources({name: one["verifier"] for name, one in self._sources.items()})
        await asyncio.gather(*(self._told(member.actor_id, news) for member in self._book.of(Role.REWARD)))
        self._steps.event("source_added", author=author, source=name, after=self._sources[name])

    def version_reached(self, number: int) -> None:
        """Follow the mixture's schedule."""
        due = [step for step in self._config.mixture_schedule if self._schedule_done < step.at_version <= number]
        if due:
            self._schedule_done = due[-1].at_version
            self._work.note("schedule", self._schedule_done)
            self._spawn(self._follow_schedule(due))

    async def _follow_schedule(self, due: list[MixtureStep]) -> None:
        """The last weights of the steps that are due, and the windows of all of them."""
        windows = {name: window for step in due for name, window in step.difficulty.items()}
        try:
            await self.set_mixture(due[-1].mixture, difficulty=windows, author="schedule")
        except ConfigError as refusal:  # the run goes on as it is, and says so
            self._steps.event("schedule_refused", author="schedule", at_version=due[-1].at_version, reason=str(refusal))

    # -- settings

    async def set_knobs(self, knobs: Mapping[str, Any], *, author: str = "api") -> dict[str, Any]:
        """Change settings; returns once all who must know have taken them up.

        Raises:
            ConfigError: one is not tunable or has a bad value; nothing was changed.
            RunError: an actor did not take them up in time; it will when it is back.
        """
        async with self._changing:
            changed = self.knobs | dict(knobs)
            before, after = tuned(self._config, self.knobs), tuned(self._config, changed)
            self._work.tune(after)
            self.knobs = changed
            self._work.note("knobs", {name: [_value(self._config, name), value] for name, value in changed.items()})
            self._steps.event(
                "knobs_changed", author=author, before={name: _value(before, name) for name in knobs},
                after={name: _value(after, name) for name in knobs},
            )  # fmt: skip
            late = await self._tell_knobs(*(role for role in (Role.LEARNER, Role.REPLAY) if knobs_of(role, knobs)))
        if late:
            raise RunError(f"changed, but not yet in effect at {', '.join(late)}; see: ring-async status")
        return self.status()

    def _knobs_for_actors(self) -> dict[str, Any]:
        """Settings changed live; the mixture is one of them where replay's quotas follow it."""
        return self.knobs | ({"mixture": self._work.shares} if self._work.mixture_epoch else {})

    async def _tell_knobs(self, *roles: Role) -> list[str]:
        """Bring all settings to all actors of these roles; returns those that did not take them up in time."""
        actor_ids = [member.actor_id for member in self._book.of(*roles)]
        news = TuneKnobs(self._knobs_for_actors())
        done = await asyncio.gather(*(self._told(actor_id, news) for actor_id in actor_ids))
        return [actor_id for actor_id, is_done in zip(actor_ids, done, strict=True) if not is_done]

    def _kept_knobs(self, noted: Mapping[str, Any]) -> dict[str, Any]:
        """On resume: settings changed live stay so, but for those that the configuration now sets otherwise."""
        return {name: value for name, (baseline, value) in noted.items() if _value(self._config, name) == baseline}

    # -- size

    def scale(self, role: str, num: int, *, author: str = "api") -> dict[str, Any]:
        """Have `num` actors of a role. New ones fetch present weights; those that leave finish or hand back first.

        Raises:
            ConfigError: a role that cannot be scaled, or fewer than one.
        """
        if role not in SCALABLE:
            raise ConfigError(f"{role}: cannot be scaled while the run goes on; {' and '.join(SCALABLE)} can")
        if num < 1:
            raise ConfigError(f"{num} {role}s: at least one must stay; to stop for a while use: ring-async pause")
        before, self.counts = self.counts, self.counts | {Role(role): num}
        self._work.note("scale", {"configured": self._configured_counts, "counts": self.counts})
        leaving = self._fleet.want(Role(role), num, monotonic_s(), leave_s=LEAVE_S + 5.0)
        self._work.note("incarnations", self._fleet.incarnations())
        self._tell_members()
        for key in leaving:
            self._links.tell(key.actor_id, Shutdown(LEAVE_S))
        self._steps.event("scaled", author=author, role=role, before=before[Role(role)], after=num)
        return self.status()

    async def _told(self, actor_id: str, message: Message) -> bool:
        try:
            await self._links.command(actor_id, message, timeout_s=TUNE_TIMEOUT_S)
        except PeerTimeoutError:
            return actor_id not in self._book
        except RefusedError as refusal:
            log.error("%s refused %s: %s", actor_id, type(message).__name__, refusal)
            return False
        except RingAsyncError:
            return False  # its line was dropped: it is told when it registers again
        return True


def _plain(window: Window | None) -> Any:
    return msgspec.to_builtins(window)


def _value(config: Config, name: str) -> Any:
    section, _, field = name.partition(".")
    return getattr(getattr(config, section), field)
