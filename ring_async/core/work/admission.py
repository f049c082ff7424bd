"""Admission: the limit on the number of groups under way.

Owns: the limit on tokens that are buffered or being generated ahead of the learner, and the running means it is
computed from. Events in (`observe_*`), a number out (`grantable`). Does not own leases (`leases`), states (`ledger`),
or which trajectories are eligible (`core.replay`).
Invariants: a limiter that exists cannot deadlock, for it grants while nothing is under way and the learner waits. A
refused change leaves the limiter unchanged.
Source: docs/replay.md, "Admission"; the account of AReaL (arXiv 2505.24298 §5.1), in tokens instead of responses.

The account, with `version` the newest published and `planned` the batches already handed out:

    buffered + expected of what runs  <  (version + max_staleness + 1 − headroom − planned) · Φ

so that every admitted token is consumed within `max_staleness` versions. Without headroom the last admitted group would
be consumed at the bound exactly, and any delay would evict it: a mean that was estimated too low, a response that may
not be cut. Half a batch of headroom takes evictions in the simulated fleet from 5.5 % to 0.14 % at the same throughput
(docs/scale.md). With max_staleness 0 there is no headroom, and generation and training alternate: while the learner
trains a batch, planned = version + 1 and nothing is granted.
"""

from __future__ import annotations

import msgspec

from ring_async.errors import ConfigError
from ring_async.types import PolicyVersion

MAX_NO_SIGNAL_SHARE = 0.9
"""Groups without a signal are made up for up to this share; beyond it the prompts are at fault, not their number."""


class AdmissionRules(msgspec.Struct, frozen=True):
    """The settings of a limiter.

    Attributes:
        token_budget: Φ over all ranks.
        max_staleness: versions; 0 is the synchronous control.
        max_group_tokens: the longest a group can be, `group_size · max_tokens`.
        max_buffer_tokens: replay's retention bound; None: `2 (max_staleness + 1) Φ`.
        max_reuse: how often one token is trained.
        max_groups: most groups under way at once, or None.
        headroom: batches kept free below the bound; without effect at `max_staleness` 0.
    """

    token_budget: int
    max_staleness: int
    max_group_tokens: int
    max_buffer_tokens: int | None = None
    max_reuse: int = 1
    max_groups: int | None = None
    headroom: float = 0.5

    def check(self) -> None:
        """Refuse settings that cannot run, or can come to a standstill.

        Raises:
            ConfigError: a setting cannot work; the message names it, and says what would happen.
        """
        if self.token_budget <= 0 or self.max_group_tokens <= 0 or self.max_reuse <= 0:
            raise ConfigError("token_budget, max_reuse and the longest group must be above 0")
        if self.max_staleness < 0:
            raise ConfigError(f"replay.max_staleness: {self.max_staleness} is below 0: nothing could ever be trained")
        if not 0 <= self.headroom <= 1:
            raise ConfigError(
                f"headroom {self.headroom}: between 0 and 1 batch, or max_staleness 1 would grant nothing"
            )
        if self.max_groups is not None and self.max_groups < 1:
            raise ConfigError("at most 0 groups under way: nothing would ever be generated")
        if self.max_buffer_tokens is not None and self.max_buffer_tokens < self.token_budget + self.max_group_tokens:
            raise ConfigError(
                f"replay.max_buffer_tokens: {self.max_buffer_tokens:,} cannot hold one batch of {self.token_budget:,} "
                f"tokens and one group of up to {self.max_group_tokens:,}: replay would evict what the learner waits "
                f"for, and both would wait for ever; set at least {self.token_budget + self.max_group_tokens:,}"
            )


class AdmissionState(msgspec.Struct):
    """The state of a limiter that survives a restart."""

    version_number: int = 0
    num_planned: int = 0
    group_tokens: float = 0.0
    """Running mean of response tokens of a group; 0: none seen yet."""
    no_signal_share: float = 0.0


class Grant(msgspec.Struct, frozen=True):
    """How many groups may be granted now; if none, `reason` says what admission waits for."""

    num_groups: int
    reason: str = ""


