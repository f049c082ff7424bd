"""The batch watch: whether a run has been without a batch for too long, and why.

    learner's heartbeats ──is starved──▶ ┌────────────┐ ──the cause──▶ the run ends
    controller ──paused, no place──────▶ │ BatchWatch │
    ledger ──what became of responses──▶ └────────────┘

Owns: the time for which the learner has had nothing to train, and the sentence that says why. Does not own the end of
the run.
Invariants: a batch that is trained starts the time again. Time that is excused does not count: a pause, an actor that
waits for a host, a restart of the learner or of replay. A watch that is asked late counts at most `MAX_STEP_S`, so that
a controller that stood still does not take its own lateness for the learner's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_STEP_S = 1.0
"""Longest time that two questions to the watch may lie apart and count in full."""

NO_SIGNAL = "dropped(no_signal)"


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
    _causes: dict[str, int] = field(default_factory=dict)
    """The ledger's causes when the last batch was trained."""

    def trained(self, causes: Mapping[str, int]) -> None:
        """Note that a batch was trained. `causes`: ended trajectories by `state(cause)`, as `Ledger.causes` counts."""
        self.waited_s = 0.0
        self._causes = dict(causes)

    def observe(self, now_s: float, *, is_starved: bool, is_excused: bool) -> None:
        """Count the time since the last call, if the learner has nothing to train and nothing excuses that."""
        step_s = 0.0 if self._seen_s is None else min(MAX_STEP_S, now_s - self._seen_s)
        self._seen_s = now_s
        if is_starved and not is_excused:
            self.waited_s += step_s

    @property
    def is_over(self) -> bool:
        """Whether the run has been without a batch for longer than the deadline."""
        return self.waited_s > self.deadline_s

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
