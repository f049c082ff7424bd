"""Runs in which something is planted, recorded for the rules of `core.explain`: the real actors under a virtual clock.

    python -m tests.support.planted_faults            # writes tests/unit/core/explain/recordings/*.json.gz again
    python -m tests.support.planted_faults slow_verifier

The fleet is the real one (controller, replay, rewards, rollouts, learner, evaluator); engines, training and weights are
scripted. A recording is the `History` that the controller had when the run was stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
import sys
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import numpy as np

from ring_async.actors.base import Actor, ActorContext
from ring_async.actors.controller import controller as controller_module
from ring_async.actors.controller import run_history, run_log
from ring_async.actors.controller.controller import Controller
from ring_async.actors.learner import Learner
from ring_async.actors.replay import reports
from ring_async.clock import monotonic_s
from ring_async.core.explain.history import History
from ring_async.core.roster import Role
from ring_async.engines.base import GenerationRequest
from ring_async.errors import StorageError
from ring_async.testing.builders import make_config, stable_seed
from ring_async.testing.one_process import OneProcessFleet, PacedLearner
from ring_async.testing.scripted_engine import Script, ScriptedEngine, ScriptedResponse, seeded_script
from ring_async.testing.scripted_training import ScriptedTrainEngine
from ring_async.testing.scripted_verifier import ScriptedVerifier
from ring_async.testing.virtual_clock import DeadlockError, run_virtual
from ring_async.training.base import StepReport
from ring_async.types import Prompt
from ring_async.verifiers.base import Response

RECORDINGS = Path(__file__).parents[1] / "unit" / "core" / "explain" / "recordings"
BEGAN = 1_764_061_200.0
"""What the wall clock shows when a recorded run begins."""
PLANTED_S, END_S = 200.0, 500.0
SAMPLE_S = 10.0


# -- verifiers by path


class Coin(ScriptedVerifier):
    """Solved with probability `solved`, whatever the response. Args: `delay_s` of a verdict; failing sources fail."""

    def __init__(
        self, delay_s: float = 0.4, solved: float = 0.5, never: str = "", broken: str = "", after_s: float = 0.0
    ) -> None:
        def reward(prompt: Prompt, response: Response) -> float:
            if prompt.source == never:
                return 0.0
            drawn = stable_seed(response.text, prompt.prompt_id) % 1000
            return float(drawn < 1000 * solved)

        super().__init__(reward, delay_s=delay_s)
        self._broken = broken
        self._after_s = after_s

    async def score(self, prompt: Prompt, response: Response) -> Any:
        if prompt.source == self._broken and monotonic_s() >= self._after_s:
            self._failures = ["timeout"]
        return await super().score(prompt, response)


COIN = f"{__file__}:Coin"


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
        if name == "save" and self._fleet.is_planted:
            await asyncio.sleep(self._fleet.plan.checkpoint_s)
        return await super().on_compute(function, *args)

    async def _step(self, batch: Any) -> StepReport:
        report = await super()._step(batch)
        return StepReport(report.loss_tokens, report.num_optimizer_steps, self._pace_s, report.metrics)


@dataclass
class Plan:
    """A run, and what is planted in it after `PLANTED_S`."""

    cause: str = ""
    """Of the finding that must be said; empty: nothing may be said."""
    settings: dict[str, Any] = field(default_factory=dict)
    deed: Callable[[PlantedFleet], Coroutine[Any, Any, None]] | None = None
    train_s: float = 5.0
    publish_s: float = 0.05
    checkpoint_s: float = 0.1
    metrics: dict[str, Any] = field(default_factory=dict)
    mean_tokens: float = 48.0
    later_tokens: float | None = None
    token_s: dict[str, float] = field(default_factory=dict)
    """Seconds a token, by rollout; default 0.05."""
    seed: int = 0

    @property
    def is_from_the_start(self) -> bool:
        """Whether the fault lies in the settings, so that the run never was healthy."""
        return self.deed is None and not self.metrics and self.later_tokens is None and self.cause not in LATER


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


# -- deeds


async def _swap(fleet: PlantedFleet, **options: Any) -> None:
    fleet.controller.changes.swap_verifier("exact", COIN, options, author="ada")


def swap(**options: Any) -> Callable[[PlantedFleet], Coroutine[Any, Any, None]]:
    return lambda fleet: _swap(fleet, **options)


async def kill_for_good(fleet: PlantedFleet, actor_id: str = "rollout-1") -> None:
    """The actor dies, and its successor never comes up."""
    make = fleet._make

    def never(context: ActorContext) -> Actor | Controller:
        actor = make(context)
        if context.spec.actor_id == actor_id:
            actor.open = lambda: asyncio.sleep(1e6)  # type: ignore[method-assign, union-attr]
        return actor

    fleet._make = never  # type: ignore[method-assign]
    fleet.kill(actor_id)


async def kill_again_and_again(fleet: PlantedFleet) -> None:
    for _ in range(4):
        fleet.kill("reward-0")
        await asyncio.sleep(60.0)


async def fill_disk(fleet: PlantedFleet) -> None:
    def full(*_: Any) -> None:
        raise StorageError(
            f"{fleet.run_dir.replay}/replay-0: the replay store cannot be written: No space left on device; 65,536 "
            "bytes needed. No group is admitted until there is space on a writable disk; nothing acknowledged is lost"
        )

    fleet.actors["replay-0"].shard.put = full  # type: ignore[union-attr]


async def cut_weights(fleet: PlantedFleet) -> None:
    """One rollout never stages a version again."""
    fleet.actors["rollout-1"]._weights.take_up = lambda: asyncio.sleep(1e6)  # type: ignore[union-attr]


async def pause(fleet: PlantedFleet) -> None:
    await fleet.controller.pause()


async def slow_commits(fleet: PlantedFleet) -> None:
    replay = fleet.actors["replay-0"]
    on_compute = replay.on_compute  # type: ignore[union-attr]

    async def slowly(function: Callable[..., Any], *args: Any) -> Any:
        if getattr(function, "__name__", "") == "put":
            await asyncio.sleep(25.0)
        return await on_compute(function, *args)

    replay.on_compute = slowly  # type: ignore[union-attr, method-assign]


async def jump_clock(fleet: PlantedFleet) -> None:
    JUMP.append(3600.0)


async def silence(fleet: PlantedFleet) -> None:
    """An actor hangs: its heartbeats stop."""
    fleet.config.monitoring.__dict__["heartbeat_timeout_s"] = 30.0
    actor = fleet.actors["rollout-1"]
    actor._beat = lambda: asyncio.sleep(1e6)  # type: ignore[union-attr]


async def stop_evaluator(fleet: PlantedFleet) -> None:
    fleet.engines["evaluator-0"].generate = lambda request: asyncio.sleep(1e6)  # type: ignore[assignment, method-assign]


async def lengthen(fleet: PlantedFleet) -> None:
    """Responses grow (`later_tokens`), and with the length of the cache each token takes longer."""
    for engine in fleet.engines.values():
        engine._token_s *= 2.0


async def grow_hard(fleet: PlantedFleet) -> None:
    """From here on, every prompt of a source lies outside its window."""
    source = fleet.controller._dispatcher.prompts._searches["letters"].source
    make = source.prompt
    source.prompt = lambda index: msgspec.structs.replace(make(index), metadata={"last_digit": 99})  # type: ignore[method-assign]


JUMP: list[float] = []

PLANS: dict[str, Plan] = {
    # the ten that were named beforehand
    "slow_verifier": Plan("slow_verifier", {"reward__credits": 2}, deed=swap(delay_s=6.0)),
    "dead_rollout": Plan("dead_actor", deed=kill_for_good),
    "small_admission": Plan(
        "small_admission",
        {"replay__max_staleness": 1, "rollout__max_running_requests": 64},
        mean_tokens=96.0,
        train_s=2.0,
    ),
    "full_disk": Plan("full_disk", deed=fill_disk),
    "stale_weights": Plan("stale_weights", deed=cut_weights),
    "no_signal": Plan("no_signal", deed=swap(solved=0.99)),
    "long_responses": Plan("long_responses", mean_tokens=24.0, later_tokens=120.0, train_s=5.5, deed=lengthen),
    "slow_channel": Plan("slow_channel", publish_s=15.0),
    "starving_source": Plan(
        "starving_source", {"difficulty": {"letters": {"by": "last_digit", "low": 0, "high": 9}}}, deed=grow_hard
    ),
    "learner_bound": Plan("learner_bound", train_s=25.0),
    # others
    "dead_reward": Plan("dead_actor", {"reward__num": 1}, deed=lambda fleet: kill_for_good(fleet, "reward-0")),
    "crash_loop": Plan("dead_actor", deed=kill_again_and_again),
    "paused": Plan("paused", deed=pause),
    "nonfinite": Plan("nonfinite", metrics={"nonfinite_tokens": 12}),
    "low_sample_size": Plan("low_sample_size", metrics={"effective_sample_size": 0.2}),
    "masked": Plan("masked", metrics={"behavior_ratio_masked": 0.4}),
    "failing_source": Plan(
        "failing_verifier",
        {
            "sources": {
                "sums": {"task": "chain_sum", "verifier": "exact"},
                "letters": {"task": "chain_sum", "verifier": "odd"},
            },
            "verifiers": {
                "exact": {"use": COIN},
                "odd": {"use": COIN, "options": {"broken": "letters", "after_s": PLANTED_S}},
            },
        },
    ),
    "truncated": Plan("truncated", later_tokens=3000.0, settings={"rollout__max_tokens": 64}, mean_tokens=40.0),
    "slow_checkpoint": Plan("slow_checkpoint", {"checkpoint__every_versions": 5}, checkpoint_s=20.0),
    "imbalance": Plan("imbalance", {"rollout__num": 3}, token_s={"rollout-2": 0.2}),
    "slow_commits": Plan("slow_commits", deed=slow_commits),
    "clock_jump": Plan("clock_jumped", deed=jump_clock),
    "reward_fell": Plan("reward_fell", deed=swap(solved=0.15)),
    "few_rollouts": Plan("generation_bound", {"rollout__num": 1}),
    "evaluator_stuck": Plan("evaluator_stuck", {"evaluation__every_versions": 5}, deed=stop_evaluator),
}

for _seed in range(20):
    PLANS[f"healthy_{_seed:02d}"] = Plan(
        settings={
            "rollout__num": 2 + _seed % 3,
            "rollout__max_running_requests": (20, 14, 11)[_seed % 3],
            "reward__num": 1 + _seed % 2,
            "reward__credits": 8,
            "replay__max_staleness": 3 + _seed % 4,
            "checkpoint__every_versions": 10 + _seed,
            "evaluation__every_versions": 10 * (_seed % 2),
        },
        mean_tokens=36.0 + 2 * _seed,
        train_s=5.0 + 0.05 * _seed,
        seed=_seed,
    )


def record(plan: Plan, runs: Path) -> History:
    """Carry a plan out; returns what the controller remembered at the end."""

    recorded: list[History] = []

    async def both() -> None:
        fleet = PlantedFleet(plan, runs)
        fleet.began_s = monotonic_s()
        running = asyncio.create_task(fleet.run())
        await asyncio.sleep(PLANTED_S)
        if plan.deed is not None:
            doing = asyncio.create_task(plan.deed(fleet))
            doing.add_done_callback(lambda task: task.result())
        done, _ = await asyncio.wait([running], timeout=END_S - PLANTED_S)
        controller = fleet.controller
        if not done:
            controller.history.take()
        recorded.append(controller.history.recent())
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    def wall() -> float:
        return BEGAN + monotonic_s() + sum(JUMP)

    JUMP.clear()
    with (
        mock.patch.object(run_log, "wall_s", wall),
        mock.patch.object(run_history, "wall_s", wall),
        mock.patch.object(run_history, "SAMPLE_S", SAMPLE_S),
        mock.patch.object(controller_module, "TICK_S", 0.5),
        mock.patch.object(reports, "REPORT_INTERVAL_S", 0.5),
        mock.patch.object(run_history, "_disk", return_value=(500 << 30, 1000 << 30)),
        contextlib.suppress(DeadlockError),  # an actor that was planted to hang hangs when it is to leave, too
    ):
        run_virtual(both(), limit_s=20_000.0)
    return recorded[0]


def write(name: str, runs: Path) -> Path:
    """Record one plan anew."""
    history = record(PLANS[name], runs / name)
    RECORDINGS.mkdir(exist_ok=True)
    path = RECORDINGS / f"{name}.json.gz"
    path.write_bytes(gzip.compress(msgspec.json.encode(_rounded(msgspec.to_builtins(history))), mtime=0))
    return path


def read(name: str) -> History:
    """A recording."""
    return msgspec.json.decode(gzip.decompress((RECORDINGS / f"{name}.json.gz").read_bytes()), type=History)


def _rounded(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {key: _rounded(value) for key, value in plain.items()}
    if isinstance(plain, list | tuple):
        return [_rounded(value) for value in plain]
    return round(plain, 3) if isinstance(plain, float) else plain


if __name__ == "__main__":
    from ring_async.core.explain.explain import explain

    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        for wanted in sys.argv[1:] or PLANS:
            written = write(wanted, Path(folder))
            said = [f"{one.cause}: {one.sentence}" for one in explain(read(wanted))]
            planted = PLANS[wanted].cause or "healthy"
            print(wanted, f"({planted}, {written.stat().st_size:,} bytes)", *said, sep="\n    ", flush=True)
