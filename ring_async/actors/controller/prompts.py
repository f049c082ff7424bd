"""The prompt scheduler: it chooses source, prompt and seed of each new group.

Owns: the prompt sources of a run, one cursor and at most one window each, and the mixture. Does not own leases,
admission, or the search for a prompt within a window (`prompt_search`).
Invariants: a group's id, prompt and seed follow from (run seed, source, cursor), so a run that is resumed goes on with
the prompts it would have had; a cursor moves once for every new group, whatever becomes of it, and once for every
prompt that a window passes over.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from ring_async.actors.controller.prompt_ahead import PromptFailedError
from ring_async.actors.controller.prompt_search import PromptSearch, check_window, window_of
from ring_async.config.schema import Config, SourceSection
from ring_async.core.ids import group_id_for, index_of
from ring_async.core.work.difficulty import Observations, Window
from ring_async.core.work.mixture import Mixture, check_weights
from ring_async.core.work.source_health import SourceHealth
from ring_async.data.base import PromptSource
from ring_async.data.prompt_room import PromptRoom
from ring_async.errors import ConfigError, RingAsyncError
from ring_async.models import resolve_model_path
from ring_async.telemetry import metrics
from ring_async.types import Prompt, Reservation, SamplingParams

log = logging.getLogger(__name__)

MakeSource = Callable[[str, SourceSection], PromptSource]
OnFailing = Callable[[str, str], None]
"""Called with a source and the reason, when a source makes no prompt any more."""
OnEmpty = Callable[[str, Window, int], None]
"""Called with a source, its window, and the number of prompts passed over in a row, when a window counts as empty."""

PATIENCE_S = 0.2
"""How long a request for work waits for prompts that are being made, before other sources go first."""

_OBSERVED_KEY = "observed/"


class PromptScheduler:
    """Makes reservations for new groups, steered by the mixture.

        prompts.next(set())       # Reservation("math-00000000", …): the cursor of `math` is 1 now

    Args:
        config: of the run.
        make_source: builds a prompt source from its name and section.
    """

    def __init__(self, config: Config, make_source: MakeSource) -> None:
        self._config = config
        self._make_source = make_source
        self._sections = dict(config.sources)
        self.observations = Observations()
        self.windows: dict[str, Window] = {}
        self._late: set[str] = set()
        """Sources whose prompts were not made in time for the last request."""
        self.on_empty: OnEmpty = lambda source, window, num_passed: None
        self.on_failing: OnFailing = lambda source, reason: None
        self.served = SourceHealth("prompts were refused")
        """Whether engines can take the prompts of each source."""
        self._made = SourceHealth("prompts could not be made")
        self._room = PromptRoom(resolve_model_path(config.model.path), config.rollout.max_tokens)
        self.tune(config)
        self._searches = {name: self._search(make_source(name, config.sources[name])) for name in config.mixture}
        self.cursors = dict.fromkeys(self._searches, 0)
        self.mixture = Mixture(config.mixture)
        configured = {name: window_of(section) for name, section in config.difficulty.items()}
        self._configured_windows = msgspec.to_builtins(configured)
        self._set_windows(configured)
        for name in config.difficulty.keys() & self._searches.keys():
            check_window(self._searches[name].source, config.difficulty[name])

    def next(self, not_ready: set[str]) -> Reservation | None:
        """A reservation for the next new prompt of the run; None: no source has a prompt within its window now.

        Args:
            not_ready: sources that the caller has searched in vain; this call adds to them.
        """
        if not self.mixture.candidates:
            return None
        found: dict[str, Prompt] = {}

        def is_ready(source: str) -> bool:
            if source not in not_ready:
                prompt = self._find(source)
                if prompt is not None:
                    found[source] = prompt
                    return True
                not_ready.add(source)
            return False

        source = self.mixture.choose(is_ready)
        if source is None:
            return None
        index = self.cursors[source]
        self.cursors[source] = index + 1
        rollout = self._config.rollout
        return Reservation(
            group_id=group_id_for(source, index),
            prompt=found[source],
            group_size=rollout.group_size,
            seed=group_seed(self._config.seed, source, index),
            sampling=self._sampling,
            mixture_epoch=self.mixture.epoch,
            lease_s=rollout.lease_s,
        )

    def why_none(self) -> str:
        """Why no new group can be issued now; empty if one can. Goes on with the search of the last call."""
        candidates = self.mixture.candidates
        if not candidates:
            return f"every source is set aside: {', '.join(sorted(self.mixture.paused))}"
        late = [source for source in candidates if self._searches[source].is_late(self.cursors[source])]
        searched = [source for source in candidates if source not in late]
        if not self.windows.keys() >= set(searched) or any(self._find(source) is not None for source in searched):
            return ""
        passed = ", ".join(
            f"{source} ({self.windows[source]}, {self._searches[source].num_in_vain:,} passed over)"
            for source in searched
        )
        reasons = [f"no prompt within the difficulty window of {passed}"] if passed else []
        reasons += [f"prompts of {', '.join(late)} are still being made"] if late else []
        return "; ".join(reasons)

    async def make_ahead(self, number: int) -> None:
        """Have threads make the next `number` prompts of each source in the mixture; waits `PATIENCE_S` at most, and
        for none that was late before.
        """
        making = {
            source: future
            for source in self.mixture.candidates
            if (future := self._searches[source].start(self.cursors[source], number)) is not None
        }
        waited_for = [future for source, future in making.items() if source not in self._late]
        if waited_for:
            await asyncio.wait(waited_for, timeout=PATIENCE_S)
        self._late = {source for source, future in making.items() if not future.done()}

    def close(self) -> None:
        """Wait for no prompt any more."""
        for search in self._searches.values():
            search.ahead.close()

    def _search(self, source: PromptSource, window: Window | None = None) -> PromptSearch:
        return PromptSearch(source, self.observations, window, self._room.refusal)

    def _find(self, source: str) -> Prompt | None:
        """Move the source's cursor to the next prompt within the window, and return that prompt.

        A prompt that the source cannot make or the model cannot take is passed over; a source that makes no other is
        reported.
        """
        search = self._searches[source]
        was_empty = search.is_empty
        while True:
            try:
                self.cursors[source], prompt = search.find(self.cursors[source])
                break
            except PromptFailedError as failure:
                self.cursors[source] = failure.index + 1
                log.warning("source %s: %s", source, failure)
                metrics.controller_unusable_prompts.labels(source=source).inc()
                if (reason := self._made.failed(source, str(failure))) is not None:
                    self.on_failing(source, reason)
                    return None
        if prompt is not None:
            self._made.worked(source)
        if search.window is not None and search.is_empty and not was_empty:
            self.on_empty(source, search.window, search.num_in_vain)
        return prompt

    # -- changes while the run goes on

    def tune(self, config: Config) -> None:
        """Apply a changed configuration to the sampling of the groups to come."""
        self._sampling = SamplingParams(config.rollout.temperature, config.rollout.max_tokens)
        self._room.max_tokens = config.rollout.max_tokens

    def add_source(self, name: str, section: SourceSection) -> None:
        """Add a source; it is used once the mixture gives it a weight.

        Raises:
            ConfigError: the source cannot be made.
        """
        try:
            source = self._make_source(name, section)
        except RingAsyncError:
            raise
        except Exception as error:  # the library of a source complains about its settings with errors of its own
            raise ConfigError(f"sources.{name}: cannot be made: {type(error).__name__}: {error}") from error
        self._searches[name] = self._search(source, self.windows.get(name))
        self._sections[name] = section
        self.cursors.setdefault(name, 0)

    def set_mixture(self, weights: Mapping[str, float], windows: Mapping[str, Window | None] | None = None) -> None:
        """Put new weights and windows in force from the next reservation on.

        Args:
            weights: of every source that has one; empty where only windows change.
            windows: by source; None lifts a window, sources left out keep theirs. `probe` checks beforehand that some
            prompt satisfies a window.

        Raises:
            ConfigError: an unknown source, or weights that are not valid; nothing was changed.
        """
        for name in weights:
            self._open(name, "mixture")
        for name in windows or ():
            self._open(name, "difficulty")
        if weights or not windows:
            try:
                check_weights(weights)
            except ValueError as error:
                raise ConfigError(f"mixture: {error}") from error
            self.mixture.set_weights(weights, epoch=self.mixture.epoch + 1)
        else:
            self.mixture.epoch += 1
        self._set_windows(windows or {})

    def probe(self, name: str, window: Window) -> Iterator[None]:
        """Check, a slice at a time, that some prompt to come lies within a window.

        Raises:
            ConfigError: there is no such source, or none of its prompts lies within; see `PromptSearch.probe`.
        """
        return self._open(name, "difficulty").probe(window, self.cursors.get(name, 0))

    def num_passed(self, name: str) -> int:
        """How many prompts of a source were passed over since this process began."""
        return self._searches[name].num_passed if name in self._searches else 0

    def _set_windows(self, windows: Mapping[str, Window | None]) -> None:
        for name, window in windows.items():
            self.windows.pop(name, None)
            if window is not None:
                self.windows[name] = window
            if name in self._searches:
                self._searches[name].set_window(window)

    def _open(self, name: str, key: str) -> PromptSearch:
        if name not in self._sections:
            raise ConfigError(f"{key}.{name}: no such source; sources are {', '.join(sorted(self._sections))}")
        if name not in self._searches:
            self.add_source(name, self._sections[name])
        return self._searches[name]

    # -- what was observed

    def observed(self, reservation: Reservation, difficulty: float | None) -> tuple[str, list[Any]] | None:
        """Record a judged group's difficulty. Returns the note to keep (key, value) if its prompt comes again; else
        None.
        """
        prompt = reservation.prompt
        search = self._searches.get(prompt.source)
        if search is None or search.source.num_prompts is None or difficulty is None:
            return None
        index = index_of(reservation.group_id)
        is_news = self.observations.note(prompt.prompt_id, index, difficulty)
        return (f"{_OBSERVED_KEY}{prompt.prompt_id}", [index, difficulty]) if is_news else None

    def sources_of(self, verifier: str) -> list[str]:
        """The sources of the present mixture that this verifier judges."""
        return [name for name in self.mixture.shares if self._sections[name].verifier == verifier]

    # -- what survives

    def snapshot(self) -> dict[str, Any]:
        """The scheduler's state as plain data, for the journal."""
        return {
            "cursors": dict(self.cursors),
            "mixture": self.mixture.snapshot(),
            "configured": dict(self._config.mixture),
            "windows": {name: msgspec.to_builtins(window) for name, window in self.windows.items()},
            "configured_windows": self._configured_windows,
        }

    def restore(self, snapshot: Mapping[str, Any], notes: Mapping[str, Any]) -> None:
        """Restore a state from `snapshot`; new sources start at their first prompt.

        A mixture that was changed live stays in force unless the configuration's mixture has changed since; so does
        each
        window. `notes` hold the observed difficulties of prompts.
        """
        for source, cursor in snapshot["cursors"].items():
            self.cursors[source] = max(self.cursors.get(source, 0), int(cursor))
        held = snapshot["mixture"]
        if held["epoch"] and snapshot["configured"] == self._config.mixture:
            for name in held["shares"]:
                if name not in self._searches and name in self._sections:
                    self.add_source(name, self._sections[name])
            if held["shares"].keys() <= self._searches.keys():
                self.mixture.set_weights(held["shares"], epoch=int(held["epoch"]))
        self.mixture.restore(held)
        then, now = snapshot.get("configured_windows", {}), self._configured_windows
        live = {name: Window(**window) for name, window in snapshot.get("windows", {}).items()}
        unchanged = [name for name in self._sections if then.get(name) == now.get(name)]
        self._set_windows({name: live.get(name) for name in unchanged})
        for key, (index, difficulty) in ((k, v) for k, v in notes.items() if k.startswith(_OBSERVED_KEY)):
            self.observations.note(key.removeprefix(_OBSERVED_KEY), int(index), float(difficulty))


def group_seed(run_seed: int, source: str, index: int) -> int:
    """A seed below 2⁴⁸ for one group, independent of every other group's."""
    digest = hashlib.blake2b(f"{run_seed}/{source}/{index}".encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big")
