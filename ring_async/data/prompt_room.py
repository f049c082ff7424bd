"""Whether a model has room for a source's prompts and the responses to them.

Owns: the trial of a source's first prompts, before a run begins. Does not own what becomes of a single prompt that is
too long while the run goes on (the engine refuses it). Imports no torch: the tokenizer's file is read as it is, and a
model without one is not judged.
"""

from __future__ import annotations

import json
from pathlib import Path

from ring_async.config.schema import Config
from ring_async.data.base import PromptSource
from ring_async.errors import ConfigError
from ring_async.models import resolve_model_path

NUM_TRIED = 8
"""Prompts that are read. A source is refused if none of them fits: one that is odd is no reason."""


def check_response_room(config: Config, model_path: Path) -> None:
    """Refuse responses for which the model has no positions, whatever the prompt.

    Raises:
        ConfigError: `rollout.max_tokens` is not smaller than the model's positions.
    """
    positions = max_positions(model_path)
    if positions is not None and config.rollout.max_tokens >= positions:
        raise ConfigError(
            f"rollout.max_tokens: {config.rollout.max_tokens} leaves no room for a prompt in the {positions} positions "
            f"of the model ({config.model.path}); set it below"
        )


def check_prompt_room(source: PromptSource, config: Config) -> None:
    """Refuse a source whose prompts, with a response behind each, fit neither the model nor a packed row.

    Raises:
        ConfigError: none of its first prompts does.
    """
    try:
        model_path = resolve_model_path(config.model.path)
    except ConfigError:
        return  # which is told of the model, once
    file = model_path / "tokenizer.json"
    if not file.is_file():
        return
    from tokenizers import Tokenizer

    positions = max_positions(model_path) or config.learner.token_capacity
    if config.rollout.max_tokens >= positions:
        return  # `check_response_room` tells that
    room = min(positions, config.learner.token_capacity) - config.rollout.max_tokens
    tokenizer = Tokenizer.from_file(str(file))
    num_tried = min(NUM_TRIED, source.num_prompts or NUM_TRIED)
    # Without the chat template, which only adds to it.
    shortest = min(len(tokenizer.encode(source.prompt(index).text).ids) for index in range(num_tried))
    if shortest <= room:
        return
    if positions < config.learner.token_capacity:
        where, remedy = f"the {positions} positions of the model", "lower rollout.max_tokens or take a model with more"
    else:
        where, remedy = (
            f"learner.token_capacity {config.learner.token_capacity}",
            "raise it or lower rollout.max_tokens",
        )
    raise ConfigError(
        f"sources.{source.name}: the shortest of its first {num_tried} prompts has {shortest} tokens; with "
        f"rollout.max_tokens {config.rollout.max_tokens} behind it, it does not fit into {where}; {remedy}"
    )


def max_positions(model_path: Path) -> int | None:
    """The number of positions that a Hugging Face model knows; None where its `config.json` does not say."""
    try:
        values = json.loads((model_path / "config.json").read_text(encoding="utf-8"))
        positions = (values.get("text_config") or values).get("max_position_embeddings")
    except (OSError, ValueError, AttributeError):
        return None
    return positions if isinstance(positions, int) and positions > 0 else None
