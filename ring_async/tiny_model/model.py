"""The tiny model's shape, and how it is written to disk. Does not own its training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ring_async.engines.tokenizer import load_tokenizer
from ring_async.tiny_model.domains import vocabulary_phrases
from ring_async.tiny_model.tokenizer import make_tokenizer

_MAX_POSITIONS = 256


def make_model(seed: int) -> tuple[Any, Any]:
    """A fresh model (1.8 M parameters, float32, Llama layout, tied embeddings) and its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer(vocabulary_phrases(), _MAX_POSITIONS)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        max_position_embeddings=_MAX_POSITIONS,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config), tokenizer


def load_model(folder: Path) -> tuple[Any, Any]:
    """A model from disk, in float32, and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True), load_tokenizer(
        folder
    )


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write model (bf16 safetensors) and tokenizer as a Hugging Face directory; `model` stays as it is."""
    import copy

    import torch

    folder.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).to("cpu", torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
