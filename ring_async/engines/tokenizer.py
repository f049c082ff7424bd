"""Conversion between text and token ids, the same for every actor.

Owns: how a prompt becomes `prompt_ids` (the model's chat template where it has one) and how a response becomes text.
Does not own sampling. Loading imports transformers late: this module is cheap to import.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ring_async.types import Int32


def load_tokenizer(model_path: Path) -> Any:
    """The tokenizer of a Hugging Face directory (a `PreTrainedTokenizerFast`), from local files alone."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_path, local_files_only=True)


def encode_prompt(tokenizer: Any, text: str) -> Int32:
    """Token ids of a question, ready to be answered: int32 `[P]`.

    With a chat template the text is one user turn and the assistant's turn is opened; without, it is encoded as it is.
    """
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": text}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids = tokenizer.encode(text, add_special_tokens=False)
    else:
        ids = tokenizer.encode(text)
    return np.asarray(ids, dtype=np.int32)


def decode_response(tokenizer: Any, response_ids: Int32 | Sequence[int]) -> str:
    """The text of a response, without special tokens such as the end of sequence."""
    ids = response_ids.tolist() if isinstance(response_ids, np.ndarray) else list(response_ids)
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def stop_token_ids(tokenizer: Any, generation_config: Any = None) -> frozenset[int]:
    """Every token that ends a response: the tokenizer's end of sequence and those the model's files name besides."""
    ids = set() if tokenizer.eos_token_id is None else {int(tokenizer.eos_token_id)}
    more = getattr(generation_config, "eos_token_id", None)
    if more is not None:
        ids.update(int(token) for token in (more if isinstance(more, list | tuple) else [more]))
    return frozenset(ids)
