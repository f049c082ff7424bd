"""What a run's configuration, and knobs turned while it runs, mean for replay.

Owns: the translation into the buffer's and the estimator's rules. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ring_async.config.schema import Config
from ring_async.core.advantages import AdvantageRules
from ring_async.core.buffer_rules import BufferRules
from ring_async.errors import ConfigError

TUNABLE = {
    "budget.token_budget": "token_budget",
    "budget.order": "order",
    "replay.max_staleness": "max_staleness",
    "replay.max_reuse": "max_reuse",
    "replay.max_buffer_tokens": "max_buffer_tokens",
    "mixture": "source_shares",
}
"""Knobs that may change while running, and the buffer rule each sets; `mixture` where `budget.quotas` follow it."""


def buffer_rules(config: Config) -> BufferRules:
    """The buffer's rules from a run's configuration."""
    return BufferRules(
        token_budget=config.global_token_budget,
        token_capacity=config.learner.token_capacity,
        num_ranks=config.learner.num_ranks,
        max_staleness=config.max_staleness,
        staleness_measure=config.replay.staleness_measure,
        max_reuse=config.replay.max_reuse,
        order=config.budget.order,
        carry=config.budget.leftover == "carry",
        max_buffer_tokens=config.replay.max_buffer_tokens,
        source_shares=dict(config.mixture) if config.budget.quotas == "mixture" else None,
        seed=config.seed,
        num_shards=config.replay.num,
    )


def advantage_rules(config: Config) -> AdvantageRules:
    """The estimator's settings from a run's configuration."""
    advantage = config.advantage
    return AdvantageRules(
        estimator=advantage.estimator,
        no_signal_tolerance=advantage.no_signal_tolerance,
        truncated=advantage.truncated,
        soft_cache_tokens=advantage.soft_cache_tokens,
        masked_in_mean=advantage.masked_in_mean,
    )


def tuned_rules(rules: BufferRules, knobs: Mapping[str, Any]) -> BufferRules:
    """`rules` with the knobs that are replay's; others are somebody else's and pass by.

    Raises:
        ConfigError: a value of the wrong type.
    """
    changes = {TUNABLE[name]: value for name, value in knobs.items() if name in TUNABLE}
    if rules.source_shares is None:
        changes.pop("source_shares", None)
    try:
        return msgspec.convert(msgspec.structs.asdict(rules) | changes, BufferRules)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{', '.join(sorted(changes))}: {error}") from error
