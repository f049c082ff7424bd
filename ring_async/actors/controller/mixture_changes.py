"""Changes of the mixture while the run goes on: sources, their weights, and their difficulty windows.

    people, schedule ──▶ MixtureChanges ──weights, windows──▶ Dispatcher (durable)
                              └──new sources──▶ reward actors

Owns: the check of a change before it is made, and its event with author, value before and value after; the sources that
were added; the position in the schedule. Does not own the choice of the next prompt (`PromptScheduler`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from ring_async.actors.controller.context import RunContext
from ring_async.actors.controller.dispatcher import Dispatcher
from ring_async.actors.controller.fleet_shell import FleetShell
from ring_async.actors.controller.prompt_ahead import THREADS
from ring_async.actors.controller.prompt_search import window_of
from ring_async.actors.controller.verifier_swap import VerifierSwaps
from ring_async.config.schema import DifficultyWindow, MixtureStep, SourceSection
from ring_async.core.event_kinds import EventKind
from ring_async.core.roster import CONTROLLER_ID, Role
from ring_async.core.work.difficulty import Window
from ring_async.errors import ConfigError
from ring_async.transport.messages.changes import UseSources

log = logging.getLogger(__name__)


class MixtureChanges:
    """Changes the mixture of one run, for people and for the schedule.

        await mixture.change({"math": 0.8, "code": 0.2}, {}, {}, author="ada")
        step = mixture.due(20)         # the step of `mixture_schedule` at version 20, once
        mixture.followed(step)         # it is in force

    Args:
        context: of the run.
        fleet: its reward actors hear of new sources.
        dispatcher: applies mixture and windows.
        verifiers: says whether a new source's verifier is known.
    """

    def __init__(
        self, context: RunContext, fleet: FleetShell, dispatcher: Dispatcher, verifiers: VerifierSwaps
    ) -> None:
        self._config = context.config
        self._notes = context.notes
        self._run_log = context.run_log
        self._fleet = fleet
        self._dispatcher = dispatcher
        self._verifiers = verifiers
        self._sources: dict[str, dict[str, Any]] = self._notes.resumed("sources") or {}
        self._schedule_done = int(self._notes.resumed("schedule") or 0)
        dispatcher.prompts.on_empty = self._window_is_empty

    @property
    def added_verifiers(self) -> dict[str, str]:
        """The verifier of each source that was added, by source."""
        return {name: section["verifier"] for name, section in self._sources.items()}

    def status(self) -> dict[str, Any]:
        """The mixture and windows in force, as plain data."""
        prompts = self._dispatcher.prompts
        return {
            "mixture": dict(prompts.mixture.shares),
            "mixture_epoch": prompts.mixture.epoch,
            "difficulty": {
                name: _plain(window) | {"num_passed": prompts.num_passed(name)}
                for name, window in prompts.windows.items()
            },
        }

    async def change(
        self,
        weights: Mapping[str, float],
        sources: Mapping[str, Any],
        difficulty: Mapping[str, Any],
        *,
        author: str,
    ) -> None:
        """Put new weights and difficulty windows in force from the next reservation on; `sources` are added first.

        Args:
            weights: of every source that has one; empty where only windows change.
            sources: configuration sections of new sources, by name.
            difficulty: windows by source; None lifts one, those left out stay.
            author: who made the change, for the event.

        Raises:
            ConfigError: an unknown source, no weight above 0, a source that cannot be made, or a window that none of
                its prompts satisfies.
        """
        for name, section in sources.items():
            await self._add_source(name, SourceSection.model_validate(section), author)
        windows = {name: await self._checked(name, wanted) for name, wanted in difficulty.items()}
        prompts = self._dispatcher.prompts
        shares, former = prompts.mixture.shares, dict(prompts.windows)
        self._dispatcher.set_mixture(weights, windows)
        epoch = prompts.mixture.epoch
        if weights:
            self._run_log.event(
                EventKind.MIXTURE_CHANGED,
                author=author,
                before=shares,
                after=prompts.mixture.shares,
                mixture_epoch=epoch,
            )
        if windows:
            self._run_log.event(
                EventKind.DIFFICULTY_CHANGED, author=author,
                before={name: _plain(former.get(name)) for name in windows},
                after={name: _plain(window) for name, window in windows.items()}, mixture_epoch=epoch,
            )  # fmt: skip

    def due(self, number: int) -> MixtureStep | None:
        """The change that the schedule asks for at a version; None if nothing new is due.

        If several steps are due, the weights are those of the last step, and the windows those of all steps. The
        caller says when the step was followed; a controller that dies before that finds it due again.
        """
        due = [step for step in self._config.mixture_schedule if self._schedule_done < step.at_version <= number]
        if not due:
            return None
        self._schedule_done = due[-1].at_version
        windows = {name: window for step in due for name, window in step.difficulty.items()}
        return due[-1].model_copy(update={"difficulty": windows})

    def followed(self, step: MixtureStep) -> None:
        """A step that was due is in force, or was refused: no later controller follows it again."""
        self._notes.hold("schedule", step.at_version)

    async def _checked(self, name: str, wanted: Any) -> Window | None:
        """The window of a section, once some prompt satisfies it; a thread searches, since prompts may take long."""
        if wanted is None:
            return None
        window = window_of(DifficultyWindow.model_validate(wanted))
        probe = self._dispatcher.prompts.probe(name, window)
        await asyncio.get_running_loop().run_in_executor(THREADS, lambda: list(probe))
        return window

    def _window_is_empty(self, source: str, window: Window, num_passed: int) -> None:
        log.warning("source %s: %d prompts in a row lie outside %s", source, num_passed, window)
        self._run_log.event(
            EventKind.DIFFICULTY_WINDOW_EMPTY, author=CONTROLLER_ID, source=source, window=_plain(window),
            num_passed=num_passed,
        )  # fmt: skip

    async def _add_source(self, name: str, section: SourceSection, author: str) -> None:
        if name in self._config.sources or name in self._sources:
            raise ConfigError(f"sources.{name}: there is a source of this name; choose another")
        self._verifiers.in_force(section.verifier)
        await asyncio.to_thread(self._dispatcher.prompts.add_source, name, section)
        sources = {**self._sources, name: section.model_dump(mode="json")}
        self._notes.put("sources", sources)
        self._sources = sources
        news = UseSources(self.added_verifiers)
        await asyncio.gather(*(self._fleet.is_done(one.actor_id, news) for one in self._fleet.members.of(Role.REWARD)))
        self._run_log.event(EventKind.SOURCE_ADDED, author=author, source=name, after=self._sources[name])


def _plain(window: Window | None) -> Any:
    return msgspec.to_builtins(window)
