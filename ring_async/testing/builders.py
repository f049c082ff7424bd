"""Groups, plans, configurations and records for tests: `make_group(rewards=[1, 0])` and everything else has a default.

Owns: the defaults. Everything is deterministic: equal arguments build equal objects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ring_async.batches import BatchPlan, PackedSequence, TokenInterval
from ring_async.columns import Column
from ring_async.config.load import config_from_mapping
from ring_async.config.schema import Config
from ring_async.core.roster import Role, id_of
from ring_async.types import (
    FinishReason,
    Float32,
    Generation,
    Group,
    GroupHeader,
    Int32,
    PolicyVersion,
    Prompt,
    Reservation,
    SamplingParams,
    Segment,
    TrajectoryHeader,
    VerifierStamp,
)

ROLLOUT_ID = id_of(Role.ROLLOUT, 0)
"""Who generates, unless a test says otherwise."""


VERIFIER = VerifierStamp(name="exact", version="0" * 16, epoch=0)

Versions = int | PolicyVersion | Sequence[tuple[int, int | PolicyVersion]]
"""One version for a whole response, or runs of `(tokens, version)`; a number n means version (0, n)."""


def version(number: int | PolicyVersion, incarnation: int = 0) -> PolicyVersion:
    """`version(3)` is (0, 3)."""
    return number if isinstance(number, PolicyVersion) else PolicyVersion(incarnation, number)


def make_segments(num_tokens: int, versions: Versions = 0) -> tuple[Segment, ...]:
    """Segments that cover `[0, num_tokens)`.

    Raises:
        ValueError: the runs' tokens don't add up to `num_tokens`.
    """
    if isinstance(versions, (int, PolicyVersion)):
        return (Segment(0, num_tokens, version(versions)),)
    segments, start = [], 0
    for run, number in versions:
        segments.append(Segment(start, start + run, version(number)))
        start += run
    if start != num_tokens:
        raise ValueError(f"runs {list(versions)} hold {start} tokens, the response has {num_tokens}")
    return tuple(segments)


def make_prompt(prompt_id: str = "sums/0", *, source: str = "sums", text: str = "1 + 1 =", **metadata: Any) -> Prompt:
    return Prompt(prompt_id=prompt_id, source=source, text=text, metadata=metadata)


def make_reservation(
    group_id: str = "g0", *, group_size: int = 2, max_tokens: int = 16, lease_s: float = 60.0, **fields: Any
) -> Reservation:
    defaults: dict[str, Any] = {
        "prompt": make_prompt(f"sums/{group_id}"),
        "seed": 0,
        "sampling": SamplingParams(max_tokens=max_tokens),
        "mixture_epoch": 0,
    }
    return Reservation(group_id=group_id, group_size=group_size, lease_s=lease_s, **(defaults | fields))


def make_group(
    group_id: str = "g0",
    *,
    rewards: Sequence[float | None] = (1.0, 0.0),
    lengths: int | Sequence[int] = 4,
    versions: Versions | Sequence[Versions] = 0,
    source: str = "sums",
    num_prompt_tokens: int = 3,
    finish_reasons: FinishReason | Sequence[FinishReason] = "stop",
    verifier: VerifierStamp | None = VERIFIER,
    prompt: Prompt | None = None,
    seed: int = 0,
    max_tokens: int = 64,
    temperature: float = 1.0,
    engine_id: str = ROLLOUT_ID,
    mixture_epoch: int = 0,
    columns: Sequence[Column] = (),
) -> Group:
    """A group of `len(rewards)` responses, called `<group_id>/0`, `<group_id>/1`, …; a reward of None is unscored.

    `lengths` and `finish_reasons` are one value for every response or a list with one for each. So is `versions`:
    `3`, or runs of `(tokens, version)` as in `[(2, 0), (2, 1)]`, for all; `[0, 1]` or `[[(2, 0), (2, 1)], 1]` for each.
    The arrays' values follow from `group_id` and `seed`.
    """
    size = len(rewards)
    each_length = [lengths] * size if isinstance(lengths, int) else list(lengths)
    each_finish = [finish_reasons] * size if isinstance(finish_reasons, str) else list(finish_reasons)
    each_versions, num_tokens = _for_each(versions, size), sum(each_length)
    rng = np.random.default_rng(stable_seed(group_id, seed))
    header = GroupHeader(
        group_id=group_id,
        prompt=prompt or make_prompt(f"{source}/{group_id}", source=source),
        seed=seed,
        engine_id=engine_id,
        mixture_epoch=mixture_epoch,
        sampling=SamplingParams(temperature=temperature, max_tokens=max_tokens),
        num_prompt_tokens=num_prompt_tokens,
        trajectories=tuple(
            TrajectoryHeader(
                trajectory_id=f"{group_id}/{index}",
                num_tokens=each_length[index],
                finish_reason=each_finish[index],
                segments=make_segments(each_length[index], each_versions[index]),
                reward=None if reward is None else float(reward),
            )
            for index, reward in enumerate(rewards)
        ),
        verifier=verifier if any(reward is not None for reward in rewards) else None,
        columns=tuple(columns),
    )
    group = Group(
        header,
        rng.integers(1, 100, num_prompt_tokens, dtype=np.int32),
        rng.integers(1, 100, num_tokens, dtype=np.int32),
        -rng.random(num_tokens, dtype=np.float32),
        np.ones(num_tokens, np.uint8),
        columns={column.name: make_column(column, num_tokens, seed=stable_seed(group_id, seed)) for column in columns},
    )
    group.check()
    return group


def make_column(column: Column, num_tokens: int, *, seed: int = 0) -> npt.NDArray[Any]:
    """Values of any bits, not-a-numbers among them: what carries a column must not look at it."""
    rng = np.random.default_rng(stable_seed(column.name, seed))
    raw = rng.integers(0, 256, num_tokens * column.bytes_per_token, dtype=np.uint8).tobytes()
    return column.read(raw, num_tokens)


def make_generation(
    num_tokens: int = 4, *, versions: Versions = 0, finish_reason: FinishReason = "stop", seed: int = 0
) -> Generation:
    rng = np.random.default_rng(seed)
    response_ids: Int32 = rng.integers(1, 100, num_tokens, dtype=np.int32)
    behavior_logprobs: Float32 = -rng.random(num_tokens, dtype=np.float32)
    return Generation(response_ids, behavior_logprobs, make_segments(num_tokens, versions), finish_reason)


def make_plan(
    groups: Sequence[Group],
    *,
    plan_number: int = 1,
    policy_version: int | PolicyVersion = 0,
    token_capacity: int = 64,
    num_ranks: int = 1,
) -> BatchPlan:
    """All responses of the groups, whole, one sequence a row, advantages = reward − mean reward of the group."""
    sequences: list[PackedSequence] = []
    learner_version = version(policy_version)
    for group in groups:
        scores = [trajectory.reward or 0.0 for trajectory in group.header.trajectories]
        mean = sum(scores) / len(scores)
        for trajectory, reward in zip(group.header.trajectories, scores, strict=True):
            sequences.append(
                PackedSequence(
                    trajectory_id=trajectory.trajectory_id,
                    source=group.header.prompt.source,
                    row=len(sequences),
                    offset=0,
                    num_prompt_tokens=group.header.num_prompt_tokens,
                    num_response_tokens=trajectory.num_tokens,
                    interval=TokenInterval(trajectory.trajectory_id, 0, trajectory.num_tokens),
                    reward=reward,
                    advantage=reward - mean,
                    staleness=learner_version.number - trajectory.oldest_version.number,
                )
            )
    return BatchPlan(
        plan_number=plan_number,
        policy_version=learner_version,
        token_budget=sum(group.header.num_response_tokens for group in groups),
        num_rows=len(sequences),
        token_capacity=token_capacity,
        num_ranks=num_ranks,
        sequences=tuple(sequences),
        verifier_epoch=0,
        mixture_epoch=0,
    )


def make_config_mapping(**overrides: Any) -> dict[str, Any]:
    """The smallest configuration as plain data; `make_config` says how overrides are written."""
    values: dict[str, Any] = {
        "run": {"name": "test"},
        "budget": {"token_budget": 64},
        "rollout": {"group_size": 2, "max_tokens": 16},
        "learner": {"token_capacity": 32},
        "sources": {"sums": {"task": "chain_sum", "verifier": "exact"}},
        "mixture": {"sums": 1.0},
        "verifiers": {"exact": {"use": "reasoning_gym"}},
    }
    for key, value in overrides.items():
        *above, last = key.split("__")
        section = values
        for name in above:
            section = section.setdefault(name, {})
        section[last] = value
    return values


def make_config(**overrides: Any) -> Config:
    """A small valid configuration. Sections are reached with two underscores: `make_config(rollout__num=2)`.

    Raises:
        ConfigError: the overrides make it invalid.
    """
    return config_from_mapping(make_config_mapping(**overrides), "test configuration")


def make_metrics_row(policy_version: int = 1, **fields: Any) -> dict[str, Any]:
    """A line of `metrics.jsonl` as a healthy run writes it; rewards rise and entropy falls with the version."""
    progress = 1 - 0.97**policy_version
    row: dict[str, Any] = {
        "policy_version": policy_version,
        "stage": "rl",
        "wall_s": 2.0 * policy_version,
        "token_budget": 64,
        "loss_tokens": 64,
        "effective_sample_size": 0.97 - 0.05 * progress,
        "reward_mean": 0.3 + 0.6 * progress,
        "reward_by_source": {"sums": 0.4 + 0.5 * progress, "letters": 0.2 + 0.7 * progress},
        "entropy": 1.2 - 0.8 * progress,
        "grad_norm": 0.4,
        "staleness_mean": 1.5,
        "staleness_max": 3,
        "behavior_ratio_masked": 0.01,
        "evicted": 0,
        "step_s": 1.2,
        "wait_batch_s": 0.3,
        "publish_s": 0.1,
        "tokens_per_s": 42.0,
        "generated_tokens_per_s": 51.0,
        "buffer_tokens": 180,
        "verifier_epoch": 0,
        "mixture_epoch": 0,
    }
    return row | fields


def stable_seed(*parts: object) -> int:
    """The same parts give the same 64-bit seed in every process, unlike `hash`."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def _for_each(versions: Versions | Sequence[Versions], size: int) -> list[Versions]:
    """One entry for each response. A list of `(tokens, version)` pairs counts as runs of every response."""
    if isinstance(versions, (int, PolicyVersion)):
        return [versions] * size
    if all(isinstance(entry, tuple) for entry in versions):
        return [versions] * size  # type: ignore[list-item]
    return list(versions)  # type: ignore[arg-type]
