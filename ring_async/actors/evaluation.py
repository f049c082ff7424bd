"""Evaluation: what a checkpoint scores on held-out prompts, judged by the run's own verifiers.

Owns: which problems (the first distinct held-out ones of each source), how they are answered (greedy, sampled), and
the results, kept problem by problem so that intervals over problems and seeds can be computed afterwards. Does not own
when to evaluate, or printing.

Invariants: the same seed, weights and configuration give the same problems and answers; a problem whose verifier
failed has no reward and enters no mean.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ring_async.config.schema import Config
from ring_async.data.base import PromptSource
from ring_async.data.registry import make_source
from ring_async.engines.base import GenerationRequest, RolloutEngine
from ring_async.engines.embedded.engine import EmbeddedEngine
from ring_async.engines.tokenizer import decode_response, encode_prompt, load_tokenizer
from ring_async.errors import ConfigError, VerifierError
from ring_async.types import FinishReason, PolicyVersion, Prompt, SamplingParams
from ring_async.verifiers.base import Response, Verifier
from ring_async.verifiers.registry import make_verifier
from ring_async.verifiers.scoring import score_group

GREEDY_AND_SAMPLED = (0.0, 1.0)
_SOLVED = 1.0 - 1e-6
_JUDGED_AT_ONCE = 32


class ProblemResult(msgspec.Struct, frozen=True):
    """One answer to one problem. `reward` is None where the verifier failed; `failure` then says why."""

    source: str
    prompt_id: str
    temperature: float
    response: str
    num_tokens: int
    finish_reason: FinishReason
    reward: float | None
    failure: str = ""

    @property
    def is_solved(self) -> bool:
        """Full reward: partial credit counts in mean rewards, not as solved."""
        return self.reward is not None and self.reward >= _SOLVED


class EvaluationRow(msgspec.Struct, frozen=True):
    """Means over the judged problems of one source (or all: `source` is `all`) at one temperature."""

    source: str
    temperature: float
    num_problems: int
    num_failed: int
    """Answers that could not be judged."""
    accuracy: float
    """Share of answers that solve their problem (pass@1; avg@k with k answers each); NaN where none was judged."""
    reward_mean: float
    tokens_mean: float
    truncated_share: float


class Evaluation(msgspec.Struct, frozen=True):
    """All results, ordered by temperature, source, problem, sample: evaluations of the same problems align."""

    seed: int
    max_tokens: int
    results: tuple[ProblemResult, ...]

    def select(self, temperature: float, source: str | None = None) -> list[ProblemResult]:
        """Results at one temperature, of one source or all."""
        return [r for r in self.results if r.temperature == temperature and source in {None, r.source}]

    def rows(self) -> list[EvaluationRow]:
        """One row per source and temperature, and one over all sources per temperature."""
        temperatures = list(dict.fromkeys(result.temperature for result in self.results))
        sources = list(dict.fromkeys(result.source for result in self.results))
        return [
            _row(source or "all", temperature, self.select(temperature, source))
            for temperature in temperatures
            for source in (*sources, None)
        ]


@dataclass(frozen=True, slots=True)
class _Solver:
    """Has one problem answered, and the answer judged."""

    engine: RolloutEngine
    tokenizer: Any
    verifiers: Mapping[str, Verifier]
    max_tokens: int
    verdict_timeout_s: float
    on_answer: Callable[[], None]
    _turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_JUDGED_AT_ONCE))

    async def solve(self, prompt: Prompt, temperature: float, *, sample: int, seed: int) -> ProblemResult:
        generation = await self.engine.generate(
            GenerationRequest(
                request_id=f"eval/{temperature:g}/{sample}/{prompt.prompt_id}",
                prompt_ids=encode_prompt(self.tokenizer, prompt.text),
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
        """The reward; or None, and why the verifier failed."""
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
    on_answer: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Answer and judge held-out problems at each temperature.

    Args:
        engine: started, with weights in force.
        tokenizer: the model's, from `load_tokenizer`.
        problems: from `held_out_problems`.
        verifiers: one per source, under the source's name.
        max_tokens: of one response, the end-of-sequence token included.
        seed: of the sampled answers; answer by answer.
        temperatures: 0 is greedy.
        num_samples: k, answers to each problem at temperatures above 0; greedy answers would all be the same.
        verdict_timeout_s: longest time for one verdict.
        on_answer: called after each answer was judged.

    Raises:
        ValueError: a problem does not fit into the model.
    """
    solver = _Solver(engine, tokenizer, verifiers, max_tokens, verdict_timeout_s, on_answer)
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
    """Evaluate a Hugging Face directory on the sources that the configuration mixes, with its verifiers.

    `num_problems` and `seed` default to `eval.num_problems` and `eval.seed`. The embedded engine generates, whatever
    the run's rollouts use.

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
        shares = share_problems(num_problems or config.eval.num_problems, names)
        return await evaluate(
            engine,
            load_tokenizer(model_path),
            [p for n in names for p in held_out_problems(n, make_source(n, config.sources[n]), shares[n])],
            {name: made[config.sources[name].verifier] for name in names},
            max_tokens=config.rollout.max_tokens,
            seed=config.eval.seed if seed is None else seed,
            temperatures=temperatures,
            verdict_timeout_s=config.reward.timeout_s,
            on_answer=on_answer,
        )
    finally:
        for made_verifier in made.values():
            made_verifier.close()
        await engine.close()


def share_problems(num_problems: int, sources: Iterable[str]) -> dict[str, int]:
    """How many problems each source gives, as even as can be; they sum to `num_problems`."""
    names = list(sources)
    return {
        name: num_problems // len(names) + (number < num_problems % len(names)) for number, name in enumerate(names)
    }


def held_out_problems(
    name: str, source: PromptSource, num_problems: int, key: str = "eval.num_problems"
) -> list[Prompt]:
    """The first distinct held-out questions of a source: a question that comes again is passed over.

    `key` is the configuration's name for the number, for the error.

    Raises:
        ConfigError: the source has too few of them.
    """
    problems: dict[str, Prompt] = {}
    patience = 50 * num_problems + 1000
    for index in range(patience):
        if len(problems) == num_problems:
            break
        try:
            prompt = source.held_out(index)
        except IndexError:
            break
        problems.setdefault(prompt.text, prompt)
    if len(problems) < num_problems:
        raise ConfigError(
            f"{key}: source {name} has only {len(problems)} different held-out problems, {num_problems} are wanted; "
            f"lower {key} or widen the source"
        )
    return list(problems.values())


def figures_of(evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation in figures, as plain data for a line of `evaluations.jsonl`; None where nothing was judged.

    `pass_at_1` is the share of problems whose greedy answer solves them, `avg_at_k` the share of all sampled answers, k
    for each problem, that do; both over all sources and for each.
    """
    by_source: dict[str, dict[str, Any]] = {}
    for row in evaluation.rows():
        figures = by_source.setdefault(row.source, {"num_problems": row.num_problems, "num_failed": 0})
        figures["num_failed"] += row.num_failed
        solved, reward = ("pass_at_1", "reward_greedy") if row.temperature == 0 else ("avg_at_k", "reward_sampled")
        figures[solved] = None if math.isnan(row.accuracy) else row.accuracy
        figures[reward] = None if math.isnan(row.reward_mean) else row.reward_mean
    overall = by_source.pop("all")
    num_sampled = sum(result.temperature > 0 for result in evaluation.results)
    return overall | {"k": num_sampled // max(1, overall["num_problems"]), "by_source": by_source}


def _row(source: str, temperature: float, results: Sequence[ProblemResult]) -> EvaluationRow:
    judged = [result for result in results if result.reward is not None]
    rewards = [result.reward for result in results if result.reward is not None]
    return EvaluationRow(
        source=source,
        temperature=temperature,
        num_problems=len({result.prompt_id for result in results}),
        num_failed=len(results) - len(judged),
        accuracy=_mean([result.is_solved for result in judged]),
        reward_mean=_mean(rewards),
        tokens_mean=_mean([result.num_tokens for result in results]),
        truncated_share=_mean([result.finish_reason == "length" for result in results]),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
