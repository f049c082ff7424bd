"""The changes that people make while a run goes on: verifiers, mixture, settings, size of the fleet.

    control API ──▶ LiveChanges ──verifiers──▶ VerifierSwaps ──▶ reward actors, replay
                        ├──mixture, sources, difficulty windows──▶ MixtureChanges ──▶ Dispatcher
                        ├──settings──▶ Dispatcher, learner, replay
                        └──scale──▶ FleetShell ──▶ launcher

Owns: the order of a change (checked, made durable, announced, recorded as an event with author, value before and value
after), and what an actor that registers later is told. Does not own the effects: the parts drawn above do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from ring_async.actors.controller.context import RunContext
from ring_async.actors.controller.dispatcher import Dispatcher
from ring_async.actors.controller.fleet_shell import FleetShell
from ring_async.actors.controller.mixture_changes import MixtureChanges
from ring_async.actors.controller.verifier_swap import VerifierSwaps, plain_swap
from ring_async.actors.waits import STORAGE_RETRY_S
from ring_async.config.schema import Config, MixtureStep
from ring_async.config.tunable import roles_that_hear, tuned
from ring_async.core.event_kinds import EventKind
from ring_async.core.roster import CONTROLLER_ID, SCALABLE, Role
from ring_async.errors import ConfigError, RunError, StorageError
from ring_async.transport.messages.changes import TuneKnobs, VerifierFailing

log = logging.getLogger(__name__)

SetAside = Callable[[list[str], str, bool], None]
"""Called with sources to set aside, the reason, and whether that is for good."""


class LiveChanges:
    """Makes the changes that people ask for, and tells them to actors that register later.

        changes.scale("rollout", 4, author="ada")
        await changes.set_knobs({"learner.learning_rate": 1e-6}, author="ada")
        changes.swap_verifier("math", "my.module:Strict", {}, shadow=100, author="ada")

    Args:
        context: of the run.
        fleet: hears of changes, and has the size that is wanted.
        dispatcher: applies mixture, windows and limits.
        set_aside: hears of sources whose verifier fails.
    """

    def __init__(self, context: RunContext, fleet: FleetShell, dispatcher: Dispatcher, set_aside: SetAside) -> None:
        config, notes = context.config, context.notes
        self._config = config
        self._notes = notes
        self._run_log = context.run_log
        self._spawn = context.spawn
        self._dispatcher = dispatcher
        self._fleet = fleet
        self._changing = asyncio.Lock()
        self._set_aside = set_aside
        self._swaps = VerifierSwaps(context, fleet, self._verifier_changed, self._verifier_failing)
        self.knobs = self._kept_knobs(notes.resumed("knobs") or {})
        self._mixture = MixtureChanges(context, fleet, dispatcher, self._swaps)
        dispatcher.tune(tuned(config, self.knobs))
        self._configured_counts = {role: config.roster.counts[role] for role in SCALABLE}
        scale = notes.resumed("scale") or {}
        is_kept = scale.get("configured") == self._configured_counts
        self.counts: dict[Role, int] = dict(self._configured_counts)
        if is_kept:
            self.counts |= {Role(role): num for role, num in scale["counts"].items()}

    # -- what others ask

    def for_newcomer(self) -> dict[str, Any]:
        """The fields of `Registered` that tell a new member how the run differs from its configuration."""
        return {
            "verifiers": self._swaps.changed,
            "epoch_rules": self._swaps.rules,
            "source_verifiers": self._mixture.added_verifiers,
            "knobs": self._knobs_for_actors(),
        }

    def status(self) -> dict[str, Any]:
        """The verifiers, mixture and settings in force, as plain data."""
        return self._mixture.status() | {
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
            RefusedError: there is no such verifier, or another change is under way.
            ConfigError: its file cannot be read.
        """
        swap = self._swaps.swap(name, use, dict(options), author=author, shadow=shadow, rescore=rescore, hold=hold)
        return plain_swap(swap)

    def roll_back_verifier(self, name: str, *, author: str = "api", cause: str = "") -> dict[str, Any]:
        """Begin to go back to the former verifier; groups that the present one scored are judged again.

        Raises:
            RefusedError: there is no former verifier, or another change is under way.
        """
        return plain_swap(self._swaps.roll_back(name, author=author, cause=cause))

    def decide(self, swap_id: str, *, commit: bool) -> dict[str, Any]:
        """Commit a swap that is held after its shadow phase, or call off a swap.

        Raises:
            RefusedError: there is no such swap, or its state does not allow this.
        """
        return plain_swap(self._swaps.decide(swap_id, commit=commit))

    async def follow_swap(self, swap_id: str, wait_s: float) -> dict[str, Any]:
        """The state of a swap, as plain data; waits up to `wait_s` for its end.

        Raises:
            RefusedError: there is no such swap.
        """
        return plain_swap(await self._swaps.until_ended(swap_id, wait_s))

    def handle_failing(self, failing: VerifierFailing) -> None:
        """Roll back the swap that brought a failing verifier, or set the verifier's sources aside.

        They are set aside for a while only if the rollback must wait for another change.
        """
        name = failing.verifier
        if failing.epoch != self._swaps.in_force(name).epoch:
            return
        if not self._swaps.can_roll_back(name):
            self._verifier_failing(name, failing.reason)
        elif not self._swaps.roll_back_failing(name, failing.reason):
            self._verifier_failing(name, failing.reason, is_for_good=False)

    def _verifier_failing(self, name: str, reason: str, *, is_for_good: bool = True) -> None:
        self._set_aside(self._dispatcher.prompts.sources_of(name), f"{name}: {reason}", is_for_good)

    def _verifier_changed(self, name: str) -> None:
        prompts = self._dispatcher.prompts
        if resumed := prompts.mixture.resume(prompts.sources_of(name)):
            self._run_log.event(EventKind.DOMAIN_RESUMED, author=CONTROLLER_ID, sources=sorted(resumed), verifier=name)

    # -- mixture

    async def set_mixture(
        self,
        weights: Mapping[str, float],
        sources: Mapping[str, Any] | None = None,
        difficulty: Mapping[str, Any] | None = None,
        *,
        author: str = "api",
    ) -> dict[str, Any]:
        """Put new weights and difficulty windows in force; see `MixtureChanges.change`.

        Raises:
            ConfigError: an unknown source, no weight above 0, a source that cannot be made, or a window that none of
                its prompts satisfies.
        """
        async with self._changing:
            await self._mixture.change(weights, sources or {}, difficulty or {}, author=author)
            if weights:
                await self._tell_knobs(Role.REPLAY)
            return self.status()

    def version_reached(self, number: int) -> None:
        """Apply the mixture schedule's step for this policy version, if there is one."""
        if (due := self._mixture.due(number)) is not None:
            self._spawn(self._follow_schedule(due))

    async def _follow_schedule(self, due: MixtureStep) -> None:
        while True:
            try:
                await self.set_mixture(due.mixture, difficulty=due.difficulty, author="schedule")
                break
            except ConfigError as refusal:  # the run keeps its mixture, and an event says why
                at, reason = due.at_version, str(refusal)
                self._run_log.event(EventKind.SCHEDULE_REFUSED, author="schedule", at_version=at, reason=reason)
                break
            except StorageError as full:
                log.error("the mixture of version %d waits for room on the disk: %s", due.at_version, full)
                await asyncio.sleep(STORAGE_RETRY_S)
        self._mixture.followed(due)

    # -- settings

    async def set_knobs(self, knobs: Mapping[str, Any], *, author: str = "api") -> dict[str, Any]:
        """Change settings; returns once every actor concerned has applied them.

        Raises:
            ConfigError: a setting is not tunable or has a bad value; nothing was changed.
            StorageError: the change cannot be stored; nothing was changed.
            RunError: an actor did not apply them in time; it will when it registers again.
        """
        async with self._changing:
            changed = self.knobs | dict(knobs)
            before, after = tuned(self._config, self.knobs), tuned(self._config, changed)
            self._dispatcher.tune(after)
            try:
                self._notes.put("knobs", {name: [_value(self._config, name), value] for name, value in changed.items()})
            except StorageError:
                self._dispatcher.tune(before)
                raise
            self.knobs = changed
            self._run_log.event(
                EventKind.KNOBS_CHANGED, author=author, before={name: _value(before, name) for name in knobs},
                after={name: _value(after, name) for name in knobs},
            )  # fmt: skip
            late = await self._tell_knobs(*roles_that_hear(knobs))
        if late:
            raise RunError(f"changed, but not yet in effect at {', '.join(late)}; see: ring-async status")
        return self.status()

    def _knobs_for_actors(self) -> dict[str, Any]:
        """The settings that were changed live, with the mixture where replay's quotas follow it."""
        mixture = self._dispatcher.prompts.mixture
        return self.knobs | ({"mixture": dict(mixture.shares)} if mixture.epoch else {})

    async def _tell_knobs(self, *roles: Role) -> list[str]:
        """Send all settings to all actors of these roles; returns the actors that did not apply them in time."""
        actor_ids = [member.actor_id for member in self._fleet.members.of(*roles)]
        news = TuneKnobs(self._knobs_for_actors())
        done = await asyncio.gather(*(self._fleet.is_done(actor_id, news) for actor_id in actor_ids))
        return [actor_id for actor_id, is_done in zip(actor_ids, done, strict=True) if not is_done]

    def _kept_knobs(self, noted: Mapping[str, Any]) -> dict[str, Any]:
        """The live settings that a resumed run keeps: all but those that the configuration has changed since."""
        return {name: value for name, (baseline, value) in noted.items() if _value(self._config, name) == baseline}

    # -- size

    def scale(self, role: str, num: int, *, author: str = "api") -> dict[str, Any]:
        """Set the number of actors of a role. New actors fetch the present weights; leaving ones finish or hand back
        work.

        Raises:
            ConfigError: the role cannot be scaled, or `num` is below 1.
            StorageError: the change cannot be stored; nothing was changed.
        """
        if role not in SCALABLE:
            raise ConfigError(f"{role}: cannot be scaled while the run goes on; {' and '.join(SCALABLE)} can")
        if num < 1:
            raise ConfigError(f"{num} {role}s: at least one must stay; to stop for a while use: ring-async pause")
        counts = self.counts | {Role(role): num}
        self._notes.put("scale", {"configured": self._configured_counts, "counts": counts})
        before, self.counts = self.counts, counts
        self._fleet.scale(Role(role), num)
        self._run_log.event(EventKind.SCALED, author=author, role=role, before=before[Role(role)], after=num)
        return self.status()


def _value(config: Config, name: str) -> Any:
    section, _, field = name.partition(".")
    return getattr(getattr(config, section), field)
