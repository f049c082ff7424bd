"""The configuration of a run: every key, its type, its default, its bounds.

Owns: shapes and single-key bounds, and the checks that look at several keys. Frozen; unknown keys are refused. Imports
no torch, ray, zmq or asyncio (a test proves it). Field descriptions are the reference documentation.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Role = Literal["controller", "rollout", "reward", "replay", "learner", "evaluator"]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Root of all sections: frozen, and strict about keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RunSection(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="Names the run's folder.")]
    dir: str = Field("runs", description="Runs live in <dir>/<name>/; relative to where `up` is called.")


class StopSection(Section):
    policy_versions: PositiveInt = Field(100, description="End after this many optimizer steps were published.")
    wall_s: PositiveFloat | None = Field(None, description="End this many seconds after the first step, if sooner.")


class ModelSection(Section):
    path: str = Field("builtin:tiny", description="Hugging Face directory, or `builtin:tiny`, which ships here.")
    dtype: Literal["float32", "bfloat16"] = "float32"


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
    max_staleness: Annotated[int, Field(ge=0)] = Field(4, description="Versions, from a trajectory's oldest token.")
    staleness_measure: Literal["oldest", "newest", "mean"] = "oldest"
    max_reuse: PositiveInt = Field(1, description="How often one token interval may be trained.")
    max_buffer_tokens: PositiveInt | None = Field(None, description="Retention bound; None: 2 (max_staleness+1) Φ.")
    map_size_bytes: PositiveInt = Field(8 << 30, description="Largest size of the store's memory map on disk.")
    commit_interval_s: PositiveFloat = Field(0.005, description="Longest wait to gather groups into one commit.")
    batch_deadline_s: PositiveFloat = Field(300.0, description="The run fails when a batch takes longer than this.")


class RolloutSection(Section):
    num: PositiveInt = 1
    engine: Literal["embedded", "sglang"] = "embedded"
    group_size: Annotated[int, Field(ge=2)] = Field(8, description="K: responses per prompt.")
    max_tokens: PositiveInt = Field(128, description="Longest response, the end-of-sequence token included.")
    temperature: PositiveFloat = 1.0
    on_update: Literal["keep", "reprefill", "abort"] = Field(
        "keep", description="What becomes of requests in flight when new weights arrive."
    )
    max_running_requests: PositiveInt = Field(64, description="Responses one engine samples at once.")
    lease_s: PositiveFloat = Field(60.0, description="A reservation not renewed for this long is issued again.")
    num_threads: PositiveInt = Field(1, description="Compute threads of an embedded engine.")
    engine_options: dict[str, Any] = Field(default_factory=dict, description="Passed to the engine as they are.")


class RewardSection(Section):
    num: PositiveInt = 1
    num_workers: PositiveInt = Field(1, description="Worker processes for verifiers that need them.")
    timeout_s: PositiveFloat = Field(10.0, description="Longest time for one verdict.")
    bound: PositiveFloat = Field(1e6, description="Largest size of a reward; a verdict beyond it is a failure.")
    credits: PositiveInt = Field(16, description="Groups of one rollout that one reward actor judges at a time.")


class LearnerSection(Section):
    engine: Literal["hf", "megatron"] = "hf"
    num_ranks: PositiveInt = 1
    token_capacity: PositiveInt = Field(1024, description="Tokens of one packed row (prompts and responses).")
    rows_per_microbatch: PositiveInt = Field(4, description="Packed rows of one forward pass.")
    learning_rate: Annotated[float, Field(ge=0)] = 1e-6
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    adam_betas: tuple[float, float] = (0.9, 0.95)
    adam_eps: PositiveFloat = 1e-8
    max_grad_norm: PositiveFloat = 1.0
    num_threads: PositiveInt = Field(1, description="Compute threads on a CPU.")
    engine_options: dict[str, Any] = Field(default_factory=dict, description="Passed to the engine as they are.")


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
    max_probability_gap: PositiveFloat | None = Field(None, description="Mask tokens with |π_θ − μ| above this.")


class LossSection(Section):
    kl_coefficient: Annotated[float, Field(ge=0)] = Field(0.0, description="β, against the frozen start weights.")
    kl_estimator: Literal["k1", "k2", "k3", "k3_weighted"] = "k3_weighted"
    entropy_coefficient: Annotated[float, Field(ge=0)] = Field(0.0, description="α_ent; entropy is encouraged.")


class AdvantageSection(Section):
    estimator: Literal["grpo", "dr_grpo", "rloo", "batch_std"] = "grpo"
    no_signal_tolerance: Annotated[float, Field(ge=0)] = Field(1e-6, description="max − min ≤ this: no signal.")
    truncated: Literal["zero", "mask", "soft"] = Field("zero", description="Responses that hit max_tokens.")
    soft_cache_tokens: PositiveInt = Field(32, description="soft: the penalty's ramp before the limit.")
    masked_in_mean: bool = Field(True, description="mask: whether truncated responses enter the group's mean.")


class SourceSection(Section):
    """One prompt source."""

    kind: Literal["reasoning_gym", "jsonl", "instruction"] = "reasoning_gym"
    task: str = Field("", description="reasoning_gym: the task's name.")
    path: str = Field("", description="jsonl: the file or folder.")
    options: dict[str, Any] = Field(default_factory=dict, description="reasoning_gym: the task's own settings.")
    verifier: str = Field(description="Which of `verifiers` judges it.")


class VerifierSection(Section):
    """One verifier: a registered name or `path/to/file.py:Class`, and its settings."""

    use: str = Field(description="Registered name, `package.module:Class` or `path/to/file.py:Class`.")
    options: dict[str, Any] = Field(default_factory=dict)


class DifficultyWindow(Section):
    """Of one source, only prompts whose difficulty lies from `low` to `high` are issued."""

    by: str = Field(
        "difficulty",
        min_length=1,
        max_length=64,
        description="A number that each prompt carries, e.g. a column of its row, or reasoning-gym's `num_terms`; or "
        "`observed`: 1 − mean reward of the prompt's last group, where prompts come again (jsonl).",
    )
    low: float | None = Field(None, description="Lowest difficulty within; None: no bound.")
    high: float | None = Field(None, description="Highest difficulty within; None: no bound.")

    @model_validator(mode="after")
    def _check_bounds(self) -> DifficultyWindow:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}: no prompt lies within")
        return self


class MixtureStep(Section):
    """New weights of the mixture, from a policy version on."""

    at_version: PositiveInt
    mixture: dict[str, Annotated[float, Field(ge=0)]]
    difficulty: dict[str, DifficultyWindow | None] = Field(
        default_factory=dict, description="New windows; null lifts one, the others stay."
    )


class WeightsSection(Section):
    channel: Literal["shm", "zmq", "nccl"] = "shm"
    bucket_bytes: PositiveInt = 32 << 20
    deadline_s: PositiveFloat = Field(60.0, description="Longest wait for a receiver.")
    retain_versions: PositiveInt = Field(2, description="Newest versions that stay fetchable.")
    nccl_retain: bool = Field(
        True,
        description="nccl: keep a packed copy on the learner's GPU, which serves late joiners and lets training go on "
        "at once. false: two buckets of memory; publishing waits for all receivers, joiners for the next version.",
    )


class TransportSection(Section):
    kind: Literal["ipc", "tcp"] = Field("ipc", description="ipc: one host. tcp: CURVE-encrypted, any host.")
    host: str = Field(
        "auto",
        description="tcp, /metrics: address to bind and to be reached at. auto: that under which Ray knows the host of "
        "each actor, and 127.0.0.1 where the fleet has one machine for itself.",
    )
    credits: PositiveInt = Field(512, description="Messages one sender may have under way to one receiver.")
    max_frame_bytes: PositiveInt = 1 << 30
    max_header_bytes: PositiveInt = 1 << 20
    max_frames: PositiveInt = 64

    @property
    def address(self) -> str:
        """The address to bind: `host`, or loopback while nobody has said what `auto` means here."""
        return "127.0.0.1" if self.host == "auto" else self.host


class CheckpointSection(Section):
    every_versions: PositiveInt = 20
    keep: PositiveInt = 2


class MonitoringSection(Section):
    prometheus: bool = Field(True, description="Serve /metrics from every actor.")
    grafana_url: str = ""
    heartbeat_s: PositiveFloat = 1.0
    heartbeat_timeout_s: PositiveFloat = Field(30.0, description="Silent for longer: the actor counts as dead.")
    trace: bool = Field(True, description="Write trace.json (Perfetto).")


class ControlSection(Section):
    host: str = Field("127.0.0.1", description="Any but loopback needs tls_cert and tls_key, or insecure.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(0, description="0: any free port, see endpoints.json.")
    tls_cert: str = Field("", description="PEM file of the certificate; with tls_key the API speaks HTTPS.")
    tls_key: str = Field("", description="PEM file of the certificate's key.")
    insecure: bool = Field(False, description="Allow plain HTTP on other addresses than loopback.")
    max_requests_per_s: PositiveFloat = Field(100.0, description="Calls of one client; two seconds' worth at once.")
    max_body_bytes: PositiveInt = Field(1 << 20, description="Largest body of one call.")

    def problems(self) -> list[str]:
        """What is wrong across keys, one line each."""
        if bool(self.tls_cert) != bool(self.tls_key):
            missing = "tls_key" if self.tls_cert else "tls_cert"
            return [f"control.{missing}: empty; a certificate and its key are given together"]
        if self.tls_cert or self.insecure or _is_loopback(self.host):
            return []
        return [
            f"control.host: {self.host} can be reached by other machines; give control.tls_cert and control.tls_key, "
            "or allow plain HTTP with control.insecure=true"
        ]


class PlacementSection(Section):
    """What Ray sets aside for each actor."""

    num_cpus: Annotated[int, Field(ge=0)] = Field(0, description="CPUs Ray may hand out; 0: those of the machine.")
    cpus: dict[Role, float] = {
        "controller": 0.1, "rollout": 0.5, "reward": 0.2, "replay": 0.2, "learner": 0.5, "evaluator": 0.2,
    }  # fmt: skip
    gpus: dict[Literal["rollout", "learner", "reward", "evaluator"], float] = Field(default_factory=dict)
    hosts: dict[
        Literal["rollout", "reward", "replay", "learner", "evaluator"], Annotated[tuple[str, ...], Field(min_length=1)]
    ] = Field(
        default_factory=dict,
        description="On a cluster: addresses of the hosts that the actors of a role run on, by turns. Default: rollout "
        "and reward on any host with room, the others on the host of `up`.",
    )
    max_restarts: Annotated[int, Field(ge=0)] = Field(5, description="Of one actor within `restart_window_s`.")
    restart_window_s: PositiveFloat = 300.0
    start_timeout_s: PositiveFloat = 120.0


class EvaluationSection(Section):
    """The evaluator: held-out problems answered while training goes on."""

    every_versions: Annotated[int, Field(ge=0)] = Field(0, description="Evaluate every so many versions; 0: never.")
    num_problems: PositiveInt = Field(100, description="Spread evenly over the mixture's sources.")
    num_samples: Annotated[int, Field(ge=0)] = Field(4, description="k of avg@k; 0: greedy answers alone.")
    temperature: PositiveFloat = Field(1.0, description="Of the k sampled answers.")
    finish_s: PositiveFloat = Field(60.0, description="How long a run that is trained waits for its last evaluation.")


class EvalSection(Section):
    num_problems: PositiveInt = Field(200, description="Held-out problems of `eval` and of the demo's table.")
    seed: int = 20_250_614


class Config(Section):
    """A whole run."""

    run: RunSection
    seed: int = 0
    mode: Literal["async", "sync"] = Field("async", description="sync: the control; generate and train alternate.")
    stop: StopSection = StopSection()
    model: ModelSection = ModelSection()
    budget: BudgetSection
    replay: ReplaySection = ReplaySection()
    rollout: RolloutSection = RolloutSection()
    reward: RewardSection = RewardSection()
    learner: LearnerSection = LearnerSection()
    correction: CorrectionSection = CorrectionSection()
    loss: LossSection = LossSection()
    advantage: AdvantageSection = AdvantageSection()
    sources: dict[str, SourceSection]
    mixture: dict[str, Annotated[float, Field(ge=0)]]
    mixture_schedule: Annotated[
        tuple[MixtureStep, ...], Field(description="Weights that take the place of `mixture`, in order of versions.")
    ] = ()
    difficulty: Annotated[
        dict[str, DifficultyWindow], Field(description="Which prompts of a source are issued; without one: all.")
    ] = {}
    verifiers: dict[str, VerifierSection]
    weights: WeightsSection = WeightsSection()
    transport: TransportSection = TransportSection()
    checkpoint: CheckpointSection = CheckpointSection()
    monitoring: MonitoringSection = MonitoringSection()
    control: ControlSection = ControlSection()
    placement: PlacementSection = PlacementSection()
    evaluation: EvaluationSection = EvaluationSection()
    eval: EvalSection = EvalSection()

    @property
    def global_token_budget(self) -> int:
        """Loss tokens of one batch over all learner ranks."""
        return self.budget.token_budget * (self.learner.num_ranks if self.budget.scope == "per_rank" else 1)

    @property
    def max_staleness(self) -> int:
        """The bound in force: synchronous training admits none."""
        return 0 if self.mode == "sync" else self.replay.max_staleness

    @property
    def num_evaluators(self) -> int:
        """1 where the run evaluates versions, else 0."""
        return int(self.evaluation.every_versions > 0)

    @property
    def bound_to_one_host(self) -> str:
        """Which setting keeps the fleet on one host and what to set instead; empty: none."""
        if self.transport.kind == "ipc":
            return "transport.kind=ipc reaches one host only; set transport.kind=tcp"
        if self.weights.channel == "shm":
            return "weights.channel=shm reaches one host only; set weights.channel=zmq"
        return ""

    def at(self, address: str) -> Config:
        """This configuration on the host that the cluster knows by `address`: what `auto` means there."""
        if self.transport.host != "auto":
            return self
        return self.model_copy(update={"transport": self.transport.model_copy(update={"host": address})})

    @property
    def required_cpus(self) -> float:
        """CPUs that Ray sets aside for the whole fleet."""
        counts: dict[Role, int] = {
            "controller": 1,
            "rollout": self.rollout.num,
            "reward": self.reward.num,
            "replay": self.replay.num,
            "learner": self.learner.num_ranks,
            "evaluator": self.num_evaluators,
        }
        return sum(share * counts[role] for role, share in self.placement.cpus.items())

    def _unknown_sources(self, where: str, names: Iterable[str]) -> list[str]:
        known = ", ".join(sorted(self.sources))
        return [f"{where}.{name}: no such source; sources are {known}" for name in names if name not in self.sources]

    @model_validator(mode="after")
    def _check_across(self) -> Config:
        problems = []
        if self.global_token_budget < self.rollout.max_tokens:
            problems.append(
                f"budget.token_budget: {self.budget.token_budget} is smaller than rollout.max_tokens "
                f"{self.rollout.max_tokens}; one response must fit into a batch"
            )
        if self.learner.token_capacity < self.rollout.max_tokens:
            problems.append(
                f"learner.token_capacity: {self.learner.token_capacity} is smaller than rollout.max_tokens "
                f"{self.rollout.max_tokens}; a packed row must hold a prompt and its response"
            )
        if self.global_token_budget % self.budget.minibatches_per_batch:
            problems.append(
                f"budget.minibatches_per_batch: {self.budget.minibatches_per_batch} does not divide "
                f"budget.token_budget {self.global_token_budget}"
            )
        scheduled = {f"mixture_schedule.{i}.mixture": step.mixture for i, step in enumerate(self.mixture_schedule)}
        for where, weights in ({"mixture": self.mixture} | scheduled).items():
            problems += self._unknown_sources(where, weights)
            if not any(weight > 0 for weight in weights.values()):
                problems.append(f"{where}: every weight is 0; give at least one source a weight above 0")
        windows = {f"mixture_schedule.{i}.difficulty": step.difficulty for i, step in enumerate(self.mixture_schedule)}
        for where, named in ({"difficulty": self.difficulty} | windows).items():
            problems += self._unknown_sources(where, named)
        steps = [step.at_version for step in self.mixture_schedule]
        if steps != sorted(set(steps)):
            problems.append(f"mixture_schedule: at_version must grow from step to step, it is {steps}")
        for name, source in self.sources.items():
            if source.verifier not in self.verifiers:
                problems.append(
                    f"sources.{name}.verifier: no verifier is called {source.verifier!r}; "
                    f"verifiers are {', '.join(sorted(self.verifiers)) or 'none'}"
                )
        problems += self.control.problems()
        if self.placement.hosts and (one_host := self.bound_to_one_host):
            problems.append(f"placement.hosts: {one_host}")
        if 0 < self.placement.num_cpus < self.required_cpus:
            problems.append(
                f"placement.num_cpus: {self.placement.num_cpus} is smaller than the {self.required_cpus:g} CPUs that "
                "the actors of placement.cpus need together; raise it, start fewer actors or give each a smaller share"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
