"""The nouns every floor shares: versions, prompts, trajectories, groups, verdicts.

Owns: their fields, and how a group lies in memory (one flat array per column, never one object per token).
Does not own: any decision, any I/O; batches (`batches`), what a column is (`columns`).
Invariants: everything here is immutable once built; a header describes its arrays exactly (`Group.check` proves it).

Structs that exist by the thousand and cannot be part of a cycle are kept from the garbage collector (`gc=False`).

Shapes: `[P]` prompt tokens, `[N]` response tokens of a whole group, `[T]` response tokens of one trajectory, `[K]`
trajectories of a group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from ring_async.columns import (
    NO_COLUMNS,
    REQUIRED_COLUMNS,
    Buffer,
    Column,
    Columns,
    check_arrays,
    concatenate_columns,
    describe,
    read_columns,
    slice_columns,
)

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]

FinishReason = Literal["stop", "length"]


class PolicyVersion(msgspec.Struct, frozen=True, order=True, array_like=True, gc=False):
    """The name of a version of the weights: `number` of published optimizer steps, within one incarnation of the
    learner.

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


class ChatMessage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One turn of a chat. `role`: what the model's chat template knows, mostly system, user or assistant."""

    role: str
    content: str


class Prompt(msgspec.Struct, frozen=True):
    """One question of a prompt source, with what its verifier needs to judge an answer."""

    prompt_id: str
    source: str
    text: str
    """The question as people and verifiers read it; of a chat, its last turn."""
    metadata: dict[str, Any] = {}
    """Plain data for the verifier, e.g. a reasoning-gym entry. Never shown to the model."""
    messages: tuple[ChatMessage, ...] = ()
    """The whole chat, from a system's instructions to the turn to answer; empty: `text` is one user's turn."""

    @property
    def conversation(self) -> str:
        """The whole chat as text, for people and judges: each turn behind its role; without messages, the question."""
        return "\n\n".join(f"{one.role}: {one.content}" for one in self.messages) or self.text

    @property
    def turns(self) -> list[dict[str, str]]:
        """The chat as a chat template takes it; without messages, the question as one user's turn."""
        messages = self.messages or (ChatMessage("user", self.text),)
        return [{"role": one.role, "content": one.content} for one in messages]


class VerifierStamp(msgspec.Struct, frozen=True):
    """Which verifier scored a group, in which epoch: a group is scored by one epoch, always."""

    name: str
    version: str
    """Content hash of the verifier's code and settings."""
    epoch: int


class VerifierInForce(msgspec.Struct, frozen=True):
    """The verifier that judges under a name, from one epoch on. `version` is empty until a reward actor built it."""

    name: str
    use: str
    options: dict[str, Any]
    epoch: int
    version: str = ""


class EpochRules(msgspec.Struct, frozen=True):
    """The epochs of one verifier that may still be trained on: those from `floor` on, except for `barred` ones."""

    floor: int = 0
    barred: tuple[int, ...] = ()

    def admits(self, epoch: int) -> bool:
        return epoch >= self.floor and epoch not in self.barred


