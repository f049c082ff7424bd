"""Prompts of any reasoning-gym task: endless, numbered, with a held-out split that training can never meet.

Owns: the numbering and the split. Does not own scoring (`verifiers.rules.logic.verifier`), or the tasks.

A question belongs to a split by a hash of its text, so the splits are disjoint in every process without keeping a list.
Prompt `index` is the first of its own run of entries whose question falls into the wanted split.
"""

from __future__ import annotations

import json
from typing import Any

from ring_async.data.split import is_held_out
from ring_async.errors import ConfigError
from ring_async.types import Prompt

_ATTEMPTS = 256
"""Entries one index may draw on: (7/8)^256 < 1e-14 that none of them is held out."""
_NUM_ENTRIES = 1 << 32


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
        self._dataset = _make_dataset(name, task, self.options)

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
            entry = self._dataset[index * _ATTEMPTS + attempt]
            if is_held_out(entry["question"]) is held_out:
                split = "held-out" if held_out else "train"
                metadata = {"task": self.task, "options": self.options, "entry": _plain(entry)}
                return Prompt(f"{self.name}/{split}/{index}", self.name, entry["question"], metadata)
        raise ConfigError(
            f"sources.{self.name}: task {self.task} asks too few different questions under these options to set some "
            f"aside for evaluation; widen sources.{self.name}.options"
        )


def _make_dataset(name: str, task: str, options: dict[str, Any]) -> Any:
    from reasoning_gym import create_dataset  # imported late: the import takes seconds, and few processes need it
    from reasoning_gym.factory import DATASETS

    where = f"sources.{name}"
    if task not in DATASETS:
        raise ConfigError(f"{where}.task: reasoning-gym has no task {task!r}; it has {', '.join(sorted(DATASETS))}")
    owned = {"seed", "size"} & options.keys()
    if owned:
        raise ConfigError(f"{where}.options: remove {' and '.join(sorted(owned))}; prompts are numbered by index")
    try:
        return create_dataset(task, seed=0, size=_NUM_ENTRIES, **options)
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"{where}.options: {task}: {error}") from error


def _plain(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry as plain JSON data, which travels with the prompt to its verifier."""
    return json.loads(json.dumps(entry, default=_as_plain))


def _as_plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    return sorted(value, key=str) if isinstance(value, set | frozenset) else str(value)
