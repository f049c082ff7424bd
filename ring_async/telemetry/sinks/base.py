"""The protocol of services that log a run's figures, and what each is given.

Owns: the protocol, and the flat figures of a step and an evaluation. Does not own the services (`tensorboard`,
`wandb`), nor when they are called (`feed`).
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import msgspec

from ring_async.records.steps import EvaluationRecord, StepRecord


class Sink(Protocol):
    """Takes figures by name. Called from one thread; may block and may raise: `feed` copes with both."""

    def log(self, figures: dict[str, float], *, policy_version: int, time_s: float) -> None:
        """Log the figures of one version; `time_s` is in seconds since the epoch."""
        ...

    def close(self) -> None:
        """Write what is pending, and release everything."""
        ...


_NOT_FIGURES = {"policy_version", "incarnation", "schema_version", "time"}


def step_figures(step: StepRecord) -> dict[str, float]:
    """A step's figures by name; those of a table by `name/key`: `reward_by_source/sums`."""
    return _flat(msgspec.to_builtins(step), "")


def evaluation_figures(evaluation: EvaluationRecord) -> dict[str, float]:
    """An evaluation's figures: `evaluation/pass_at_1`, `evaluation/by_source/sums/pass_at_1`."""
    return _flat(msgspec.to_builtins(evaluation), "evaluation/")


def _flat(plain: dict[str, Any], prefix: str) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, value in plain.items():
        if isinstance(value, dict):
            figures |= _flat(value, prefix if name == "more" else f"{prefix}{name}/")
        elif isinstance(value, bool | int | float) and name not in _NOT_FIGURES and math.isfinite(value):
            figures[f"{prefix}{name}"] = float(value)
    return figures