class TrajectoryHeader(msgspec.Struct, frozen=True):
    """The header of one response: all of it but its arrays."""

    trajectory_id: str
    num_tokens: int
    finish_reason: FinishReason
    segments: tuple[Segment, ...]
    """Cover `[0, num_tokens)` in order, without a gap."""
    reward: float | None = None
    reward_parts: dict[str, float] = {}
    failure: str = ""
    """Why the verifier could not judge this response although it judged others of the group; it has no reward then."""

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
    """The verifier epoch that scored the group; None until it is scored."""
    columns: tuple[Column, ...] = ()
    """The optional token columns, in wire order. The required ones are the same for every group."""

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
        columns: optional ones, `[T]` or `[T, width]` each.
    """

    header: TrajectoryHeader
    response_ids: Int32
    behavior_logprobs: Float32
    loss_mask: UInt8
    columns: Columns = field(default_factory=lambda: NO_COLUMNS)


@dataclass(frozen=True, slots=True)
class Group:
    """K responses to one prompt, columnar: the responses lie one after another in flat arrays.

    Attributes:
        prompt_ids: int32 `[P]`.
        response_ids: int32 `[N]`, N = sum of the trajectories' `num_tokens`.
        behavior_logprobs: float32 `[N]`.
        loss_mask: uint8 `[N]`.
        columns: optional ones, `[N]` or `[N, width]` each, as the header describes them.

    Example:
        An engine gave `kv_age` beside the required columns. The group travels as `group.header` and `group.buffers`
        (prompt_ids, the three required columns, kv_age); `Group.from_buffers(header, buffers)` is the group again, and
        `group.columns["kv_age"][5]` belongs to the token `group.response_ids[5]`.
    """

    header: GroupHeader
    prompt_ids: Int32
    response_ids: Int32
    behavior_logprobs: Float32
    loss_mask: UInt8
    columns: Columns = field(default_factory=lambda: NO_COLUMNS)

    def __iter__(self) -> Iterator[Trajectory]:
        start = 0
        for header in self.header.trajectories:
            end = start + header.num_tokens
            yield Trajectory(
                header,
                self.response_ids[start:end],
                self.behavior_logprobs[start:end],
                self.loss_mask[start:end],
                slice_columns(self.columns, start, end),
            )
            start = end

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """The arrays in wire order, uncopied: prompt_ids, the required columns, then the optional ones."""
        return (self.prompt_ids, self.response_ids, self.behavior_logprobs, self.loss_mask, *self.columns.values())

    @classmethod
    def from_buffers(cls, header: GroupHeader, buffers: Sequence[Buffer]) -> Group:
        """Rebuild a group around received buffers, without a copy.

        Raises:
            ValueError: the buffers' number or sizes do not fit the header, or a column of it is not allowed.
        """
        where = f"group {header.group_id}"
        num_expected = 4 + len(header.columns)
        if len(buffers) != num_expected:
            raise ValueError(f"{where}: {len(buffers)} buffers, expected {num_expected}")
        try:
            arrays: list[Any] = [
                np.frombuffer(buffer, dtype) for buffer, dtype in zip(buffers, _GROUP_DTYPES, strict=False)
            ]
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if header.columns:
            arrays.append(read_columns(header.columns, buffers[4:], where, header.num_response_tokens))
        group = cls(header, *arrays)
        group.check()
        return group

    @classmethod
    def from_trajectories(cls, header: GroupHeader, prompt_ids: Int32, trajectories: Sequence[Trajectory]) -> Group:
        """Join separate responses into one columnar group (one copy).

        Raises:
            ValueError: two responses have a column of one name with another dtype or width.
        """
        where = f"group {header.group_id}"
        columns = concatenate_columns([(t.response_ids.size, t.columns) for t in trajectories], where)
        headers = tuple(t.header for t in trajectories)
        return cls(
            msgspec.structs.replace(header, trajectories=headers, columns=describe(columns)),
            np.ascontiguousarray(prompt_ids, dtype=np.int32),
            np.concatenate([t.response_ids for t in trajectories]).astype(np.int32, copy=False),
            np.concatenate([t.behavior_logprobs for t in trajectories]).astype(np.float32, copy=False),
            np.concatenate([t.loss_mask for t in trajectories]).astype(np.uint8, copy=False),
            columns,
        )

    def copy(self) -> Group:
        """The same group in memory of its own, for one that was read as views into something short-lived."""
        columns = {name: array.copy() for name, array in self.columns.items()}
        return Group(
            self.header,
            self.prompt_ids.copy(),
            self.response_ids.copy(),
            self.behavior_logprobs.copy(),
            self.loss_mask.copy(),
            columns or NO_COLUMNS,
        )

    def check(self) -> None:
        """Prove that the arrays are what the header says.

        Raises:
            ValueError: a size differs, a column is not allowed, or segments do not cover a response exactly.
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
        if header.columns or self.columns:
            check_arrays(header.columns, self.columns, where, num_tokens)
        for trajectory in header.trajectories:
            check_segments(trajectory.segments, 0, trajectory.num_tokens, where, trajectory.trajectory_id)


_GROUP_DTYPES = (np.dtype(np.int32), *(np.dtype(column.dtype) for column in REQUIRED_COLUMNS))


def check_segments(segments: Sequence[Segment], start: int, end: int, where: str, trajectory_id: str) -> None:
    """Prove that segments cover the tokens `[start, end)` of a response in order.

    Raises:
        ValueError: they leave a gap, overlap, or end elsewhere.
    """
    position = start
    for segment in segments:
        if segment.start != position or segment.end <= segment.start:
            raise ValueError(f"{where}: segments of {trajectory_id} leave a gap at {position}")
        position = segment.end
    if position != end:
        raise ValueError(f"{where}: segments of {trajectory_id} end at {position}")


class Reservation(msgspec.Struct, frozen=True):
    """The permission to generate one group, granted by the controller to one rollout until the lease runs out."""

    group_id: str
    prompt: Prompt
    group_size: int
    seed: int
    sampling: SamplingParams
    mixture_epoch: int
    lease_s: float
    is_reissued: bool = False
    """Whether a rollout held it before: partial responses may lie in the replay shard of `group_id` (`ReadPartials`).
    """


@dataclass(frozen=True, slots=True)
class Generation:
    """What an engine returns for one request: the sampled tokens and where each came from.

    Attributes:
        response_ids: int32 `[T]`.
        behavior_logprobs: float32 `[T]`.
        segments: cover `[0, T)`, one per policy version that sampled a run of tokens.
        columns: optional ones that the engine adds, `[T]` or `[T, width]` each; of the whole response, a resumed
            prefix included.
    """

    response_ids: Int32
    behavior_logprobs: Float32
    segments: tuple[Segment, ...]
    finish_reason: FinishReason
    columns: Columns = field(default_factory=lambda: NO_COLUMNS)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict of a verifier on one response.

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