class AdmissionLimiter:
    """Decides how many groups may be granted; the formula is in the module's docstring.

        limiter = AdmissionLimiter(AdmissionRules(token_budget=100, max_staleness=1, max_group_tokens=40))
        limiter.grantable(0, PolicyVersion(0, 0)).num_groups       # 8 groups of an expected 20 tokens, below 1.5 · Φ
        limiter.grantable(8, PolicyVersion(0, 0)).reason           # why there is none for the next rollout

    Raises:
        ConfigError: at construction and in `tune`, for rules that can deadlock.
    """

    def __init__(self, rules: AdmissionRules, state: AdmissionState | None = None, *, smoothing: float = 0.02) -> None:
        rules.check()
        self.rules = rules
        self.state = state or AdmissionState()
        self._smoothing = smoothing
        self._buffer_tokens = 0
        self._is_learner_waiting = False

    def tune(self, **changes: float | None) -> None:
        """Change the rules of the grants to come.

        Raises:
            ConfigError: admission could deadlock under these rules; the old rules stay.
        """
        rules = msgspec.structs.replace(self.rules, **changes)
        rules.check()
        self.rules = rules

    # -- events

    def observe_version(self, version: PolicyVersion) -> None:
        """Note the learner's newest version; after a restart its number may be smaller."""
        self.state.version_number = version.number

    def observe_buffer(self, buffer_tokens: int, next_plan_number: int, *, is_learner_waiting: bool = False) -> None:
        """Note replay's report of its content. `is_learner_waiting`: a request for a batch is unanswered."""
        self._buffer_tokens = buffer_tokens
        self.state.num_planned = next_plan_number - 1
        self._is_learner_waiting = is_learner_waiting

    def observe_group(self, num_tokens: int, *, has_signal: bool) -> None:
        """Note a group that ended with `num_tokens` response tokens over its K trajectories."""
        state, rate = self.state, self._smoothing
        state.group_tokens = num_tokens if not state.group_tokens else _mix(state.group_tokens, num_tokens, rate)
        state.no_signal_share = _mix(state.no_signal_share, 0.0 if has_signal else 1.0, rate)

    # -- decision

    @property
    def limit_tokens(self) -> int:
        """The number of tokens that may be buffered or expected ahead of the learner now."""
        rules = self.rules
        ahead: float = self.state.version_number + rules.max_staleness + 1 - self.state.num_planned
        if rules.max_staleness > 0:
            ahead -= rules.headroom
        limit = int(max(0, ahead) * rules.token_budget)
        if rules.max_buffer_tokens is not None:
            limit = min(limit, rules.max_buffer_tokens - rules.max_group_tokens)
        return limit

    @property
    def expected_group_tokens(self) -> float:
        """The expected loss tokens of one more group, over all its uses, less the share of groups without a signal.

        Before any group was observed: half of the longest possible group.
        """
        mean = self.state.group_tokens or self.rules.max_group_tokens / 2
        return max(1.0, mean * self.rules.max_reuse * (1 - min(self.state.no_signal_share, MAX_NO_SIGNAL_SHARE)))

    def grantable(self, num_running: int, policy_version: PolicyVersion | None = None) -> Grant:
        """The number of further groups that may be granted, or the reason why there is none.

        Args:
            num_running: groups granted and not yet in the buffer, dropped or failed.
            policy_version: the version that the asking rollout samples from; if it is too old, nothing is granted.
        """
        state, rules = self.state, self.rules
        if policy_version is not None and policy_version.number < state.version_number - rules.max_staleness:
            return Grant(
                0, f"holds version {policy_version}, beyond max_staleness {rules.max_staleness}: weights first"
            )
        if rules.max_groups is not None and num_running >= rules.max_groups:
            return Grant(0, f"{num_running} groups are under way, the most allowed")
        per_group = self.expected_group_tokens
        ahead = self._buffer_tokens + num_running * per_group
        free = self.limit_tokens - ahead
        if free > 0:
            num_groups = -int(-free // per_group)
            if rules.max_groups is not None:
                num_groups = min(num_groups, rules.max_groups - num_running)
            return Grant(num_groups)
        if num_running == 0 and self._is_learner_waiting:
            return Grant(1)
        return Grant(
            0, f"{ahead:,.0f} tokens buffered or under way, {self.limit_tokens:,} allowed ahead of the learner"
        )


def _mix(mean: float, value: float, rate: float) -> float:
    return mean + rate * (value - mean)
