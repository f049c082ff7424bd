"""The nouns every floor shares: trajectories, groups, versions, plans, packed batches.

Owns: what they are made of, and how a group lies in memory (one flat array per field, never one object per token).
Does not own: any decision, any I/O. Imports numpy and msgspec alone.
Invariants: everything here is immutable once built; a header describes its arrays exactly (`Group.check` proves it).

Structs that exist by the thousand and cannot be part of a cycle are kept from the garbage collector (`gc=False`).

Shapes: `[P]` prompt tokens, `[N]` response tokens of a whole group, `[T]` response tokens of one trajectory, `[K]`
trajectories of a group, `[B, C]` packed rows of `token_capacity` C.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]
Buffer = bytes | bytearray | memoryview | npt.NDArray[Any]

FinishReason = Literal["stop", "length"]


class PolicyVersion(msgspec.Struct, frozen=True, order=True, array_like=True, gc=False):
    """Weights by name: `number` optimizer steps published so far, within one lineage of the learner.

    `incarnation` grows by one with every restart of the learner from a checkpoint, so that weights of a lost lineage
    are never mistaken for the surviving one's.
    """

    incarnation: int
    number: int

    def __str__(self) -> str:
        return f"{self.incarnation}.{self.number}"


class Segment(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Tokens `[start, end)` of one response, all sampled by the weights `policy_version`."""

    start: int
    end: int
    policy_version: PolicyVersion


class SamplingParams(msgspec.Struct, frozen=True):
    """How a response is sampled. The learner computes log-probabilities under the same temperature."""

    temperature: float = 1.0
    max_tokens: int = 128
    """Most response tokens, the end-of-sequence token included."""


class Prompt(msgspec.Struct, frozen=True):
    """One question of a prompt source, with what its verifier needs to judge an answer."""

    prompt_id: str
    source: str
    text: str
    metadata: dict[str, Any] = {}
    """Plain data for the verifier, e.g. a reasoning-gym entry. Never shown to the model."""


class VerifierStamp(msgspec.Struct, frozen=True):
    """Which verifier scored a group, in which epoch: a group is scored by one epoch, always."""

    name: str
    version: str
    """Content hash of the verifier's code and settings."""
    epoch: int


class VerifierInForce(msgspec.Struct, frozen=True):
    """What judges under one name, from one epoch on. `version` is empty until a reward actor has built it."""

    name: str
    use: str
    options: dict[str, Any]
    epoch: int
    version: str = ""


class EpochRules(msgspec.Struct, frozen=True):
    """Which epochs of one verifier may still be trained on: from `floor` on, but for those rolled back."""

    floor: int = 0
    barred: tuple[int, ...] = ()

    def admits(self, epoch: int) -> bool:
        return epoch >= self.floor and epoch not in self.barred


class TrajectoryHeader(msgspec.Struct, frozen=True):
    """All of one response but its arrays."""

    trajectory_id: str
    num_tokens: int
    finish_reason: FinishReason
    segments: tuple[Segment, ...]
    """Cover `[0, num_tokens)` in order, without a gap."""
    reward: float | None = None
    reward_parts: dict[str, float] = {}

    @property
    def oldest_version(self) -> PolicyVersion:
        """The version of the oldest segment: what staleness is counted from."""
        return min(segment.policy_version for segment in self.segments)


