"""Evaluation: a checkpoint answers held-out prompts, and the run's own verifiers judge the answers.

Owns: how problems are answered (greedy, sampled) and judged. Does not own the choice of problems (`held_out`), the
results (`evaluation_results`), when to evaluate, or printing.
Invariant: the same seed, weights and configuration give the same answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ring_async.actors.evaluation_results import Evaluation, ProblemResult
from ring_async.actors.held_out import held_out_problems, share_problems
from ring_async.config.schema import Config
from ring_async.data.prompt_room import PromptRoom
from ring_async.data.registry import make_source
from ring_async.engines.base import GenerationRequest, RolloutEngine
from ring_async.engines.embedded.engine import EmbeddedEngine
from ring_async.engines.tokenizer import decode_response, encode_prompt, load_tokenizer
from ring_async.errors import VerifierError
from ring_async.types import PolicyVersion, Prompt, SamplingParams
from ring_async.verifiers.base import Response, Verifier
from ring_async.verifiers.registry import make_verifier
from ring_async.verifiers.scoring import score_group

GREEDY_AND_SAMPLED = (0.0, 1.0)
_JUDGED_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class _Solver:
    """Has the engine answer one problem, and a verifier judge the answer."""

    engine: RolloutEngine
    tokenizer: Any
    verifiers: Mapping[str, Verifier]
    max_tokens: int
    verdict_timeout_s: float
    chat_template_options: Mapping[str, Any]
    on_answer: Callable[[], None]
    _turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_JUDGED_AT_ONCE))

    async def solve(self, prompt: Prompt, temperature: float, *, sample: int, seed: int) -> ProblemResult:
        generation = await self.engine.generate(
            GenerationRequest(
                request_id=f"eval/{temperature:g}/{sample}/{prompt.prompt_id}",
                prompt_ids=encode_prompt(self.tokenizer, prompt, self.chat_template_options),
                sampling=SamplingParams(temperature=temperature, max_tokens=self.max_tokens),
                seed=seed,
            )
        )
        text = decode_response(self.tokenizer, generation.response_ids)
        num_tokens = int(generation.response_ids.size)
        reward, failure = await self._judge(prompt, Response(text, num_tokens, generation.finish_reason))
        self.on_answer()
        return ProblemResult(
            prompt.source, prompt.prompt_id, temperature, text, num_tokens, generation.finish_reason, reward, failure
        )

    async def _judge(self, prompt: Prompt, response: Response) -> tuple[float | None, str]:
        """The reward of a response and an empty string; or None and the reason why the verifier failed."""
        try:
            async with self._turns:
                (verdict,) = await score_group(
                    self.verifiers[prompt.source], prompt, [response], self.verdict_timeout_s
                )
        except VerifierError as error:
            return None, str(error)
        return verdict.reward, ""


async def evaluate(
    engine: RolloutEngine,
    tokenizer: Any,
    problems: Sequence[Prompt],
    verifiers: Mapping[str, Verifier],
    *,
    max_tokens: int,
    seed: int,
    temperatures: Sequence[float] = GREEDY_AND_SAMPLED,
    num_samples: int = 1,
    verdict_timeout_s: float = 10.0,
    chat_template_options: Mapping[str, Any] | None = None,
    on_answer: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Answer and judge held-out problems at each temperature.

    Args:
        engine: a started engine that holds weights.
        tokenizer: of the model, from `load_tokenizer`.
        problems: from `held_out_problems`.
        verifiers: one per source, under the source's name.
        max_tokens: of one response, the end-of-sequence token included.
        seed: from which the seed of each sampled answer is derived.
        temperatures: 0 is greedy.
        num_samples: k, answers to each problem at temperatures above 0 (at 0 all answers are equal, so one is enough).
        verdict_timeout_s: longest time for one verdict.
        chat_template_options: variables of the model's chat template.
        on_answer: called after each answer was judged.

    Raises:
        PromptRefusedError: the model's chat template refuses a problem.
        ValueError: a problem does not fit into the model.
    """
    solver = _Solver(
        engine, tokenizer, verifiers, max_tokens, verdict_timeout_s, chat_template_options or {}, on_answer
    )
    results: list[ProblemResult] = []
    for temperature in temperatures:
        async with asyncio.TaskGroup() as solving:
            tasks = [
                solving.create_task(
                    solver.solve(
                        prompt, temperature, sample=sample, seed=(seed << 32) + sample * len(problems) + number
                    )
                )
                for number, prompt in enumerate(problems)
                for sample in range(num_samples if temperature else 1)
            ]
        results.extend(task.result() for task in tasks)
    return Evaluation(seed, max_tokens, tuple(results))


async def evaluate_checkpoint(
    config: Config,
    model_path: Path,
    *,
    num_problems: int | None = None,
    seed: int | None = None,
    temperatures: Sequence[float] = GREEDY_AND_SAMPLED,
    on_answer: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Evaluate the model in a Hugging Face directory on the configuration's sources, with its verifiers.

    `num_problems` defaults to `evaluation.checkpoint_problems`, `seed` to `evaluation.seed`. The embedded engine
    generates, whatever the run's rollouts use.

    Raises:
        ConfigError: the model, a source or a verifier cannot be made.
    """
    names = [name for name, weight in config.mixture.items() if weight > 0]
    engine = EmbeddedEngine(
        "evaluation",
        model_path,
        max_running_requests=config.rollout.max_running_requests,
        num_threads=config.rollout.num_threads,
        dtype=config.model.dtype,
        policy_version=PolicyVersion(0, 0),
    )
    made: dict[str, Verifier] = {}
    try:
        await engine.start()
        for name in names:
            verifier = config.sources[name].verifier
            if verifier not in made:
                made[verifier] = await asyncio.to_thread(make_verifier, verifier, config.verifiers[verifier])
        shares = share_problems(num_problems or config.evaluation.checkpoint_problems, names)
        refusal = PromptRoom(model_path, config.rollout.max_tokens).refusal
        return await evaluate(
            engine,
            load_tokenizer(model_path),
            [
                problem
                for name in names
                for problem in held_out_problems(
                    name, make_source(name, config.sources[name]), shares[name], refusal=refusal
                )
            ],
            {name: made[config.sources[name].verifier] for name in names},
            max_tokens=config.rollout.max_tokens,
            seed=config.evaluation.seed if seed is None else seed,
            temperatures=temperatures,
            verdict_timeout_s=config.reward.timeout_s,
            chat_template_options=config.model.chat_template_options,
            on_answer=on_answer,
        )
    finally:
        for made_verifier in made.values():
            made_verifier.close()
        await engine.close()
