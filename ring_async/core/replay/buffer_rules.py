"""The settings of the replay buffer. Owns: their meaning, and the refusal of settings that cannot work."""

from __future__ import annotations

import msgspec

from ring_async.core.replay.token_budget import Order
from ring_async.core.staleness import StalenessMeasure
from ring_async.core.work.mixture import check_weights
from ring_async.errors import ConfigError


class BufferRules(msgspec.Struct, frozen=True):
    """Settings of the buffer.

    Attributes:
        token_budget: Φ over all ranks.
        carry: whether the remainder of a cut response is trained with the next batch, or dropped. With max_staleness 0
            it
                would be too old for the next batch, so it is always dropped.
        max_buffer_tokens: retention bound in trainable loss tokens; None: `2 (max_staleness + 1) Φ`.
        source_shares: each source's share of a batch's loss tokens, in any unit; None: no quotas.
        seed: for breaking ties in the order of candidates.
        num_shards: buffers that share the retention bound; each keeps its part, or a batch's part and one response.
    """

    token_budget: int
    token_capacity: int
    num_ranks: int = 1
    max_staleness: int = 4
    staleness_measure: StalenessMeasure = "oldest"
    max_reuse: int = 1
    order: Order = "oldest_version"
    carry: bool = True
    max_buffer_tokens: int | None = None
    source_shares: dict[str, float] | None = None
    seed: int = 0
    num_shards: int = 1

    @property
    def carries(self) -> bool:
        return self.carry and self.max_staleness > 0

    @property
    def retention_tokens(self) -> int:
        """The retention bound over all shards."""
        return self.max_buffer_tokens or 2 * (self.max_staleness + 1) * self.token_budget * self.max_reuse

    @property
    def retention_part(self) -> int:
        """One shard's part of the retention bound."""
        return -(-self.retention_tokens // self.num_shards)

    def batch_part(self, longest_tokens: int) -> int:
        """The tokens that a shard keeps in any case: a batch's part and one response more, given its longest one.

        Responses are ended whole; so, however many shards there are, together they never keep too little for a batch.
        """
        return -(-self.token_budget // self.num_shards) + longest_tokens * self.max_reuse


def check_rules(rules: BufferRules) -> None:
    """Refuse rules under which no batch could ever be filled.

    Raises:
        ConfigError: a setting cannot work; the message names it.
    """
    if rules.retention_tokens < rules.token_budget:
        raise ConfigError(
            f"replay.max_buffer_tokens: {rules.retention_tokens:,} is smaller than one batch of {rules.token_budget:,}"
        )
    if rules.source_shares is not None:
        try:
            check_weights(rules.source_shares)
        except ValueError as error:
            raise ConfigError(f"mixture: {rules.source_shares} gives no source a share of a batch: {error}") from error
    if rules.max_staleness < 0 or rules.max_reuse < 1:
        raise ConfigError("replay.max_staleness must be 0 or more, replay.max_reuse 1 or more")
