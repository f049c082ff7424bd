"""Causal language models of Hugging Face directories: those of transformers, and the families that it lacks.

Owns: the choice of a model's class. Imports torch and transformers, so callers import it where they load a model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM

from ring_async.models.bailing_moe import register_bailing_moe

register_bailing_moe()


def load_config(folder: Path) -> Any:
    """The configuration of a model, from its `config.json`.

    Raises:
        OSError, ValueError: there is none, or nobody knows the model.
    """
    return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def load_causal_lm(folder: Path, *, dtype: Any, attention: str) -> Any:
    """A model with its weights. Nothing in the folder is executed.

    Args:
        folder: the Hugging Face directory.
        dtype: torch's, of the weights in memory.
        attention: name of the attention function, as transformers knows it.

    Raises:
        OSError, ValueError: the folder cannot be read, or nobody knows the model.
    """
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation=attention, local_files_only=True, trust_remote_code=False
    )


def make_causal_lm(config: Any) -> Any:
    """A model of a configuration, with random weights."""
    return AutoModelForCausalLM.from_config(config)
