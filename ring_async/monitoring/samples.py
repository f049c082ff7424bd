"""Groups whose text is kept, read from a run's replay stores: for the command line and the live page.

Owns: the choice of groups, and their form as plain data, on wish token by token, with what the learner kept of single
tokens. Reads while the run goes on; changes nothing. Does not own how they are shown. Text is as the model wrote it:
who shows it makes it `printable`.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import msgspec
import numpy as np

from ring_async.config.load import load_config
from ring_async.core.replay.progress import GroupProgress, GroupRecord
from ring_async.engines.tokenizer import decode_response, load_tokenizer
from ring_async.models import resolve_model_path
from ring_async.records.trained_tokens import Fate, TrainedTokens
from ring_async.storage.replay_store import ReplayStore
from ring_async.storage.run_dir import RunDir
from ring_async.storage.store_reader import StoreReader
from ring_async.storage.trained_tokens import read_trained_tokens
from ring_async.types import Trajectory

MAX_TOKENS = 4000
"""Tokens of a response that are shown one by one."""
_CONTEXT = 8
"""Tokens before one that its text may depend on: parts of a character, a space that is swallowed."""


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """Which groups are wanted: the newest `num` that fit all bounds; a bound of None fits everything.

    Staleness is in versions, from a response's oldest token to `policy_version`; it and `num_tokens` must fit for one
    response of the group at least.
    """

    num: int = 3
    group: str = ""
    source: str = ""
    min_reward: float | None = None
    max_reward: float | None = None
    min_staleness: int | None = None
    max_staleness: int | None = None
    min_tokens: int | None = None
    max_tokens: int | None = None
    policy_version: int | None = None
    is_trained: bool = False
    """Only groups of which the learner kept the ratios of single tokens."""
    has_tokens: bool = False
    """Whether each response is wanted token by token, too."""


def read_samples(run_dir: RunDir, choice: Choice, tokenizer: Any = None) -> list[dict[str, Any]]:
    """The groups as plain data, the newest first.

    Args:
        run_dir: of the run, at work or ended.
        choice: which groups.
        tokenizer: of the run's model; None: it is loaded if there is anything to decode.

    Raises:
        StorageError: a store cannot be read.
    """
    trained = read_trained_tokens(run_dir.trained_tokens) if choice.has_tokens or choice.is_trained else {}
    with ExitStack() as stack:
        readers = [stack.enter_context(store.read()) for store in _stores(run_dir, stack)]
        chosen = heapq.nlargest(
            choice.num,
            (
                (record.arrival, index, record, progress)
                for index, reader in enumerate(readers)
                for record, progress in reader.records()
                if _fits(record, choice) and (not choice.is_trained or _is_trained(record, trained))
            ),
            key=lambda one: one[:2],
        )
        if chosen and tokenizer is None:
            tokenizer = tokenizer_of(run_dir)
        return [
            _plain(readers[index], record, progress, tokenizer, trained if choice.has_tokens else None)
            for _, index, record, progress in chosen
        ]


def tokenizer_of(run_dir: RunDir) -> Any:
    """The tokenizer of the run's model."""
    return load_tokenizer(resolve_model_path(load_config(run_dir.config).model.path))


def token_texts(tokenizer: Any, ids: list[int]) -> list[str]:
    """The text that each token adds to the tokens before it; a part of a character adds what it completes."""
    texts = []
    for position in range(len(ids)):
        start = max(0, position - _CONTEXT)
        before = tokenizer.decode(ids[start:position], skip_special_tokens=False) if position > start else ""
        until = tokenizer.decode(ids[start : position + 1], skip_special_tokens=False)
        common = before if until.startswith(before) else before.rstrip("\ufffd")
        texts.append(until[len(common) :] if until.startswith(common) else until[-1:])
    return texts


def _stores(run_dir: RunDir, stack: ExitStack) -> Iterator[ReplayStore]:
    for data in sorted(run_dir.replay.glob("*/data.mdb")):
        store = ReplayStore(data.parent, data.stat().st_size, is_readonly=True)
        stack.callback(store.close)
        yield store


