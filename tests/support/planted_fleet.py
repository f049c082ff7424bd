"""A fleet in which a fault is planted: the real actors under a virtual clock, engines, training and weights scripted.

Owns: `Plan`, a run and what is planted in it, and the fleet that carries it out. Does not own which runs are recorded
(`planted_faults`), nor deeds that change a fleet at work (`planted_deeds`).
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ring_async.actors.base import Actor, ActorContext
from ring_async.actors.controller.controller import Controller
from ring_async.actors.learner import Learner
from ring_async.clock import monotonic_s
from ring_async.core.roster import ActorSpec, Role
from ring_async.engines.base import GenerationRequest
from ring_async.testing.builders import make_config
from ring_async.testing.one_process import OneProcessFleet, PacedLearner
from ring_async.testing.scripted_engine import Script, ScriptedEngine, ScriptedResponse, seeded_script
from ring_async.testing.scripted_training import ScriptedTrainEngine
from ring_async.training.base import StepReport

PLANTED_S = 200.0
"""When a run's fault begins."""


ACTOR: contextvars.ContextVar[str] = contextvars.ContextVar("ACTOR", default="")
"""The id of the actor whose task this is."""
SLOW_ACTORS: dict[str, float] = {}
"""Seconds that a verdict takes longer in an actor."""


COIN = f"{Path(__file__).with_name('planted_coin.py')}:Coin"


# -- parts in which something is planted


class ReportingEngine(ScriptedTrainEngine):
    """A scripted train engine with the statistics that rules read; `planted` changes them."""

    def __init__(self, planted: Callable[[], dict[str, Any]]) -> None:
        super().__init__()
        self._planted = planted

    def train_batch(self, batch: Any, share: Any = None) -> StepReport:
        report = super().train_batch(batch, share)
        noise = np.random.default_rng(batch.plan.plan_number).normal()
        healthy = {
            "effective_sample_size": 0.93 + 0.01 * noise,
            "behavior_ratio_masked": 0.01,
            "entropy": 0.8 + 0.02 * noise,
            "nonfinite_tokens": 0,
            "staleness_mean": float(np.mean([sequence.staleness for sequence in batch.plan.sequences])),
        }
        return StepReport(
            report.loss_tokens, report.num_optimizer_steps, report.seconds, report.metrics | healthy | self._planted()
        )


class PlantedLearner(PacedLearner):
    """A learner whose versions and checkpoints take time. `step_s` is in its lines, too."""

    def __init__(self, *arguments: Any, fleet: PlantedFleet) -> None:
        super().__init__(*arguments, step_s=fleet.plan.train_s)
        self._fleet = fleet

    async def on_compute(self, function: Callable[..., Any], *args: Any) -> Any:
        name = getattr(function, "__name__", "")
        if name == "snapshot" and self._fleet.is_planted:
            await asyncio.sleep(self._fleet.plan.publish_s)
        return await super().on_compute(function, *args)

    async def _written_when_there_is_room(self, *arguments: Any) -> Path:
        if self._fleet.is_planted:
            await asyncio.sleep(self._fleet.plan.checkpoint_s)
        return await super()._written_when_there_is_room(*arguments)

    async def _step(self, batch: Any) -> StepReport:
        self._pace_s = self._fleet.pace_s
        report = await super()._step(batch)
        return StepReport(report.loss_tokens, report.num_optimizer_steps, self._pace_s, report.metrics)


@dataclass
class Plan:
    """A run, and what is planted in it after `PLANTED_S`."""

    cause: str = ""
    """Of the finding that must be said first; empty: nothing may be said."""
    settings: dict[str, Any] = field(default_factory=dict)
    deed: Callable[[PlantedFleet], Coroutine[Any, Any, None]] | None = None
    train_s: float = 5.0
    later_train_s: float | None = None
    publish_s: float = 0.05
    checkpoint_s: float = 0.1
    metrics: dict[str, Any] = field(default_factory=dict)
    mean_tokens: float = 48.0
    later_tokens: float | None = None
    token_s: dict[str, float] = field(default_factory=dict)
    """Seconds a token, by rollout; default 0.05."""
    seed: int = 0
    also: str = ""
    """A second cause that must be said."""
    who: str = ""
    """The actor or source that must be named."""

    @property
    def is_from_the_start(self) -> bool:
        """Whether the fault lies in the settings, so that the run never was healthy."""
        later = self.metrics or self.later_tokens or self.later_train_s
        return self.deed is None and not later and self.cause not in LATER

    @property
    def causes(self) -> tuple[str, ...]:
        return tuple(cause for cause in (self.cause, self.also) if cause)


LATER = {"slow_channel", "slow_checkpoint", "failing_verifier"}


class PlantedFleet(OneProcessFleet):
    """A fleet in which a plan is carried out."""

    def __init__(self, plan: Plan, runs: Path) -> None:
        shared: dict[str, Any] = {
            "seed": plan.seed,
            "stop__policy_versions": 100_000,
            "budget__token_budget": 2048,
            "learner__token_capacity": 512,
            "rollout__num": 2,
            "rollout__group_size": 4,
            "rollout__max_tokens": 400,
            "rollout__max_running_requests": 20,
            "reward__num": 2,
            "reward__credits": 4,
            "mixture": {"sums": 1.0, "letters": 1.0},
            "sources": {name: {"task": "chain_sum", "verifier": "exact"} for name in ("sums", "letters")},
            "verifiers": {"exact": {"use": COIN}},
            "replay__map_size_bytes": 256 << 20,
            "checkpoint__every_versions": 20,
            "monitoring__heartbeat_s": 4.0,
            "model__path": str(_roomy_model(runs)),
        }
        self.plan = plan
        self.began_s = 0.0
        super().__init__(
            make_config(**(shared | plan.settings)), runs, script=self._respond, token_s=0.05,
            make_train_engine=lambda: ReportingEngine(lambda: plan.metrics if self.is_planted else {}),
        )  # fmt: skip
        self._scripts: dict[float, Script] = {}

    @property
    def is_planted(self) -> bool:
        return monotonic_s() - self.began_s >= PLANTED_S

    @property
    def pace_s(self) -> float:
        """Seconds that the learner takes for a batch now."""
        later = self.plan.later_train_s if self.is_planted else None
        return later or self.plan.train_s

    def _start(self, spec: ActorSpec) -> None:
        ACTOR.set(spec.actor_id)  # its tasks inherit it
        super()._start(spec)

    def _respond(self, request: GenerationRequest) -> ScriptedResponse:
        later = self.plan.later_tokens if self.is_planted else None
        mean = later or self.plan.mean_tokens
        return self._scripts.setdefault(mean, seeded_script(mean_tokens=mean))(request)

    def _new_engine(self, actor_id: str) -> ScriptedEngine:
        engine = super()._new_engine(actor_id)
        engine._token_s = self.plan.token_s.get(actor_id, 0.05)
        return engine

    def _make(self, context: ActorContext) -> Actor | Controller:
        if context.spec.role == Role.LEARNER:
            learner: Learner = PlantedLearner(context, self._new_train_engine, self.weights, fleet=self)
            return learner
        return super()._make(context)


def _roomy_model(runs: Path) -> Path:
    """A model's folder that allows responses of every length planted here; nothing loads the model."""
    folder = runs / "model"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"max_position_embeddings": 32768}')
    return folder
