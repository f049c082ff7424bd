"""Qwen2: Llama's names, with biases on queries, keys and values."""

from __future__ import annotations

import dataclasses
from typing import Any

from ring_async.training.megatron.names.llama import LlamaNames
from ring_async.training.megatron.shape import DecoderShape


class Qwen2Names(LlamaNames):
    """See `LlamaNames`."""

    def read(self, config: Any) -> DecoderShape:
        return dataclasses.replace(super().read(config), qkv_bias=True)