def _fits(record: GroupRecord, choice: Choice) -> bool:
    header = record.header
    if choice.group not in {"", header.group_id} or choice.source not in {"", header.prompt.source}:
        return False
    rewards = [reward for reward in header.rewards if reward is not None]
    if not _within(sum(rewards) / max(1, len(rewards)), choice.min_reward, choice.max_reward):
        return False
    newest = choice.policy_version
    return any(
        _within(one.num_tokens, choice.min_tokens, choice.max_tokens)
        and (newest is None or _within(newest - one.oldest_version.number, choice.min_staleness, choice.max_staleness))
        for one in header.trajectories
    )


def _within(value: float, low: float | None, high: float | None) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)


def _plain(
    reader: StoreReader,
    record: GroupRecord,
    progress: GroupProgress,
    tokenizer: Any,
    trained: Mapping[str, Sequence[TrainedTokens]] | None,
) -> dict[str, Any]:
    header, group = record.header, reader.group(record.header.group_id)
    assert group is not None, "records and groups are one table, in one view"
    stamp = header.verifier
    return {
        "group_id": header.group_id,
        "source": header.prompt.source,
        "prompt_id": header.prompt.prompt_id,
        "prompt": header.prompt.conversation,
        "verifier": {"name": stamp.name, "version": stamp.version, "epoch": stamp.epoch} if stamp else None,
        "engine_id": header.engine_id,
        "seed": header.seed,
        "temperature": header.sampling.temperature,
        "mixture_epoch": header.mixture_epoch,
        "responses": [
            {
                "trajectory_id": one.header.trajectory_id,
                "response": decode_response(tokenizer, one.response_ids),
                "reward": one.header.reward,
                "reward_parts": one.header.reward_parts,
                "advantage": advantage,
                "num_tokens": one.header.num_tokens,
                "finish_reason": one.header.finish_reason,
                "policy_versions": [str(segment.policy_version) for segment in one.header.segments],
                "state": state.state,
            }
            | ({} if trained is None else _tokens(one, tokenizer, trained.get(one.header.trajectory_id, ())))
            for one, advantage, state in zip(group, record.advantages, progress, strict=True)
        ],
    }


def _is_trained(record: GroupRecord, trained: Mapping[str, Sequence[TrainedTokens]]) -> bool:
    return any(one.trajectory_id in trained for one in record.header.trajectories)


def _tokens(trajectory: Trajectory, tokenizer: Any, trained: Sequence[TrainedTokens]) -> dict[str, Any]:
    """The response token by token: its text, a number of each kind for each token, and what the learner made of it."""
    ids = trajectory.response_ids[:MAX_TOKENS].tolist()
    versions = [0] * len(ids)
    for segment in trajectory.header.segments:
        start, end = min(segment.start, len(ids)), min(segment.end, len(ids))
        versions[start:end] = [segment.policy_version.number] * (end - start)
    columns = {
        name: [round(float(value), 4) for value in column[: len(ids)]]
        for name, column in trajectory.columns.items()
        if column.ndim == 1
    }
    return {
        "tokens": token_texts(tokenizer, ids),
        "per_token": {
            "version": versions,
            "logprob": [round(float(value), 4) for value in trajectory.behavior_logprobs[: len(ids)]],
            "mask": trajectory.loss_mask[: len(ids)].tolist(),
        }
        | columns
        | ({"ratio": _ratios(trained, len(ids))} if trained else {}),
        "fates": _fates(trained, len(ids)) if trained else None,
    }


def _ratios(trained: Sequence[TrainedTokens], num_tokens: int) -> list[float | None]:
    """The ratio of each token when it was last trained; None where it was not, or is no number."""
    ratios: list[float | None] = [None] * num_tokens
    for one in trained:
        for position, value in enumerate(np.frombuffer(one.ratios, "<f4").tolist(), one.start):
            if position < num_tokens:
                ratios[position] = round(value, 4) if math.isfinite(value) else None
    return ratios


def _fates(trained: Sequence[TrainedTokens], num_tokens: int) -> list[str | None]:
    """What the correction made of each token when it was last trained; None where it was not."""
    fates: list[str | None] = [None] * num_tokens
    for one in trained:
        for position, value in enumerate(one.fates, one.start):
            if position < num_tokens:
                fates[position] = Fate(value).name.lower()
    return fates
