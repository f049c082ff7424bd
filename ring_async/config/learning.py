"""Sections about how the model learns: what is generated, judged, buffered, corrected and trained.

Owns: keys, types, defaults, bounds. Does not own what concerns several sections (`schema`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from ring_async.config.section import NaturalFloat, NaturalInt, PositiveFloat, PositiveInt, Section

AdamBeta = Annotated[float, Field(ge=0, lt=1)]

ICEPOP_BAND = (0.5, 5.0)
"""`correction.lower` and `correction.upper` where they are not given."""


class BudgetSection(Section):
    token_budget: PositiveInt = Field(description="Φ: loss tokens of one batch, exact.")
    scope: Literal["global", "per_rank"] = Field("global", description="Whether Φ counts all ranks or each one.")
    order: Literal["oldest_version", "fifo", "random", "abs_advantage"] = "oldest_version"
    leftover: Literal["carry", "drop"] = Field(
        "carry",
        description="carry: the cut remainder is trained next, no scored token is lost. drop: the paper's; it cuts "
        "tails with probability proportional to length.",
    )
    quotas: Literal["none", "mixture"] = Field(
        "none",
        description="mixture: each batch's loss tokens follow the mixture's weights, as far as each source has tokens. "
        "none: batches take what completes, in order.",
    )
    minibatches_per_batch: PositiveInt = Field(1, description="M: optimizer steps on one batch, each on Φ/M tokens.")


class ReplaySection(Section):
    num: PositiveInt = Field(1, description="Replay actors (shards by hash of group_id).")
    max_staleness: NaturalInt = Field(4, description="Versions, from a trajectory's oldest token.")
    staleness_measure: Literal["oldest", "newest", "mean"] = "oldest"
    max_reuse: PositiveInt = Field(1, description="How often one token interval may be trained.")
    max_buffer_tokens: PositiveInt | None = Field(None, description="Retention bound; None: 2 (max_staleness+1) Φ.")
    map_size_bytes: PositiveInt = Field(8 << 30, description="Largest size of the store's memory map on disk.")
    commit_interval_s: PositiveFloat = Field(0.005, description="Longest wait to gather groups into one commit.")
    batch_deadline_s: PositiveFloat = Field(
        300.0, description="The run fails when for longer than this no batch is trained and none comes nearer."
    )


class RolloutSection(Section):
    num: PositiveInt = 1
    engine: Literal["embedded", "sglang"] = "embedded"
    group_size: Annotated[int, Field(ge=2, le=65_536)] = Field(8, description="K: responses per prompt.")
    max_tokens: PositiveInt = Field(128, description="Longest response, the end-of-sequence token included.")
    temperature: PositiveFloat = 1.0
    on_update: Literal["keep", "reprefill", "abort"] = Field(
        "keep", description="What becomes of requests in flight when new weights arrive."
    )
    max_running_requests: PositiveInt = Field(64, description="Responses one engine samples at once.")
    max_kv_age: PositiveInt | None = Field(
        None,
        description="sglang, under keep: a response whose cache would grow older than so many versions is read again.",
    )
    deterministic: bool = Field(
        False, description="sglang: a response depends on its seed, weights and prompt alone; slower (docs/sglang.md)."
    )
    lease_s: PositiveFloat = Field(60.0, description="A reservation not renewed for this long is issued again.")
    handover_s: NaturalFloat = Field(
        5.0,
        description="Unfinished responses are handed over to replay this often, so that another rollout can go on with "
        "them; 0: never.",
    )
    num_threads: PositiveInt = Field(1, description="Compute threads of an embedded engine.")
    engine_options: dict[str, Any] = Field(default_factory=dict, description="Passed to the engine as they are.")


class RewardSection(Section):
    num: PositiveInt = 1
    num_workers: PositiveInt = Field(1, description="Worker processes for verifiers that need them.")
    timeout_s: PositiveFloat = Field(10.0, description="Longest time for one verdict.")
    bound: PositiveFloat = Field(1e6, description="Largest size of a reward; a verdict beyond it is a failure.")
    credits: PositiveInt = Field(16, description="Groups of one rollout that one reward actor judges at a time.")


class ParallelSection(Section):
    """How many processes train the model, and how they share the work.

    `data · shard` ranks (times `tensor · pipeline`, which split one copy of the model further) work at a time; each of
    the `data · shard` takes rows of its own, so gradients are summed over them.
    """

    data: PositiveInt = Field(1, description="Copies of the model, each over `shard` ranks.")
    shard: PositiveInt = Field(1, description="Ranks that hold a slice each of weights, gradients and optimizer.")
    tensor: PositiveInt = Field(1, description="megatron: ranks that split every matrix product.")
    pipeline: PositiveInt = Field(1, description="megatron: stages, each with a run of layers.")
    expert: PositiveInt = Field(1, description="megatron: ranks of a stage (tensor · data) that share experts out.")

    @property
    def num_ranks(self) -> int:
        """Processes of the learner."""
        return self.num_data_ranks * self.tensor * self.pipeline

    @property
    def num_data_ranks(self) -> int:
        """Ranks, or groups of `tensor · pipeline` ranks, that train on rows of their own."""
        return self.data * self.shard

    def data_rank_of(self, rank: int) -> int:
        """Whose rows a rank of the learner trains on: those of the group that it is of."""
        return rank // self.tensor % self.num_data_ranks


class LearnerSection(Section):
    engine: Literal["hf", "megatron"] = "hf"
    parallel: ParallelSection = ParallelSection()
    token_capacity: PositiveInt = Field(1024, description="Tokens of one packed row (prompts and responses).")
    rows_per_microbatch: PositiveInt = Field(4, description="Packed rows of one forward pass.")
    learning_rate: NaturalFloat = 1e-6
    warmup_steps: NaturalInt = 0
    weight_decay: NaturalFloat = 0.0
    adam_betas: tuple[AdamBeta, AdamBeta] = (0.9, 0.95)
    adam_eps: PositiveFloat = 1e-8
    max_grad_norm: PositiveFloat = 1.0
    max_nonfinite_steps: NaturalInt = Field(
        3,
        description="Steps in a row that may be skipped because loss or gradient is not finite; one more ends the run.",
    )
    recompute: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Share of the decoder layers whose activations are computed again in backward."
    )
    max_batch_tries: NaturalInt = Field(
        3, description="A batch that fails so often in the engine is skipped, with its cause on record; 0: never."
    )
    num_threads: PositiveInt = Field(1, description="Compute threads on a CPU.")
    engine_options: dict[str, Any] = Field(default_factory=dict, description="Passed to the engine as they are.")


_CAPPED_RULES = ("decoupled", "tis", "gspo")


class CorrectionSection(Section):
    """Staleness correction. None means the rule's own default (`docs/algorithm.md` lists them)."""

    rule: Literal["decoupled", "tis", "icepop", "kpop", "m2po", "cispo", "gspo", "ppo", "none"] = "icepop"
    proximal: Literal["recompute", "loglinear"] = "recompute"
    cap: PositiveFloat | None = Field(None, description="decoupled, tis, cispo: upper bound of the weight.")
    cap_action: Literal["clamp", "mask"] = "clamp"
    lower: PositiveFloat | None = Field(None, description="icepop: α, below which a token is masked.")
    upper: PositiveFloat | None = Field(None, description="icepop: β, above which a token is masked.")
    icepop_on: Literal["behavior", "mismatch"] = "behavior"
    phi: PositiveFloat | None = Field(None, description="kpop: bound on both binary KLs.")
    tau: PositiveFloat | None = Field(None, description="m2po: bound on the second moment of log r.")
    clip_low: PositiveFloat | None = Field(None, description="ε_low of the clipped policy ratio.")
    clip_high: PositiveFloat | None = Field(None, description="ε_high of the clipped policy ratio.")
    sequence_reject: tuple[float, float] | None = Field(None, description="Bounds of the mean log w of a response.")
    off_policy_delta: PositiveFloat | None = Field(None, description="Mask A<0 responses with mean log(μ/π) above.")
    max_probability_gap: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="Mask tokens with |π_θ − μ| above this."
    )

    def problems(self) -> Iterator[str]:
        """Problems between the keys of this section, one line each: bounds that leave no on-policy token unmasked.

        On-policy, w = r = 1, so a bound on w that leaves 1 out masks what is most worth training.
        """
        lower = ICEPOP_BAND[0] if self.lower is None else self.lower
        upper = ICEPOP_BAND[1] if self.upper is None else self.upper
        if self.rule == "icepop" and lower > upper:
            yield f"correction.lower: {lower:g} is above correction.upper {upper:g}; exchange them"
        elif self.rule == "icepop" and not lower <= 1 <= upper:
            key, bound = ("lower", "at most") if lower > 1 else ("upper", "at least")
            band = f"the band from {lower:g} to {upper:g}"
            yield f"correction.{key}: {band} masks every on-policy token; set it {bound} 1"
        if self.cap is not None and self.cap < 1 and self.cap_action == "mask" and self.rule in _CAPPED_RULES:
            yield f"correction.cap: with cap_action=mask, {self.cap:g} masks every on-policy token; set it at least 1"
        if self.sequence_reject is not None:
            low, high = self.sequence_reject
            if low > high:
                yield f"correction.sequence_reject: {low:g} is above {high:g}; exchange them"
            elif not low <= 0 <= high:
                yield (
                    f"correction.sequence_reject: from {low:g} to {high:g} rejects every on-policy response, whose "
                    "mean of log w is 0; set bounds on either side of it"
                )


class LossSection(Section):
    kl_coefficient: NaturalFloat = Field(0.0, description="β, against the frozen start weights.")
    kl_estimator: Literal["k1", "k2", "k3", "k3_weighted"] = "k3_weighted"
    entropy_coefficient: NaturalFloat = Field(0.0, description="α_ent; entropy is encouraged.")
    balance_coefficient: NaturalFloat = Field(
        0.0, description="α_bal; megatron: experts that are visited unevenly cost, outside of 1/Φ."
    )
    router_z_coefficient: NaturalFloat = Field(
        0.0, description="α_z; megatron: large logits of routers cost, outside of 1/Φ."
    )


class AdvantageSection(Section):
    estimator: Literal["grpo", "dr_grpo", "rloo", "batch_std"] = "grpo"
    no_signal_tolerance: NaturalFloat = Field(1e-6, description="max − min ≤ this: no signal.")
    truncated: Literal["zero", "mask", "soft"] = Field("zero", description="Responses that hit max_tokens.")
    soft_cache_tokens: PositiveInt = Field(32, description="soft: the penalty's ramp before the limit.")
    masked_in_mean: bool = Field(True, description="mask: whether truncated responses enter the group's mean.")
