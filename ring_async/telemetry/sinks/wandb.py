"""Figures for Weights & Biases: online with a login, or on this disk with WANDB_MODE=offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class WandbSink:
    """One run of Weights & Biases; a resumed run goes on under the same id. Needs the package wandb (extra `wandb`).

    Args:
        project: of Weights & Biases.
        run: the run's name, also its id there.
        folder: for its files.
        config: the run's configuration, shown beside the curves. It holds no secrets: tokens are in files or variables.
    """

    def __init__(self, project: str, run: str, folder: Path, config: dict[str, Any]) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(console="off", silent=True, disable_git=True, x_disable_stats=True)
        self._run = wandb.init(
            project=project, id=run, name=run, dir=str(folder), config=config, resume="allow", settings=settings
        )

    def log(self, figures: dict[str, float], *, policy_version: int, time_s: float) -> None:
        """See `Sink.log`. The version is a figure too, since evaluations come late and steps may be taken again."""
        self._run.log(figures | {"policy_version": policy_version, "time": time_s})

    def close(self) -> None:
        """See `Sink.close`. The service process of wandb ends too: nothing else here uses it."""
        import wandb

        self._run.finish()
        wandb.teardown()
