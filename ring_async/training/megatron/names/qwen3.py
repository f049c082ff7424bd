"""Qwen3: Llama's names, with norms of queries and keys."""

from __future__ import annotations

import dataclasses
from typing import Any

from ring_async.training.megatron.names.llama import LlamaNames
from ring_async.training.megatron.shape import DecoderShape


class Qwen3Names(LlamaNames):
    """See `LlamaNames`."""

    def read(self, config: Any) -> DecoderShape:
        return dataclasses.replace(super().read(config), qk_norm=True)
