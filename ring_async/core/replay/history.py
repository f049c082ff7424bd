"""Which part of a replay store's past may be folded into a summary, so that a run of any length fits its disk.

Owns: that decision. Does not own the summary (`plan_log.FoldedPlans`), nor reading or deleting
(`storage.store_history`).

A plan stays while somebody may need it again: a learner that restarts from a checkpoint, a shard that was away, a
trajectory whose later part may still be planned. Beyond that, the newest `KEPT_PLANS` stay, for people and so that late
copies of ended groups are recognised; fewer where the past takes too much of the store.
"""

from __future__ import annotations

from typing import Final

KEPT_PLANS: Final = 512
MAX_HISTORY_SHARE: Final = 0.25
"""Share of the store that plans and ended groups may take before fewer plans than `KEPT_PLANS` are kept."""


def last_foldable(*, last_plan: int, covered: int, followed: float, max_staleness: int, is_crowded: bool) -> int:
    """The newest plan that may be folded; 0 or less: none.

    Args:
        last_plan: the newest plan.
        covered: the newest plan that a checkpoint covers.
        followed: the newest plan that all other shards have followed; infinite if there are none.
        max_staleness: in versions. A trajectory of plan n is in no plan after n + `max_staleness`.
        is_crowded: whether the past takes more than its share of the store.
    """
    unneeded = min(covered, followed) - max_staleness - 1
    return int(unneeded if is_crowded else min(unneeded, last_plan - KEPT_PLANS))
