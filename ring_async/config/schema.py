"""The configuration of a run: every key, its type, its default, its bounds.

Owns: `Config`, the sections about a run's processes, prompts and services, and the checks that look at several keys.
Does not own the sections about learning (`learning`).
Invariants: instances are frozen and refuse unknown keys; this module imports no torch, ray, zmq or asyncio (a test
proves it). Field descriptions are the reference documentation.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from ring_async.config.learning import (
    AdvantageSection,
    BudgetSection,
    CorrectionSection,
    LearnerSection,
    LossSection,
    ReplaySection,
    RewardSection,
    RolloutSection,
)
from ring_async.config.monitoring import MonitoringSection
from ring_async.config.section import NaturalFloat, NaturalInt, PositiveFloat, PositiveInt, Section, Seed
from ring_async.core.roster import GPU_ROLES, Role, Roster
from ring_async.core.work.mixture import check_weights


def _home_written_out(folder: str) -> str:
    if "\0" in folder:
        raise ValueError("holds a NUL, which no folder can; remove it")
    try:
        return str(Path(folder).expanduser())
    except RuntimeError:
        raise ValueError("there is no such user; write the folder out, or ./~ for one of this name") from None


class RunSection(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="Names the run's folder.")]
    dir: Annotated[str, AfterValidator(_home_written_out)] = Field(
        "runs", min_length=1, description="Runs live in <dir>/<name>/; relative to where `up` is called."
    )


class StopSection(Section):
    policy_versions: PositiveInt = Field(100, description="End after this many optimizer steps were published.")
    wall_s: PositiveFloat | None = Field(None, description="End this many seconds after the first step, if sooner.")


class ModelSection(Section):
    path: str = Field("builtin:tiny", description="Hugging Face directory, or `builtin:tiny`, which ships here.")
    dtype: Literal["float32", "bfloat16"] = "float32"
    chat_template_options: dict[str, Any] = Field(
        default_factory=dict, description="Variables of the model's chat template, e.g. {enable_thinking: false}."
    )


class SourceSection(Section):
    """One prompt source."""

    kind: Literal["reasoning_gym", "jsonl", "instruction"] = "reasoning_gym"
    task: str = Field("", description="reasoning_gym: the task's name.")
    path: str = Field("", description="jsonl: the file, folder or pattern; JSON lines, Parquet or Arrow.")
    held_out_path: str = Field("", description="jsonl: files of evaluation alone; empty: an eighth of the questions.")
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="jsonl: name of a value → its column, e.g. {prompt: question, answer: reward_model.ground_truth}.",
    )
    when_changed: Literal["refuse", "accept"] = Field(
        "refuse", description="jsonl: whether `up --resume` goes on with files that are not those the run began with."
    )
    options: dict[str, Any] = Field(default_factory=dict, description="reasoning_gym: the task's own settings.")
    verifier: str = Field(description="Which of `verifiers` judges it.")


class VerifierSection(Section):
    """One verifier: a registered name or `path/to/file.py:Class`, and its settings."""

    use: str = Field(description="Registered name, `package.module:Class` or `path/to/file.py:Class`.")
    options: dict[str, Any] = Field(default_factory=dict)


class DifficultyWindow(Section):
    """Bounds on the difficulty of a source's prompts: only those from `low` to `high` are issued."""

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
            raise ValueError(f"low {self.low:g} is above high {self.high:g}: no prompt lies within; exchange them")
        return self


class MixtureStep(Section):
    """New weights of the mixture, from a policy version on."""

    at_version: PositiveInt
    mixture: dict[str, NaturalFloat]
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
        """The address to bind: `host`, or loopback where `auto` was not resolved for a cluster."""
        return "127.0.0.1" if self.host == "auto" else self.host


class CheckpointSection(Section):
    every_versions: PositiveInt = 20
    keep: PositiveInt = 2


