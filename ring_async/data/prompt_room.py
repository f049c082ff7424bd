"""The tokens that a model has for prompts, and which prompts are longer.

Owns: the model's number of positions, and the count of a prompt's own tokens, without transformers (its import takes
seconds and loads torch; the controller asks too). Does not own what becomes of a prompt that is too long.
Invariant: a prompt that is refused here is too long in truth; one that is not may still be, with what the chat template
adds, and the engine refuses it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ring_async.types import Prompt

_POSITIONS = ("max_position_embeddings", "n_positions", "max_sequence_length")


class PromptRoom:
    """What is left of a model's positions when a response may have `max_tokens` of them.

    PromptRoom(resolve_model_path("builtin:tiny"), 48).num_tokens     # 208 = 256 − 48

    Args:
        model_path: Hugging Face directory.
        max_tokens: of one response; may change.
    """

    def __init__(self, model_path: Path, max_tokens: int) -> None:
        self._tokenizer_file = model_path / "tokenizer.json"
        self._tokenizer: Any = None
        self.num_positions = num_positions(model_path)
        self.max_tokens = max_tokens

    @property
    def num_tokens(self) -> int | None:
        """Tokens that a prompt may have; None: unknown."""
        return None if self.num_positions is None else self.num_positions - self.max_tokens

    def may_exceed(self, prompt: Prompt, num_added: int = 0) -> bool:
        """Whether the prompt could be too long, with `num_added` tokens around it: a token has a byte at least."""
        return self.num_tokens is not None and len(prompt.conversation.encode()) + num_added > self.num_tokens

    def refusal(self, prompt: Prompt) -> str:
        """Why the model cannot take a prompt, as far as its own text shows; empty if nothing is known against it."""
        if not self.may_exceed(prompt) or not self._tokenizer_file.is_file():
            return ""
        texts = [one.content for one in prompt.messages] or [prompt.text]
        num_tokens = sum(len(self._loaded().encode(text, add_special_tokens=False)) for text in texts)
        if num_tokens <= (self.num_tokens or 0):
            return ""
        return f"{num_tokens} tokens are more than the {self.num_tokens} that the model and rollout.max_tokens leave"

    def _loaded(self) -> Any:
        if self._tokenizer is None:
            from tokenizers import Tokenizer

            self._tokenizer = Tokenizer.from_file(str(self._tokenizer_file))
        return self._tokenizer


def num_positions(model_path: Path) -> int | None:
    """Tokens of one sequence that the model's `config.json` allows; None: it does not say."""
    try:
        config = json.loads((model_path / "config.json").read_text())
    except ValueError:  # whoever loads the model says so, with what is wrong
        return None
    for section in (config, config.get("text_config") or {}):
        for name in _POSITIONS:
            if isinstance(section.get(name), int):
                return int(section[name])
    return None
