"""Lines of `metrics.jsonl` (one for each optimizer batch) and of `evaluations.jsonl` (one for each evaluated version).

    learner ──StepCompleted.metrics──▶ RunLog ──StepRecord──▶ metrics.jsonl, `/v1/status` (last_step), sinks, report

Owns: the names, types and units of the figures. Does not own how they are computed (`algorithms.statistics`, the
learner, `RunLog`): docs/algorithm.md explains each.
Invariants: a figure that a run does not have is None in memory, and left out of the line. Figures that one train engine
alone reports are kept under their own names in `more`, and lie beside the others in the line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

_Record = TypeVar("_Record", bound="StepRecord | EvaluationRecord")

SCHEMA_VERSION = 1
"""Of lines, status and events. Grows when a field changes its meaning or goes; a new field changes nothing."""


class StepRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One optimizer batch. Ratios are between 0 and 1, times in seconds, staleness in versions."""

    policy_version: int
    """Number of the version that the batch made."""
    incarnation: int = 0
    stage: str = "rl"
    schema_version: int = SCHEMA_VERSION
    time: float | None = None
    """Seconds since the epoch."""
    wall_s: float | None = None
    """Seconds since this controller process began."""

    # the fleet's part
    generated_tokens_per_s: float | None = None
    buffer_tokens: int | None = None
    evicted: int | None = None
    reward_mean: float | None = None
    """Over all trajectories scored since the step before; of the batch, if none was."""
    reward_by_source: dict[str, float] | None = None
    batch_reward_mean: float | None = None

    # the learner's part
    token_budget: int | None = None
    loss_tokens: int | None = None
    tokens_per_s: float | None = None
    step_s: float | None = None
    wait_batch_s: float | None = None
    publish_s: float | None = None
    """Of the version before."""
    verifier_epoch: int | None = None
    mixture_epoch: int | None = None
    staleness_mean: float | None = None
    staleness_max: float | None = None
    num_sequences: int | None = None
    padding_fraction: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    entropy: float | None = None
    kl: float | None = None
    behavior_kl: float | None = None
    surrogate: float | None = None
    cross_entropy: float | None = None
    nonfinite_tokens: int | None = None
    effective_sample_size: float | None = None
    effective_sample_size_low: bool | None = None
    behavior_ratio_mean: float | None = None
    behavior_ratio_masked: float | None = None
    behavior_ratio_masked_by_staleness: dict[str, float] | None = None
    behavior_ratio_masked_by_sign: dict[str, float] | None = None
    behavior_ratio_quantiles: dict[str, dict[str, float]] | None = None
    loss_tokens_by_staleness: dict[str, int] | None = None
    policy_ratio_clipped: float | None = None
    mismatch_ratio: float | None = None
    mismatch_ratio_quantiles: dict[str, float] | None = None
    mismatch_tokens: int | None = None
    mismatch_kl: float | None = None
    """KL of engine and learner over the tokens of the version that is trained, in nats."""
    filtered: dict[str, int] | None = None
    model_flops: float | None = None
    """6·parameters·positions of the batch: forward and backward, without attention."""
    more: dict[str, Any] = {}
    """Figures that one train engine alone reports."""

    def plain(self) -> dict[str, Any]:
        """The step as a line of `metrics.jsonl`."""
        line: dict[str, Any] = msgspec.to_builtins(self)
        more: dict[str, Any] = line.pop("more")
        known = {key: value for key, value in line.items() if value is not None}
        return known | more


class SourceEvaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Held-out problems of one source. A figure is None where no answer was judged."""

    num_problems: int | None = None
    num_failed: int | None = None
    """Answers that no verdict could be had for."""
    pass_at_1: float | None = None
    avg_at_k: float | None = None
    reward_greedy: float | None = None
    reward_sampled: float | None = None


class EvaluationRecord(SourceEvaluation, frozen=True, kw_only=True):
    """One evaluated version, over all sources (the inherited fields) and for each."""

    policy_version: int
    incarnation: int = 0
    k: int | None = None
    """Sampled answers for each problem."""
    seconds: float | None = None
    by_source: dict[str, SourceEvaluation] = {}
    time: float | None = None
    wall_s: float | None = None
    more: dict[str, Any] = {}

    def plain(self) -> dict[str, Any]:
        """The evaluation as a line of `evaluations.jsonl`; an unknown figure of a source stays, as null."""
        line: dict[str, Any] = msgspec.to_builtins(self)
        more: dict[str, Any] = line.pop("more")
        unset = {key for key in ("time", "wall_s", "seconds", "k") if line[key] is None}
        known = {key: value for key, value in line.items() if key not in unset}
        return known | more


def step_record(line: Mapping[str, Any]) -> StepRecord:
    """Read a line, whole or the learner's part of it; a figure of the wrong type is unknown, not an error.

    Raises:
        ValueError: the line has no policy version.
    """
    return _read(line, _step_decoder, _STEP_FIELDS)


def evaluation_record(line: Mapping[str, Any]) -> EvaluationRecord:
    """Read a line of `evaluations.jsonl`, as tolerantly.

    Raises:
        ValueError: the line has no policy version.
    """
    return _read(line, _evaluation_decoder, _EVALUATION_FIELDS)


# Made at import, like every decoder: see docs/dependencies.md, msgspec.
_step_decoder = msgspec.msgpack.Decoder(StepRecord)
_evaluation_decoder = msgspec.msgpack.Decoder(EvaluationRecord)
_STEP_FIELDS = frozenset(StepRecord.__struct_fields__) - {"more"}
_EVALUATION_FIELDS = frozenset(EvaluationRecord.__struct_fields__) - {"more"}


def _read(line: Mapping[str, Any], decoder: msgspec.msgpack.Decoder[_Record], fields: frozenset[str]) -> _Record:
    """Decode a line at once, or, where that fails, with those figures alone that decode by themselves."""
    known = {name: value for name, value in line.items() if name in fields}
    more = {name: value for name, value in line.items() if name not in fields}

    def decode(values: Mapping[str, Any]) -> _Record:
        return decoder.decode(msgspec.msgpack.encode(values))

    def is_odd(name: str) -> bool:
        try:
            decode({"policy_version": 0, name: known[name]})
        except msgspec.ValidationError:
            return True
        return False

    try:
        return decode(known | {"more": more})
    except msgspec.ValidationError:
        fitting = {name: value for name, value in known.items() if not is_odd(name)}
    try:
        return decode(fitting | {"more": more})
    except msgspec.ValidationError as error:
        raise ValueError(f"no step or evaluation: {error}, in {dict(line)!r:.150}") from error
