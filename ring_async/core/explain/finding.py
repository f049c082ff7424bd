"""What a rule says: a cause from a closed set, how grave it is, and a sentence with its remedy."""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum, StrEnum

import msgspec


class Gravity(IntEnum):
    """In the order in which findings are said."""

    FAULT = 0
    """Something is broken; the run stands or loses a part."""
    SYMPTOM = 1
    """The run goes on, but slower, or learning from worse data, than it could."""
    TIP = 2
    """Nothing is wrong, and something could be faster. Said only where there is neither fault nor symptom."""


class Cause(StrEnum):
    """What is the matter."""

    PAUSED = "paused"
    RUN_FAILED = "run_failed"
    DIVERGED = "diverged"
    FULL_DISK = "full_disk"
    DEAD_ACTOR = "dead_actor"
    FAILING_VERIFIER = "failing_verifier"
    STALE_WEIGHTS = "stale_weights"
    EVALUATOR_STUCK = "evaluator_stuck"
    CLOCK_JUMPED = "clock_jumped"
    SLOW_VERIFIER = "slow_verifier"
    OVERLOADED_REWARD = "overloaded_reward"
    SLOW_COMMITS = "slow_commits"
    LONG_RESPONSES = "long_responses"
    SMALL_ADMISSION = "small_admission"
    SLOW_CHANNEL = "slow_channel"
    SLOW_CHECKPOINT = "slow_checkpoint"
    STARVING_SOURCE = "starving_source"
    NO_SIGNAL = "no_signal"
    EVICTIONS = "evictions"
    TRUNCATED = "truncated"
    NONFINITE = "nonfinite"
    LOW_SAMPLE_SIZE = "low_sample_size"
    MASKED = "masked"
    MISMATCH = "mismatch"
    REWARD_FELL = "reward_fell"
    IMBALANCE = "imbalance"
    SLOW_REWARD = "slow_reward"
    LATE_WEIGHTS = "late_weights"
    SLOW_STEP = "slow_step"
    CLIPPED = "clipped"
    ENTROPY_FELL = "entropy_fell"
    GENERATION_BOUND = "generation_bound"
    LEARNER_BOUND = "learner_bound"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to know about a run. `what` is a sentence; `remedy` says what to do, or is empty."""

    cause: Cause
    gravity: Gravity
    what: str
    remedy: str = ""
    who: str = ""
    """The actor, source or verifier concerned; empty: the run."""

    @property
    def sentence(self) -> str:
        """Both in one."""
        return f"{self.what} {self.remedy}".strip()


def clock(time: float) -> str:
    """A time of day as people read it, in the zone of this process."""
    return datetime.fromtimestamp(time).strftime("%H:%M")


def share(value: float) -> str:
    return f"{value * 100:.0f} %"


def seconds(value: float) -> str:
    """Seconds with two significant digits, or minutes."""
    if value >= 100:
        return f"{value / 60:.0f} min"
    return f"{value:.0f} s" if value >= 10 else f"{value:.1f} s" if value >= 0.1 else f"{value * 1e3:.0f} ms"


def times(factor: float) -> str:
    return f"{factor:.0f}×" if factor >= 9.5 else f"{factor:.1f}×"


def listed(names: list[str], *, most: int = 3) -> str:
    """`a, b and c`, or the first few and the number of the others."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
