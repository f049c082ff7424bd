"""The restart policy: whether and when a dead actor is started again.

Owns: the count of deaths per actor and the delay before the next start. Does not own processes.
Invariant: an actor that died more than `max_restarts` times within `window_s` is given up, and the reason says so.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RestartDecision:
    """`delay_s` is None when the actor is given up; `reason` is for people."""

    delay_s: float | None
    reason: str


@dataclass(slots=True)
class RestartPolicy:
    """Decides on restarts: the delay grows exponentially, and restarts within a sliding window are bounded.

    policy = RestartPolicy(max_restarts=1, window_s=60.0)
    policy.on_death(actor_id, 0.0, "exit code 1").delay_s     # 0.2
    policy.on_death(actor_id, 9.0, "exit code 1").delay_s     # None: given up
    """

    max_restarts: int
    window_s: float
    first_delay_s: float = 0.2
    longest_delay_s: float = 10.0
    _deaths: dict[str, deque[float]] = field(default_factory=dict)

    def on_death(self, actor_id: str, now_s: float, cause: str) -> RestartDecision:
        """Record a death at `now_s` and decide."""
        deaths = self._deaths.setdefault(actor_id, deque())
        deaths.append(now_s)
        while deaths and now_s - deaths[0] > self.window_s:
            deaths.popleft()
        if len(deaths) > self.max_restarts:
            return RestartDecision(
                None, f"{actor_id} died {len(deaths)} times within {self.window_s:.0f} s, last: {cause}"
            )
        delay_s = min(self.longest_delay_s, self.first_delay_s * 2 ** (len(deaths) - 1))
        return RestartDecision(delay_s, f"{actor_id} died ({cause}); starting it again in {delay_s:.1f} s")

    def forgive(self, actor_id: str) -> None:
        """Remove an actor's last death from the count, because its host was lost."""
        if deaths := self._deaths.get(actor_id):
            deaths.pop()