class GroupHeader(msgspec.Struct, frozen=True):
    """Provenance and shape of K responses to one prompt; its arrays travel beside it."""

    group_id: str
    prompt: Prompt
    seed: int
    engine_id: str
    mixture_epoch: int
    sampling: SamplingParams
    num_prompt_tokens: int
    trajectories: tuple[TrajectoryHeader, ...]
    verifier: VerifierStamp | None = None
    """None until scored."""

    @property
    def num_response_tokens(self) -> int:
        return sum([trajectory.num_tokens for trajectory in self.trajectories])

    @property
    def rewards(self) -> tuple[float | None, ...]:
        return tuple([trajectory.reward for trajectory in self.trajectories])


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One response: a view into its group's arrays.

    Attributes:
        response_ids: int32 `[T]`.
        behavior_logprobs: float32 `[T]`, nats, log-probability of each token under the distribution it was sampled
            from (after temperature), by the weights that sampled it.
        loss_mask: uint8 `[T]`, 1 where the token was sampled and may carry loss, 0 where it was forced.
    """

    header: TrajectoryHeader
    response_ids: Int32
    behavior_logprobs: Float32
    loss_mask: UInt8


@dataclass(frozen=True, slots=True)
class Group:
    """K responses to one prompt, columnar: the responses lie one after another in flat arrays.

    Attributes:
        prompt_ids: int32 `[P]`.
        response_ids: int32 `[N]`, N = sum of the trajectories' `num_tokens`.
        behavior_logprobs: float32 `[N]`.
        loss_mask: uint8 `[N]`.
    """

    header: GroupHeader
    prompt_ids: Int32
    response_ids: Int32
    behavior_logprobs: Float32
    loss_mask: UInt8

    def __iter__(self) -> Iterator[Trajectory]:
        start = 0
        for header in self.header.trajectories:
            end = start + header.num_tokens
            yield Trajectory(
                header, self.response_ids[start:end], self.behavior_logprobs[start:end], self.loss_mask[start:end]
            )
            start = end

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """The arrays in wire order, uncopied: prompt_ids, response_ids, behavior_logprobs, loss_mask."""
        return (self.prompt_ids, self.response_ids, self.behavior_logprobs, self.loss_mask)

    @classmethod
    def from_buffers(cls, header: GroupHeader, buffers: Sequence[Buffer]) -> Group:
        """Rebuild a group around received buffers, without a copy.

        Raises:
            ValueError: the buffers' number or sizes do not fit the header.
        """
        if len(buffers) != 4:
            raise ValueError(f"group {header.group_id}: {len(buffers)} buffers, expected 4")
        dtypes = (np.int32, np.int32, np.float32, np.uint8)
        try:
            arrays = [np.frombuffer(buffer, dtype=dtype) for buffer, dtype in zip(buffers, dtypes, strict=True)]
        except ValueError as error:
            raise ValueError(f"group {header.group_id}: {error}") from error
        group = cls(header, *arrays)
        group.check()
        return group

    @classmethod
    def from_trajectories(cls, header: GroupHeader, prompt_ids: Int32, trajectories: Sequence[Trajectory]) -> Group:
        """Join separate responses into one columnar group (one copy)."""
        return cls(
            header=msgspec.structs.replace(header, trajectories=tuple(t.header for t in trajectories)),
            prompt_ids=np.ascontiguousarray(prompt_ids, dtype=np.int32),
            response_ids=np.concatenate([t.response_ids for t in trajectories]).astype(np.int32, copy=False),
            behavior_logprobs=np.concatenate([t.behavior_logprobs for t in trajectories]).astype(
                np.float32, copy=False
            ),
            loss_mask=np.concatenate([t.loss_mask for t in trajectories]).astype(np.uint8, copy=False),
        )

    def check(self) -> None:
        """Prove that the arrays are what the header says.

        Raises:
            ValueError: a size differs, or segments do not cover a response exactly.
        """
        header = self.header
        where = f"group {header.group_id}"
        if self.prompt_ids.size != header.num_prompt_tokens:
            raise ValueError(f"{where}: {self.prompt_ids.size} prompt tokens, header says {header.num_prompt_tokens}")
        num_tokens = header.num_response_tokens
        for name in ("response_ids", "behavior_logprobs", "loss_mask"):
            size = getattr(self, name).size
            if size != num_tokens:
                raise ValueError(f"{where}: {size} {name}, header says {num_tokens}")
        for trajectory in header.trajectories:
            position = 0
            for segment in trajectory.segments:
                if segment.start != position or segment.end <= segment.start:
                    raise ValueError(f"{where}: segments of {trajectory.trajectory_id} leave a gap at {position}")
                position = segment.end
            if position != trajectory.num_tokens:
                raise ValueError(f"{where}: segments of {trajectory.trajectory_id} end at {position}")


class Reservation(msgspec.Struct, frozen=True):
    """Leave to generate one group: granted by the controller, owned by one rollout until its lease runs out."""

    group_id: str
    prompt: Prompt
    group_size: int
    seed: int
    sampling: SamplingParams
    mixture_epoch: int
    lease_s: float


class TrajectoryState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One trajectory's new state in the ledger (`core.work.ledger` lists the states)."""

    trajectory_id: str
    state: str
    cause: str = ""
    num_tokens: int = 0
    reward: float | None = None
    """Said once, when replay takes it in."""


class TokenInterval(msgspec.Struct, frozen=True, order=True, array_like=True, gc=False):
    """Response tokens `[start, end)` of one trajectory: the unit in which consumption is accounted."""

    trajectory_id: str
    start: int
    end: int


