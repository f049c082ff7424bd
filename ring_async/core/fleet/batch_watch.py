"""The batch watch: whether a run has been without a batch for too long, and why.

    learner's heartbeats ──is starved──▶ ┌────────────┐ ──the cause──▶ the run ends
    controller ──paused, no place──────▶ │ BatchWatch │
    ledger ──what became of responses──▶ └────────────┘

Owns: the time for which the learner has had nothing to train and nothing came nearer to it, and the sentence that says
why. Does not own the end of the run.
Invariants: a batch that is trained starts the time again, and so does a buffer that holds more than ever since the last
batch. While tokens are sampled, no time alone ends a run: responses may take longer than any deadline. It ends once as
many responses ended without use as are under way. Time that is excused does not count: a pause, an actor that
waits for a host, a restart of the learner or of replay. A watch that is asked late counts at most `MAX_STEP_S`, so that
a controller that stood still does not take its own lateness for the learner's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ring_async.trajectory_states import UNDER_WAY_STATES, TrajectoryStatus

MAX_STEP_S = 1.0
"""Longest time that two questions to the watch may lie apart and count in full."""

NO_SIGNAL = "dropped(no_signal)"


class Signs(NamedTuple):
    """What shows whether a batch comes nearer.

    Attributes:
        generated_tokens: sampled so far.
        buffer_tokens: trainable now.
        num_lost: responses that ended without use: dropped, evicted, failed.
        num_under_way: responses that may still come into the buffer.
    """

    generated_tokens: float = 0
    buffer_tokens: float = 0
    num_lost: int = 0
    num_under_way: int = 0

    @classmethod
    def of(
        cls,
        generated_tokens: float,
        buffer_tokens: float,
        counts: Mapping[str, int],
        causes: Mapping[str, int],
    ) -> Signs:
        """Signs from what is sampled and buffered, and the ledger's counts and causes."""
        num_lost = sum(number for cause, number in causes.items() if cause != TrajectoryStatus.RETIRED)
        num_under_way = sum(counts[state] for state in UNDER_WAY_STATES)
        return cls(generated_tokens, buffer_tokens, num_lost, num_under_way)


NO_SIGNS = Signs()


@dataclass(slots=True)
class BatchWatch:
    """The time since the last batch, as far as it counts.

        watch.observe(0.0, is_starved=True, is_excused=False)
        watch.observe(0.5, is_starved=True, is_excused=False)     # watch.waited_s is 0.5
        watch.trained({})                                         # 0 again

    Args:
        deadline_s: `replay.batch_deadline_s`.
    """

    deadline_s: float
    waited_s: float = 0.0
    _seen_s: float | None = None
    _still_s: float = 0.0
    """Time since tokens were last sampled, as far as it counts."""
    _most_tokens: float = 0
    """Most trainable tokens since the last batch."""
    _num_lost_before: int = 0
    """Responses that had ended without use when a batch last came nearer."""
    _signs: Signs = NO_SIGNS
    _causes: dict[str, int] = field(default_factory=dict)
    """The ledger's causes when the last batch was trained."""

    def trained(self, causes: Mapping[str, int]) -> None:
        """Note that a batch was trained. `causes`: ended trajectories by `state(cause)`, as `Ledger.causes` counts."""
        self._came_nearer(self._signs)
        self._most_tokens = 0
        self._causes = dict(causes)

    def _came_nearer(self, signs: Signs) -> None:
        self.waited_s = self._still_s = 0.0
        self._most_tokens = signs.buffer_tokens
        self._num_lost_before = signs.num_lost

    def observe(self, now_s: float, *, is_starved: bool, is_excused: bool, signs: Signs = NO_SIGNS) -> None:
        """Count the time since the last call, if the learner has nothing to train and nothing excuses that."""
        if self._seen_s is None:  # what was lost before this process watched was not in vain meanwhile
            self._num_lost_before = signs.num_lost
        step_s = 0.0 if self._seen_s is None else min(MAX_STEP_S, now_s - self._seen_s)
        self._seen_s = now_s
        if is_starved and not is_excused:
            self.waited_s += step_s
            self._still_s += step_s
        before, self._signs = self._signs, signs
        if signs.generated_tokens != before.generated_tokens:
            self._still_s = 0.0
        if signs.buffer_tokens > self._most_tokens:
            self._came_nearer(signs)

    @property
    def is_over(self) -> bool:
        """Whether the run has been without a batch for longer than the deadline, and nothing promises one."""
        is_in_vain = self._signs.num_lost - self._num_lost_before >= max(1, self._signs.num_under_way)
        return self.waited_s > self.deadline_s and (self._still_s > self.deadline_s or is_in_vain)

    def why(self, waited_for: str, causes: Mapping[str, int]) -> str:
        """Why the run ends, in a sentence that names the setting, the wait, and what became of the responses.

        Args:
            waited_for: what the learner waits for, in its own words.
            causes: ended trajectories by `state(cause)`, as `Ledger.causes` counts.
        """
        ended = {cause: n - self._causes.get(cause, 0) for cause, n in causes.items() if n > self._causes.get(cause, 0)}
        if not ended:
            meanwhile = "no response ended meanwhile: look at what the rollout and reward actors wait for"
        elif ended.keys() == {NO_SIGNAL}:
            meanwhile = (
                f"no signal: all rewards equal within each of the groups judged meanwhile, {ended[NO_SIGNAL]:,} "
                "responses; prompts that are neither always nor never solved are needed, or another verifier"
            )
        else:
            meanwhile = "responses that ended meanwhile: " + ", ".join(f"{n:,} {c}" for c, n in sorted(ended.items()))
        return (
            f"replay.batch_deadline_s: no batch was trained for {self.deadline_s:.0f} s; the learner waits for "
            f"{waited_for}; {meanwhile}"
        )
