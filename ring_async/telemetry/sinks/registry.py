"""Which sinks a run has, by what its configuration asks for."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ring_async.telemetry.sinks.base import Sink
from ring_async.telemetry.sinks.tensorboard import TensorBoardSink
from ring_async.telemetry.sinks.wandb import WandbSink


def sink_makers(
    folder: Path, run: str, *, tensorboard: bool, wandb_project: str, config: dict[str, Any]
) -> dict[str, Callable[[], Sink]]:
    """What opens each sink that is asked for, by name.

    Args:
        folder: of the run.
        run: its name.
        tensorboard: whether to write for TensorBoard.
        wandb_project: of Weights & Biases; empty: none.
        config: of the run, as plain data.
    """
    makers: dict[str, Callable[[], Sink]] = {}
    if tensorboard:
        makers["tensorboard"] = functools.partial(TensorBoardSink, folder / "tensorboard")
    if wandb_project:
        makers["wandb"] = functools.partial(WandbSink, wandb_project, run, folder / "wandb", config)
    return makers


def sink_problems(*, tensorboard: bool, wandb_project: str) -> Iterator[str]:
    """The packages that are missing, one line each."""
    wanted = {"tensorboard": tensorboard, "wandb": bool(wandb_project)}
    for name, is_wanted in wanted.items():
        if is_wanted and importlib.util.find_spec(name) is None:
            yield f"monitoring.{name}: the package {name} is missing: pip install 'ring-async[{name}]', or leave it out"