class PackedSequence(msgspec.Struct, frozen=True, gc=False):
    """Where one prompt + response lies in the packed rows, and what it carries."""

    trajectory_id: str
    source: str
    row: int
    offset: int
    num_prompt_tokens: int
    num_response_tokens: int
    """The whole response, also when only an interval of it carries loss here."""
    interval: TokenInterval
    reward: float
    advantage: float
    staleness: int
    """Versions, from the oldest token, at consumption."""


class BatchPlan(msgspec.Struct, frozen=True):
    """One optimizer batch: which token intervals, exactly `token_budget` loss tokens, in which rows.

    Numbered without gaps; logged durably before the learner sees it; replayed by number after a learner's crash.
    """

    plan_number: int
    policy_version: PolicyVersion
    """The learner's version at consumption."""
    token_budget: int
    num_rows: int
    token_capacity: int
    num_ranks: int
    """Rows `[r * num_rows / num_ranks, (r + 1) * num_rows / num_ranks)` belong to learner rank r."""
    sequences: tuple[PackedSequence, ...]
    verifier_epoch: int
    mixture_epoch: int
    is_final: bool = False
    """A stage's declared end: the only batch that may hold fewer than `token_budget` loss tokens."""


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """A batch plan with its tokens, packed into rows of one fixed shape `[B, C]`.

    A position describes the token that lies there: the logits that predict it are one position earlier. Padding has
    `sequence_ids` 0 and no loss.

    Attributes:
        input_ids: int32 `[B, C]`.
        position_ids: int32 `[B, C]`, from 0 in every sequence.
        sequence_ids: int32 `[B, C]`, 1 + index into `plan.sequences`, 0 for padding.
        loss_mask: uint8 `[B, C]`; sums to exactly Φ.
        behavior_logprobs: float32 `[B, C]`, 0 outside responses.
        advantages: float32 `[B, C]`, 0 outside responses.
        token_staleness: int32 `[B, C]`, versions between the learner's and the token's, 0 outside responses.
        temperatures: float32 `[B, C]`, 1 for padding.
    """

    plan: BatchPlan
    input_ids: Int32
    position_ids: Int32
    sequence_ids: Int32
    loss_mask: UInt8
    behavior_logprobs: Float32
    advantages: Float32
    token_staleness: Int32
    temperatures: Float32

    _FIELDS = (
        ("input_ids", np.int32),
        ("position_ids", np.int32),
        ("sequence_ids", np.int32),
        ("loss_mask", np.uint8),
        ("behavior_logprobs", np.float32),
        ("advantages", np.float32),
        ("token_staleness", np.int32),
        ("temperatures", np.float32),
    )

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """The arrays in wire order, uncopied."""
        return tuple(getattr(self, name) for name, _ in self._FIELDS)

    @classmethod
    def from_buffers(cls, plan: BatchPlan, buffers: Sequence[Buffer]) -> PackedBatch:
        """Rebuild a batch around received buffers, without a copy.

        Raises:
            ValueError: the buffers' number or sizes do not fit the plan.
        """
        if len(buffers) != len(cls._FIELDS):
            raise ValueError(f"plan {plan.plan_number}: {len(buffers)} buffers, expected {len(cls._FIELDS)}")
        shape = (plan.num_rows, plan.token_capacity)
        arrays = [
            np.frombuffer(buffer, dtype=dtype).reshape(shape)
            for buffer, (_, dtype) in zip(buffers, cls._FIELDS, strict=True)
        ]
        return cls(plan, *arrays)


@dataclass(frozen=True, slots=True)
class Generation:
    """What an engine returns for one request: the sampled tokens and where each came from.

    Attributes:
        response_ids: int32 `[T]`.
        behavior_logprobs: float32 `[T]`.
        segments: cover `[0, T)`, one per policy version that sampled a run of tokens.
    """

    response_ids: Int32
    behavior_logprobs: Float32
    segments: tuple[Segment, ...]
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verifier says of one response.

    Attributes:
        reward: finite; a verifier that cannot judge raises, it never returns 0 for its own failure.
        parts: named components of the reward, for people.
        explanation: one line a person can read.
        seconds: what judging cost.
    """

    reward: float
    parts: dict[str, float] = field(default_factory=dict)
    explanation: str = ""
    seconds: float = 0.0
