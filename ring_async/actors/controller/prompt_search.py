"""The search for a source's next prompt within its window.

    cursor ──prompt──▶ within the window? ──yes──▶ issued under this index
                └──────────── no: passed over, the next index

Owns: one source, its window, and the limits of one search. Does not own the cursor, or what difficulty is
(`core.work.difficulty`).
Invariants: without a window the prompt at the cursor is the next one; one call makes at most `MAX_LOOKS` prompts and
ends after `MAX_LOOK_S`, so the controller's loop goes on; a search for a window that no prompt satisfies ends.
"""

from __future__ import annotations

from collections.abc import Iterator

from ring_async.clock import monotonic_s
from ring_async.config.schema import DifficultyWindow
from ring_async.core.work.difficulty import OBSERVED, Observations, Window, carried, carried_numbers
from ring_async.data.base import PromptSource
from ring_async.errors import ConfigError, RingAsyncError
from ring_async.telemetry import metrics
from ring_async.types import Prompt

MAX_LOOKS = 1024
MAX_LOOK_S = 0.02
MAX_IN_VAIN = 65_536
"""Prompts of an endless source that are passed over one after another before its window counts as empty."""
PROBE_LOOKS = 4096
PROBE_S = 5.0
"""How far ahead a new window is checked on an endless source, in prompts and in time."""


def window_of(section: DifficultyWindow) -> Window:
    """The difficulty window that a configuration section describes."""
    return Window(section.by, section.low, section.high)


def check_window(source: PromptSource, section: DifficultyWindow) -> None:
    """Refuse a window that no prompt of a source satisfies.

    Raises:
        ConfigError: see `PromptSearch.probe`.
    """
    for _ in PromptSearch(source, Observations()).probe(window_of(section), 0):
        pass


class PromptFailedError(RingAsyncError):
    """A source cannot make the prompt at `index`."""

    def __init__(self, index: int, error: Exception) -> None:
        super().__init__(f"prompt {index} cannot be made: {type(error).__name__}: {error}")
        self.index = index


class PromptSearch:
    """See the module. `num_passed`: prompts passed over since the process began."""

    def __init__(self, source: PromptSource, observations: Observations, window: Window | None = None) -> None:
        self.source = source
        self._observations = observations
        self.num_passed = 0
        self.set_window(window)

    def set_window(self, window: Window | None) -> None:
        """Set the window for the searches to come; None: every prompt is issued."""
        self.window = window
        self.num_in_vain = 0
        """Prompts passed over since the last one within the window."""
        self._seen: tuple[int, Prompt] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether so many prompts in a row were passed over that the window counts as empty."""
        return self.num_in_vain >= (self.source.num_prompts or MAX_IN_VAIN)

    def find(self, index: int) -> tuple[int, Prompt | None]:
        """The next prompt to issue from `index` on, with its index; or None, with the index to go on from.

        Raises:
            PromptFailedError: the source cannot make one of the prompts that were looked at.
        """
        if self.window is None:
            return index, self._prompt(index)
        num_passed = self.num_passed
        # an observed window is never empty for good: observations expire, and their prompts become unknown again
        if self.is_empty and self.window.by != OBSERVED:
            return index, None
        try:
            return self._search(index, self.window)
        finally:
            metrics.controller_passed_prompts.labels(source=self.source.name).inc(self.num_passed - num_passed)

    def _search(self, index: int, window: Window) -> tuple[int, Prompt | None]:
        until_s = monotonic_s() + MAX_LOOK_S
        for _ in range(MAX_LOOKS):
            prompt = self._prompt(index)
            if window.admits(self._difficulty(window, prompt, index)):
                self.num_in_vain = 0
                return index, prompt
            index += 1
            self.num_passed += 1
            self.num_in_vain += 1
            if self.num_in_vain == (self.source.num_prompts or MAX_IN_VAIN) or monotonic_s() > until_s:
                break
        return index, None

    def probe(self, window: Window, index: int) -> Iterator[None]:
        """Check, a slice at a time, that some prompt from `index` on satisfies a window.

        Raises:
            ConfigError: no prompt of a finite source, or none near `index` in an endless one, does; or the window
                cannot be applied to this source.
        """
        where = f"difficulty.{self.source.name}"
        num_prompts = self.source.num_prompts
        if window.by == OBSERVED:
            if num_prompts is None:
                raise ConfigError(
                    f"{where}: its prompts never come again, so what was observed of one says nothing; "
                    f"{self._advice(index)}"
                )
            return
        began_s = slice_s = monotonic_s()
        found: list[float] = []
        num_looks = 0
        for place in range(index, index + (num_prompts or PROBE_LOOKS)):
            value = carried(self.source.prompt(place), window.by)
            num_looks += 1
            if value is not None and window.admits(value):
                return
            found += [] if value is None else [value]
            if monotonic_s() - slice_s > MAX_LOOK_S:
                yield
                slice_s = monotonic_s()
            if num_prompts is None and monotonic_s() - began_s > PROBE_S:
                break
        if not found:
            raise ConfigError(f"{where}: its prompts carry no number called {window.by!r}; {self._advice(index)}")
        raise ConfigError(
            f"{where}: none of {'its' if num_prompts else 'the next'} {num_looks:,} prompts lies within {window}; "
            f"theirs go from {min(found):g} to {max(found):g}"
        )

    def _prompt(self, index: int) -> Prompt:
        """The prompt at an index, kept for the next call, which mostly asks for the same one."""
        if self._seen is None or self._seen[0] != index:
            try:
                self._seen = (index, self.source.prompt(index))
            except Exception as error:  # a source's library complains about a row with errors of its own
                raise PromptFailedError(index, error) from error
        return self._seen[1]

    def _difficulty(self, window: Window, prompt: Prompt, index: int) -> float | None:
        if window.by != OBSERVED:
            return carried(prompt, window.by)
        return self._observations.difficulty(prompt.prompt_id, index, self.source.num_prompts or 1)

    def _advice(self, index: int) -> str:
        names = sorted(carried_numbers(self.source.prompt(index)))
        return f"numbers they carry are {', '.join(names)}" if names else "they carry no number at all"
