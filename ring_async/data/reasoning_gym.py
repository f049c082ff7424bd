"""Prompts of any reasoning-gym task: endless, numbered, with a held-out split that training can never meet.

Owns: the numbering and the split. Does not own scoring (`verifiers.rules.logic.verifier`), or the tasks.

A question belongs to a split by a hash of its text, so the splits are disjoint in every process without keeping a list.
Prompt `index` is the first of its own run of entries whose question falls into the wanted split.

Entry n of a task is made from seed n. Most tasks make entries one by one, and one data set of 2³² entries holds them
all. Some prepare as many entries as they are asked for (2³² would take hours, or are refused): their entries come from
small data sets, one for each block of numbers.
"""

from __future__ import annotations

import json
import random
from functools import lru_cache
from typing import Any

from ring_async.data.split import is_held_out
from ring_async.errors import ConfigError
from ring_async.types import Prompt

_ATTEMPTS = 256
"""Entries one index may draw on: (7/8)^256 < 1e-14 that none of them is held out."""
_NUM_ENTRIES = 1 << 32
_PREPARING_TASKS = frozenset({"acre", "gsm_symbolic", "list_functions", "word_ladder"})
"""Tasks whose data sets prepare all their entries when they are made, or limit how many there are."""
_SHARED_RANDOM_TASKS = frozenset({"list_functions"})
"""Tasks that draw from Python's shared random numbers instead of their entry's seed."""
_BLOCK_ENTRIES = 4 * _ATTEMPTS
"""Entries of one small data set: acre takes a fifth of a second for them, the others less."""


class ReasoningGymSource:
    """Prompts of one reasoning-gym task under given settings.

    Args:
        name: of the source, in configuration and metrics.
        task: reasoning-gym's name, e.g. `chain_sum`.
        options: the task's own settings, without size and seed, which follow from the prompt's number.

    Raises:
        ConfigError: there is no such task, or it does not know a setting.
    """

    def __init__(self, name: str, task: str, options: dict[str, Any] | None = None) -> None:
        self.name = name
        self.task = task
        self.options = dict(options or {})
        self._num_block_entries = _BLOCK_ENTRIES if task in _PREPARING_TASKS else _NUM_ENTRIES
        self._block = lru_cache(maxsize=2)(self._make_block)
        self._block(0)

    @property
    def num_prompts(self) -> None:
        return None

    def prompt(self, index: int) -> Prompt:
        return self._draw(index, held_out=False)

    def held_out(self, index: int) -> Prompt:
        return self._draw(index, held_out=True)

    def _draw(self, index: int, *, held_out: bool) -> Prompt:
        if not 0 <= index < _NUM_ENTRIES // _ATTEMPTS:
            raise IndexError(f"source {self.name}: no prompt {index}; there are {_NUM_ENTRIES // _ATTEMPTS}")
        for attempt in range(_ATTEMPTS):
            entry = self._entry(index * _ATTEMPTS + attempt)
            if entry is not None and is_held_out(entry["question"]) is held_out:
                split = "held-out" if held_out else "train"
                metadata = {"task": self.task, "options": self.options, "entry": _plain(entry)}
                return Prompt(f"{self.name}/{split}/{index}", self.name, entry["question"], metadata)
        raise ConfigError(
            f"sources.{self.name}: task {self.task} asks too few different questions under these options to set some "
            f"aside for evaluation; widen sources.{self.name}.options"
        )

    def _entry(self, number: int) -> dict[str, Any] | None:
        """The entry of this number; None: the task finds none for its seed."""
        block, place = divmod(number, self._num_block_entries)
        try:
            if self.task not in _SHARED_RANDOM_TASKS:
                return self._block(block)[place]
            held = random.getstate()
            random.seed(number)
            try:
                return self._block(block)[place]
            finally:
                random.setstate(held)
        except IndexError:  # word_ladder's way to say so; its data set counts as ended from then on, so it is made anew
            self._block.cache_clear()
            return None

    def _make_block(self, block: int) -> Any:
        return _make_dataset(
            self.name, self.task, self.options, block * self._num_block_entries, self._num_block_entries
        )


def _make_dataset(name: str, task: str, options: dict[str, Any], seed: int, size: int) -> Any:
    from reasoning_gym import create_dataset  # imported late: the import takes seconds, and few processes need it
    from reasoning_gym.factory import DATASETS

    where = f"sources.{name}"
    if task not in DATASETS:
        raise ConfigError(f"{where}.task: reasoning-gym has no task {task!r}; it has {', '.join(sorted(DATASETS))}")
    if task == "composite":
        raise ConfigError(
            f"{where}.task: composite is made of other tasks; give each a source, and weights in `mixture`"
        )
    owned = {"seed", "size"} & options.keys()
    if owned:
        raise ConfigError(f"{where}.options: remove {' and '.join(sorted(owned))}; prompts are numbered by index")
    try:
        return create_dataset(task, seed=seed, size=size, **options)
    except Exception as error:  # each task complains in its own way
        raise ConfigError(f"{where}.options: {task}: {error}") from error


def _plain(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry as plain JSON data, which travels with the prompt to its verifier."""
    return json.loads(json.dumps(entry, default=_as_plain))


def _as_plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    return sorted(value, key=str) if isinstance(value, set | frozenset) else str(value)
