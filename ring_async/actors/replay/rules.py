"""Replay's rules, from the run's configuration and from settings changed live.

Owns: the translation into the buffer's and the estimator's rules. Does not own the decisions under these rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ring_async.config.schema import Config
from ring_async.config.tunable import tuned
from ring_async.core.advantages import AdvantageRules
from ring_async.core.replay.buffer_rules import BufferRules


def buffer_rules(config: Config) -> BufferRules:
    """The buffer's rules from a run's configuration."""
    return BufferRules(
        token_budget=config.global_token_budget,
        token_capacity=config.learner.token_capacity,
        num_ranks=config.learner.parallel.num_data_ranks,
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


def tuned_rules(config: Config, knobs: Mapping[str, Any]) -> BufferRules:
    """The buffer's rules after settings were changed live, the mixture included, since quotas may follow it.

    Raises:
        ConfigError: a setting is not tunable, or has a bad value.
    """
    settings = {name: value for name, value in knobs.items() if name != "mixture"}
    rules = buffer_rules(tuned(config, settings))
    if rules.source_shares is None or "mixture" not in knobs:
        return rules
    return msgspec.structs.replace(rules, source_shares=dict(knobs["mixture"]))
