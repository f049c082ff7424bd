"""The assignment of a batch's loss tokens to its M optimizer steps.

Owns: the split, by masks, of exactly Φ loss tokens into M parts of exactly Φ/M. A response may be split; its tokens
still attend to their whole context, since only the loss mask is cut.
"""

from __future__ import annotations

import numpy as np

from ring_async.types import Int32, UInt8


def assign_minibatches(loss_mask: UInt8, num_minibatches: int, num_ranks: int = 1, first_loss_token: int = 0) -> Int32:
    """Give every loss token the number of its minibatch.

    Within a rank, minibatches are runs in row order, so that each needs as few rows as possible. Loss tokens are
    numbered k = 0, 1, … over all ranks; a rank gives minibatch m as many tokens as it has numbers with k mod M = m. So
    a
    minibatch has exactly Φ/M tokens over all ranks, and a rank's part differs from a fair share by less than one token.

    Args:
        loss_mask: `[B, C]`; rank r owns rows `[r·B/R, (r+1)·B/R)`.
        num_minibatches: M.
        num_ranks: R, a divisor of B.
        first_loss_token: number of the batch's loss tokens that lie before these rows (0 if the rows are the batch).

    Returns:
        int32 `[B, C]`, 0 … M−1 at loss tokens and −1 elsewhere. If Φ is not a multiple of M (a stage's declared end),
        the first Φ mod M minibatches hold one token more.
    """
    assigned = np.full(loss_mask.shape, -1, dtype=np.int32)
    rows_per_rank = loss_mask.shape[0] // num_ranks
    first = first_loss_token
    for rank in range(num_ranks):
        rows = slice(rank * rows_per_rank, (rank + 1) * rows_per_rank)
        is_loss = loss_mask[rows] != 0
        num_tokens = int(is_loss.sum())
        quotas = np.bincount(np.arange(first, first + num_tokens) % num_minibatches, minlength=num_minibatches)
        assigned[rows][is_loss] = np.repeat(np.arange(num_minibatches, dtype=np.int32), quotas)
        first += num_tokens
    return assigned
