"""From transformers' `model_type` to the map of its family."""

from __future__ import annotations

from typing import Any

from ring_async.errors import ConfigError
from ring_async.training.megatron.names.bailing_moe import BailingMoeNames
from ring_async.training.megatron.names.llama import LlamaNames
from ring_async.training.megatron.names.qwen2 import Qwen2Names
from ring_async.training.megatron.names.qwen3 import Qwen3Names
from ring_async.training.megatron.names.qwen3_moe import Qwen3MoeNames

FAMILIES: dict[str, type[LlamaNames]] = {
    "llama": LlamaNames,
    "qwen2": Qwen2Names,
    "qwen3": Qwen3Names,
    "qwen3_moe": Qwen3MoeNames,
    "bailing_moe": BailingMoeNames,
}


def names_of(config: Any) -> LlamaNames:
    """The map of a model.

    Args:
        config: transformers' configuration of the model.

    Raises:
        ConfigError: its family has no map, or it has a part that is not built here.
    """
    if config.model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise ConfigError(f"model.path: megatron knows no {config.model_type}, but {known}; use learner.engine=hf")
    return FAMILIES[config.model_type](config)
