"""What the engine knows of the model it serves, read from its files: never its weights.

Owns: the tokens that end a response, the longest sequence, the names of the weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ring_async.engines.base import GenerationRequest
from ring_async.engines.sglang.weights import ExpectedWeights, read_expected_weights
from ring_async.engines.tokenizer import load_tokenizer
from ring_async.errors import ConfigError

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


class ServedModel:
    """A Hugging Face directory. `read` before anything else.

    Attributes:
        stop_ids: end-of-sequence tokens of the tokenizer, `config.json` and `generation_config.json`: what the server,
            which has no tokenizer, and the embedded engine take together.
        max_sequence_tokens: of prompt and response.
        expected: the weights that every version must have.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stop_ids: frozenset[int] = frozenset()
        self.max_sequence_tokens = 0
        self.expected = ExpectedWeights({})

    def read(self) -> None:
        """Read the files; blocks.

        Raises:
            ConfigError: there is no model here.
        """
        try:
            config = json.loads((self.path / "config.json").read_text())
            text = config.get("text_config") or config
            self.max_sequence_tokens = int(text["max_position_embeddings"])
            self.expected = read_expected_weights(self.path)
            ids = _eos_of(text) | _eos_of(config)
            generation = self.path / "generation_config.json"
            if generation.exists():
                ids |= _eos_of(json.loads(generation.read_text()))
            if any((self.path / name).exists() for name in _TOKENIZER_FILES):
                eos = load_tokenizer(self.path).eos_token_id
                ids |= set() if eos is None else {int(eos)}
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(f"model.path: {self.path} cannot be served: {error!r}") from error
        self.stop_ids = frozenset(ids)

    def check_fits(self, request: GenerationRequest) -> None:
        """Raises: ValueError: the request can never run."""
        where = f"request {request.request_id}"
        max_tokens = request.sampling.max_tokens
        if request.prompt_ids.size == 0:
            raise ValueError(f"{where}: the prompt has no tokens")
        if request.prompt_ids.size + max_tokens > self.max_sequence_tokens:
            raise ValueError(
                f"{where}: {request.prompt_ids.size} prompt tokens and up to {max_tokens} sampled ones are more than "
                f"the model's {self.max_sequence_tokens} positions"
            )
        if request.prefix is not None and request.prefix.response_ids.size >= max_tokens:
            raise ValueError(f"{where}: its prefix already holds {max_tokens} tokens, the most allowed")


def _eos_of(config: dict[str, Any]) -> set[int]:
    eos = config.get("eos_token_id")
    if eos is None:
        return set()
    return {int(token) for token in (eos if isinstance(eos, list) else [eos])}
