"""Conversion between text and token ids, the same for every actor.

Owns: how a prompt becomes `prompt_ids` (the model's chat template where it has one) and how a response becomes text.
Does not own sampling. Loading imports transformers late: this module is cheap to import.
Invariant: the ids of a chat are those of transformers' `apply_chat_template(…, add_generation_prompt=True)`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ring_async.errors import PromptRefusedError
from ring_async.types import Int32, Prompt

_OWN_VARIABLES = frozenset({"messages", "add_generation_prompt", "continue_final_message", "tokenize", "return_dict"})


def load_tokenizer(model_path: Path) -> Any:
    """The tokenizer of a Hugging Face directory (a `PreTrainedTokenizerFast`), from local files alone."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_path, local_files_only=True)


def encode_prompt(tokenizer: Any, prompt: Prompt | str, options: Mapping[str, Any] | None = None) -> Int32:
    """Token ids of a prompt, ready to be answered: int32 `[P]`.

    With a chat template the prompt is its messages, or its text as one user's turn, and the assistant's turn is opened;
    without, the text is encoded as it is.

    Args:
        tokenizer: of the model.
        prompt: what is asked; a text alone is one user's turn.
        options: variables of the chat template (`model.chat_template_options`).

    Raises:
        PromptRefusedError: the template refuses these messages, or there is no template for a chat.
    """
    if isinstance(prompt, str):
        prompt = Prompt("", "", prompt)
    if not tokenizer.chat_template:
        if prompt.messages:
            raise PromptRefusedError(
                f"{prompt.prompt_id}: a chat, and the model's tokenizer has no chat template; add chat_template.jinja "
                "to model.path, or give questions as texts"
            )
        return np.asarray(tokenizer.encode(prompt.text), dtype=np.int32)
    try:
        text = tokenizer.apply_chat_template(
            prompt.turns, tokenize=False, add_generation_prompt=True, **(options or {})
        )
    except Exception as error:  # templates raise what they like, e.g. jinja2's TemplateError
        raise PromptRefusedError(f"{prompt.prompt_id}: the model's chat template refuses it: {error}") from error
    return np.asarray(tokenizer.encode(text, add_special_tokens=False, verbose=False), dtype=np.int32)


def chat_option_problems(tokenizer: Any, options: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with `model.chat_template_options`, one line each: a name that the template lacks has no effect."""
    where = "model.chat_template_options"
    if options and not tokenizer.chat_template:
        yield f"{where}: the model's tokenizer has no chat template; leave it empty"
        return
    for name in options:
        if name in _OWN_VARIABLES:
            yield f"{where}.{name}: is set for each prompt; remove it"
        elif not re.search(rf"\b{re.escape(name)}\b", str(tokenizer.chat_template)):
            yield f"{where}.{name}: the model's chat template does not know it; remove it"


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
