"""The evaluator: it scores published versions on held-out prompts while training goes on.

    learner ──weights──▶ [every n versions: stage, swap, answer, judge] ──VersionEvaluated──▶ controller
                               an engine and verifiers of its own

Owns: an engine that serves nobody else, and one evaluation at a time. Nobody waits for the evaluator: it asks for no
reservation,
holds no credit and acknowledges nothing. Does not own how problems are answered and judged (`evaluation`), nor which
versions are due (`core.evaluation_schedule`).
Invariants: an evaluation is of one version, for weights are swapped between evaluations only; of the versions that
become due during an evaluation only the newest is evaluated; an evaluation that the actor's death interrupts leaves no
figures.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from ring_async.actors.base import Actor, ActorContext
from ring_async.actors.evaluation import evaluate
from ring_async.actors.evaluation_results import Evaluation, figures_of
from ring_async.actors.held_out import held_out_problems, share_problems
from ring_async.actors.verifier_files import bring_files
from ring_async.actors.waits import finish_or_cancel
from ring_async.actors.weight_follower import WeightFollower
from ring_async.clock import monotonic_s
from ring_async.core.evaluation_schedule import EvaluationSchedule
from ring_async.core.fleet.states import WaitCause
from ring_async.core.roster import Role
from ring_async.data.base import PromptSource
from ring_async.data.prompt_room import PromptRoom
from ring_async.engines.base import RolloutEngine
from ring_async.models import resolve_model_path
from ring_async.records.figures import EvaluatorFigures
from ring_async.telemetry import metrics
from ring_async.transport.messages.base import Done, Message
from ring_async.transport.messages.fleet import Registered
from ring_async.transport.messages.versions import UseWeights, VersionEvaluated
from ring_async.transport.weights.base import WeightReceiver
from ring_async.types import PolicyVersion, Prompt
from ring_async.verifiers.base import Verifier
from ring_async.verifiers.registry import make_verifier

log = logging.getLogger(__name__)


class Evaluator(Actor):
    """Evaluates versions, one at a time. Args: `make_sources` makes the mixture's prompt sources, by name; the others
    are as for `Rollout`.
    """

    role: ClassVar[Role] = Role.EVALUATOR

    def __init__(
        self,
        context: ActorContext,
        engine: RolloutEngine,
        receiver: WeightReceiver,
        make_tokenizer: Callable[[], Any],
        make_sources: Callable[[], Mapping[str, PromptSource]],
    ) -> None:
        super().__init__(context)
        self.engine = engine
        self._make_tokenizer = make_tokenizer
        self._make_sources = make_sources
        self._tokenizer: Any = None
        self._problems: list[Prompt] = []
        self._verifiers: dict[str, Verifier] = {}
        self._schedule = EvaluationSchedule(self.config.evaluation.every_versions)
        self._weights = WeightFollower(
            engine, receiver, on_update="abort", tracer=self.tracer, is_wanted=self._schedule.is_due
        )
        self._num_answered = 0

    async def open(self) -> None:
        self._tokenizer = await asyncio.to_thread(self._make_tokenizer)
        self._problems = await asyncio.to_thread(self._choose_problems)
        for name in sorted({self.config.sources[problem.source].verifier for problem in self._problems}):
            section = self.config.verifiers[name]
            await bring_files(self.controller, self.context.run_dir.verifiers, section.use, section.options)
            self._verifiers[name] = await asyncio.to_thread(make_verifier, name, section)
        await self.engine.start()

    async def joined(self, registered: Registered) -> None:
        if registered.weights is not None:
            self._weights.hear_of(registered.weights)

    async def close(self) -> None:
        await self.engine.close()
        self._weights.close()
        for verifier in self._verifiers.values():
            verifier.close()

    def parts(self) -> dict[str, object]:
        return super().parts() | {"engine": self.engine, "receiver": self._weights.receiver}

    def counters(self) -> EvaluatorFigures:
        version = self.engine.policy_version
        return EvaluatorFigures(
            policy_version=version.number if version else None,
            answered=self._num_answered,
            answers_wanted=len(self._problems) * (1 + self.config.evaluation.num_samples),
        )

    async def on_command(self, message: Message) -> Message:
        if isinstance(message, UseWeights):
            self._weights.hear_of(message.announcement)
            return Done()
        return await super().on_command(message)

    async def main(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            evaluating = tasks.create_task(self._evaluate_versions(), name="evaluate")
            await self.stopping.wait()
            self._weights.wake()
            await finish_or_cancel([evaluating], self.stop_deadline_s - monotonic_s())

    def _choose_problems(self) -> list[Prompt]:
        mixture = self.config.mixture
        sources = {name: source for name, source in self._make_sources().items() if mixture.get(name, 0) > 0}
        key = "evaluation.num_problems"
        shares = share_problems(self.config.evaluation.num_problems, sources)
        refusal = PromptRoom(resolve_model_path(self.config.model.path), self.config.rollout.max_tokens).refusal
        return [
            problem
            for name, source in sources.items()
            for problem in held_out_problems(name, source, shares[name], key, refusal)
        ]

    async def _evaluate_versions(self) -> None:
        """Consumes announcements / produces evaluations / waits for a due version / freed by the learner, the end."""
        while True:
            if not self._weights.is_due:
                if self.stopping.is_set():
                    return
                # No deadline: the run may be paused for days, and nobody waits for the evaluator.
                whom = f"version {self._schedule.next_number} from learner-0"
                async with self.waits.on(whom, cause=WaitCause.WEIGHTS):
                    await self._weights.until_due()
                continue
            taken_up = await self._weights.take_up()
            if taken_up is None:
                continue
            began_s = monotonic_s()
            with self.tracer.span("evaluate", version=str(taken_up.version)):
                evaluation = await self._evaluate()
            await self._hand_in(taken_up.version, evaluation, monotonic_s() - began_s)

    async def _evaluate(self) -> Evaluation:
        wanted = self.config.evaluation
        self._num_answered = 0
        return await evaluate(
            self.engine,
            self._tokenizer,
            self._problems,
            {name: self._verifiers[self.config.sources[name].verifier] for name in self.config.mixture},
            max_tokens=self.config.rollout.max_tokens,
            seed=self.config.evaluation.seed,
            temperatures=(0.0, wanted.temperature) if wanted.num_samples else (0.0,),
            num_samples=wanted.num_samples,
            verdict_timeout_s=self.config.reward.timeout_s,
            chat_template_options=self.config.model.chat_template_options,
            on_answer=self._count_answer,
        )

    def _count_answer(self) -> None:
        self._num_answered += 1

    async def _hand_in(self, version: PolicyVersion, evaluation: Evaluation, seconds: float) -> None:
        figures = figures_of(evaluation) | {"seconds": seconds}
        metrics.evaluator_policy_version.set(version.number)
        metrics.evaluator_evaluation_seconds.observe(seconds)
        for row in evaluation.rows():
            sampling = "greedy" if row.temperature == 0 else "sampled"
            metrics.evaluator_solved.labels(source=row.source, sampling=sampling).set(row.accuracy)
            metrics.evaluator_reward_mean.labels(source=row.source, sampling=sampling).set(row.reward_mean)
        metrics.evaluator_failures.inc(figures["num_failed"])
        await self.ask_controller(VersionEvaluated(version, figures))
