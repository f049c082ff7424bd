"""Text in, token ids out, and back: a model's tokenizer without its framework.

Owns: how a prompt becomes ids (the tokenizer's chat template is not applied; sources give the whole text) and how
response ids become the text that verifiers read. Uses `tokenizers` alone, so that reward and controller processes load
no torch.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from ring_async.errors import ConfigError
from ring_async.models import resolve_model_path
from ring_async.types import Int32


class TextCodec:
    """Encodes prompts and decodes responses with a Hugging Face directory's `tokenizer.json`."""

    def __init__(self, tokenizer: Tokenizer, *, bos_id: int | None = None) -> None:
        self._tokenizer = tokenizer
        self._bos = [] if bos_id is None else [bos_id]

    @classmethod
    def load(cls, model_path: str) -> TextCodec:
        """Load from a model directory or `builtin:…` name.

        Raises:
            ConfigError: there is no readable `tokenizer.json`.
        """
        folder = resolve_model_path(model_path)
        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:
            raise ConfigError(f"model.path: no readable tokenizer.json in {folder}: {error}") from error
        return cls(tokenizer, bos_id=_bos_id(tokenizer, folder))

    def encode_prompt(self, text: str) -> Int32:
        """int32 `[P]`, with the beginning-of-sequence token where the tokenizer asks for one."""
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return np.asarray([*self._bos, *ids], dtype=np.int32)

    def decode(self, response_ids: Int32) -> str:
        """The text of response ids `[T]`, special tokens left out."""
        return self._tokenizer.decode(response_ids.tolist(), skip_special_tokens=True)


def _bos_id(tokenizer: Tokenizer, folder: Path) -> int | None:
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text())
    except FileNotFoundError:
        return None
    bos = settings.get("bos_token")
    if not settings.get("add_bos_token", bos is not None) or bos is None:
        return None
    return tokenizer.token_to_id(bos["content"] if isinstance(bos, dict) else bos)
