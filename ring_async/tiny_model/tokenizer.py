"""The tiny model's tokenizer: any text by bytes, digits one by one, constant text of the prompts one token each.

Owns: the vocabulary. Does not own which phrases are worth a token (`domains`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

BEGIN, END, RESPOND, PAD = "<|begin|>", "<|end|>", "<|respond|>", "<|pad|>"
_TEMPLATE = (
    BEGIN + "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}" + RESPOND + "{% endif %}"
)


def make_tokenizer(phrases: Iterable[str], max_length: int) -> Any:
    """A `PreTrainedTokenizerFast` over 256 bytes, four control tokens and `phrases`, which are matched first.

    Text without a phrase is read byte by byte, so nothing is unknown and digits are always single tokens.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    control = [PAD, BEGIN, END, RESPOND]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(control + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(control)
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in dict.fromkeys(phrases)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        model_max_length=max_length,
    )
    fast.chat_template = _TEMPLATE
    return fast
