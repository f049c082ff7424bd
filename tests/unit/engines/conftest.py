"""A model small enough for unit tests, and what a fresh forward says of a response."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY = 23


def _make_model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=160,
        tie_word_embeddings=True,
        initializer_range=0.4,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def make_model():
    """`make_model(seed)`: a random model of two layers with grouped key-value heads."""
    return _make_model


@pytest.fixture
def fresh_logprobs():
    """`fresh_logprobs(model, prompt_ids, response_ids, temperature)`: float32 `[T]`, from one plain forward."""

    @torch.no_grad()
    def compute(model, prompt_ids, response_ids, temperature: float = 1.0) -> np.ndarray:
        ids = torch.tensor([[*prompt_ids, *response_ids]]).long()
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt_ids) - 1 : -1]
        logprobs = torch.log_softmax(logits / temperature, dim=-1)
        return logprobs.gather(1, ids[0, len(prompt_ids) :, None])[:, 0].numpy()

    return compute
