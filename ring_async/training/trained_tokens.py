"""The ratio of each token that was trained, taken from the columns of a batch's statistics.

Owns: the choice of tokens and their way back from the order of microbatches into responses. Does not own the columns
(`algorithms.statistics`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ring_async.algorithms.statistics import BatchStatistics
from ring_async.batches import BatchPlan
from ring_async.records.trained_tokens import Fate, TrainedTokens

MAX_TOKENS = 16_384
"""Of one batch; whole responses from the plan's first on. More would be written than people read."""
UNSEEN = 255
_COLUMNS = ("position", "log_w", "is_used", "is_masked", "is_clipped")


def trained_tokens(statistics: BatchStatistics, plan: BatchPlan) -> tuple[TrainedTokens, ...]:
    """The first responses of a batch with the ratio of each of their loss tokens.

    Responses of which this process saw a part alone (another rank has the rest) are left out.

    Args:
        statistics: of this process's rows, with the column `position` (int64, place in the flattened rows).
        plan: of the same rows.
    """
    table = statistics.columns(*_COLUMNS)
    if "position" not in table:
        return ()
    size = plan.num_rows * plan.token_capacity
    ratios = np.full(size, np.nan, np.float32)
    fates = np.full(size, UNSEEN, np.uint8)
    positions = table["position"]
    with np.errstate(over="ignore"):
        ratios[positions] = np.exp(table["log_w"])
    fates[positions] = np.select(
        [~table["is_used"].astype(bool), table["is_masked"].astype(bool), table["is_clipped"].astype(bool)],
        [Fate.NONFINITE, Fate.MASKED, Fate.CLIPPED],
        Fate.TRAINED,
    )
    return tuple(_of_responses(plan, ratios, fates))


def _of_responses(plan: BatchPlan, ratios: npt.NDArray[Any], fates: npt.NDArray[Any]) -> list[TrainedTokens]:
    found: list[TrainedTokens] = []
    num_tokens = 0
    for sequence in plan.sequences:
        interval = sequence.interval
        num_tokens += interval.end - interval.start
        if num_tokens > MAX_TOKENS:
            break
        begin = sequence.row * plan.token_capacity + sequence.offset + sequence.num_prompt_tokens + interval.start
        place = slice(begin, begin + interval.end - interval.start)
        version = plan.policy_version.number
        if (fates[place] == UNSEEN).any():
            continue
        found.append(
            TrainedTokens(
                interval.trajectory_id, version, interval.start, ratios[place].tobytes(), fates[place].tobytes()
            )
        )
    return found