class ControlSection(Section):
    host: str = Field("127.0.0.1", description="Any but loopback needs tls_cert and tls_key, or insecure.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(0, description="0: any free port, see endpoints.json.")
    tls_cert: str = Field("", description="PEM file of the certificate; with tls_key the API speaks HTTPS.")
    tls_key: str = Field("", description="PEM file of the certificate's key.")
    insecure: bool = Field(False, description="Allow plain HTTP on other addresses than loopback.")
    names: tuple[str, ...] = Field(
        (), description="Names under which clients reach this host, besides its own name and all addresses."
    )
    max_requests_per_s: PositiveFloat = Field(100.0, description="Calls of one client; two seconds' worth at once.")
    max_body_bytes: PositiveInt = Field(1 << 20, description="Largest body of one call.")

    def problems(self) -> list[str]:
        """Problems between the keys of this section, one line each."""
        if bool(self.tls_cert) != bool(self.tls_key):
            missing = "tls_key" if self.tls_cert else "tls_cert"
            return [f"control.{missing}: empty; a certificate and its key are given together"]
        if self.tls_cert or self.insecure or _is_loopback(self.host):
            return []
        return [
            f"control.host: {self.host} can be reached by other machines; give control.tls_cert and control.tls_key, "
            "or allow plain HTTP with control.insecure=true"
        ]


def _may_use_gpus(role: Role) -> Role:
    if role not in GPU_ROLES:
        raise ValueError(f"uses no GPU; {', '.join(GPU_ROLES)} can")
    return role


def _may_be_sent(role: Role) -> Role:
    if role == Role.CONTROLLER:
        raise ValueError("runs on the host of `up`; leave it out")
    return role


class PlacementSection(Section):
    """The CPUs and GPUs that Ray sets aside for each actor, and the hosts that roles are bound to."""

    num_cpus: NaturalInt = Field(0, description="CPUs Ray may hand out; 0: those of the machine.")
    cpus: dict[Role, NaturalFloat] = {
        Role.CONTROLLER: 0.1, Role.ROLLOUT: 0.5, Role.REWARD: 0.2, Role.REPLAY: 0.2, Role.LEARNER: 0.5,
        Role.EVALUATOR: 0.2,
    }  # fmt: skip
    gpus: dict[Annotated[Role, AfterValidator(_may_use_gpus)], NaturalFloat] = Field(default_factory=dict)
    hosts: dict[Annotated[Role, AfterValidator(_may_be_sent)], Annotated[tuple[str, ...], Field(min_length=1)]] = Field(
        default_factory=dict,
        description="On a cluster: addresses of the hosts that the actors of a role run on, by turns. Default: rollout "
        "and reward on any host with room, the others on the host of `up`.",
    )
    max_restarts: NaturalInt = Field(5, description="Of one actor within `restart_window_s`.")
    restart_window_s: PositiveFloat = 300.0
    start_timeout_s: PositiveFloat = 120.0


class EvaluationSection(Section):
    """Held-out problems, for the evaluator while training goes on and for `ring-async eval`."""

    every_versions: NaturalInt = Field(0, description="Evaluate every so many versions; 0: never.")
    num_problems: PositiveInt = Field(100, description="Spread evenly over the mixture's sources.")
    num_samples: NaturalInt = Field(4, description="k of avg@k; 0: greedy answers alone.")
    temperature: PositiveFloat = Field(1.0, description="Of the k sampled answers.")
    finish_s: PositiveFloat = Field(60.0, description="How long a run that is trained waits for its last evaluation.")
    seed: Seed = Field(20_250_614, description="Of the answers: the same in every run.")
    checkpoint_problems: PositiveInt = Field(
        200, description="Held-out problems of `ring-async eval` and of the demo's table."
    )


class Config(Section):
    """The configuration of a whole run."""

    run: RunSection
    seed: Seed = 0
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
    mixture: dict[str, NaturalFloat]
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

    @property
    def global_token_budget(self) -> int:
        """Loss tokens of one batch over all data-parallel ranks of the learner."""
        return self.budget.token_budget * (
            self.learner.parallel.num_data_ranks if self.budget.scope == "per_rank" else 1
        )

    @property
    def max_staleness(self) -> int:
        """The staleness bound in force, in versions; 0 for synchronous training."""
        return 0 if self.mode == "sync" else self.replay.max_staleness

    @property
    def retention_versions(self) -> int | None:
        """For how many versions an unfinished response is carried on: while its oldest token can be trained; None: for
        ever, where staleness is not counted from there.
        """
        return self.max_staleness if self.replay.staleness_measure == "oldest" else None

    @property
    def roster(self) -> Roster:
        """How many actors play each role when the run begins."""
        return Roster(
            rollout=self.rollout.num,
            reward=self.reward.num,
            replay=self.replay.num,
            learner=1,
            evaluator=int(self.evaluation.every_versions > 0),
        )

    @property
    def bound_to_one_host(self) -> str:
        """The setting that keeps the fleet on one host, and what to set instead; empty if there is none."""
        if self.transport.kind == "ipc":
            return "transport.kind=ipc reaches one host only; set transport.kind=tcp"
        if self.weights.channel == "shm":
            return "weights.channel=shm reaches one host only; set weights.channel=zmq"
        return ""

    def at(self, address: str) -> Config:
        """This configuration for the host that the cluster knows by `address`, with `auto` resolved to it."""
        if self.transport.host != "auto":
            return self
        return self.model_copy(update={"transport": self.transport.model_copy(update={"host": address})})

    @property
    def required_cpus(self) -> float:
        """CPUs that Ray sets aside for the whole fleet."""
        return sum(self.roster.needs(self.placement.cpus).values())

    def _unknown_sources(self, where: str, names: Iterable[str]) -> list[str]:
        known = ", ".join(sorted(self.sources))
        return [f"{where}.{name}: no such source; sources are {known}" for name in names if name not in self.sources]

    @model_validator(mode="after")
    def _check_across(self) -> Config:
        problems = [
            *self._budget_problems(),
            *self._mixture_problems(),
            *self.control.problems(),
            *self.monitoring.problems(),
            *self.correction.problems(),
            *self._truncation_problems(),
            *self._placement_problems(),
        ]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _budget_problems(self) -> Iterator[str]:
        if self.global_token_budget < self.rollout.max_tokens:
            yield (
                f"budget.token_budget: {self.budget.token_budget} is smaller than rollout.max_tokens "
                f"{self.rollout.max_tokens}; one response must fit into a batch"
            )
        if self.learner.token_capacity < self.rollout.max_tokens:
            yield (
                f"learner.token_capacity: {self.learner.token_capacity} is smaller than rollout.max_tokens "
                f"{self.rollout.max_tokens}; a packed row must hold a prompt and its response"
            )
        elif self.learner.token_capacity == self.rollout.max_tokens:
            yield (
                f"learner.token_capacity: {self.learner.token_capacity} is rollout.max_tokens, which leaves no room "
                "for a prompt in a packed row; raise it by the longest prompt"
            )
        if self.global_token_budget % self.budget.minibatches_per_batch:
            yield (
                f"budget.minibatches_per_batch: {self.budget.minibatches_per_batch} does not divide "
                f"budget.token_budget {self.global_token_budget}"
            )

    def _truncation_problems(self) -> Iterator[str]:
        if self.advantage.truncated == "soft" and self.advantage.soft_cache_tokens > self.rollout.max_tokens:
            yield (
                f"advantage.soft_cache_tokens: {self.advantage.soft_cache_tokens} is more than rollout.max_tokens "
                f"{self.rollout.max_tokens}; every response would be punished for its length"
            )

    def _mixture_problems(self) -> Iterator[str]:
        scheduled = {f"mixture_schedule.{i}.mixture": step.mixture for i, step in enumerate(self.mixture_schedule)}
        for where, weights in ({"mixture": self.mixture} | scheduled).items():
            yield from self._unknown_sources(where, weights)
            if not any(weight > 0 for weight in weights.values()):
                yield f"{where}: every weight is 0; give at least one source a weight above 0"
                continue
            try:
                check_weights(weights)
            except ValueError as error:
                yield f"{where}: {error}"
        windows = {f"mixture_schedule.{i}.difficulty": step.difficulty for i, step in enumerate(self.mixture_schedule)}
        for where, named in ({"difficulty": self.difficulty} | windows).items():
            yield from self._unknown_sources(where, named)
        steps = [step.at_version for step in self.mixture_schedule]
        if steps != sorted(set(steps)):
            yield f"mixture_schedule: at_version must grow from step to step, it is {steps}; put the steps in order"
        for name, source in self.sources.items():
            if source.verifier not in self.verifiers:
                yield (
                    f"sources.{name}.verifier: no verifier is called {source.verifier!r}; "
                    f"verifiers are {', '.join(sorted(self.verifiers)) or 'none'}"
                )

    def _placement_problems(self) -> Iterator[str]:
        if self.placement.hosts and (one_host := self.bound_to_one_host):
            yield f"placement.hosts: {one_host}"
        if 0 < self.placement.num_cpus < self.required_cpus:
            yield (
                f"placement.num_cpus: {self.placement.num_cpus} is smaller than the {self.required_cpus:g} CPUs that "
                "the actors of placement.cpus need together; raise it, start fewer actors or give each a smaller share"
            )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
