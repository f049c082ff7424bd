"""A reward model: a sequence-classification model with one output, for questions that rules cannot judge.

Owns: loading it, batching, and turning its logit into a reward. Does not own: training one (`bradley_terry`), or
correcting its length bias (`length_bias`).

The model stays loaded as long as its reward actor lives, on the GPU if there is one. A group is one batch or a few.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ring_async.types import Prompt, Verdict
from ring_async.verifiers.base import Response, VerifierBase

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def conversation_ids(tokenizer: Any, prompt: Prompt | str, response: str, max_tokens: int) -> list[int]:
    """Token ids of a prompt and its response, as the model sees them in training and in service.

    The tokenizer's chat template where it has one, else both texts and an end token. A conversation that is too long
    loses the beginning of the prompt: the end of the response says most.

    Returns:
        At most `max_tokens` ids, at least one.
    """
    if isinstance(prompt, str):
        prompt = Prompt("", "", prompt)
    if getattr(tokenizer, "chat_template", None):
        turns = [*prompt.turns, {"role": "assistant", "content": response}]
        ids = tokenizer(tokenizer.apply_chat_template(turns, tokenize=False), add_special_tokens=False)["input_ids"]
    else:
        ids = tokenizer(f"{prompt.conversation}\n{response}", add_special_tokens=False)["input_ids"]
        if tokenizer.eos_token_id is not None:
            ids = [*ids, tokenizer.eos_token_id]
    return list(ids[-max_tokens:]) or [tokenizer.eos_token_id or 0]


def batch_scores(model: Any, sequences: Sequence[Sequence[int]], pad_token_id: int) -> torch.Tensor:
    """The model's outputs for right-padded sequences.

    Returns:
        float32 `[B]`, on the model's device.
    """
    device = next(model.parameters()).device
    longest = max(len(sequence) for sequence in sequences)
    ids = torch.full((len(sequences), longest), pad_token_id, dtype=torch.long)
    mask = torch.zeros((len(sequences), longest), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    logits = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
    return logits[:, 0].float()


def padding_id(model: Any, tokenizer: Any) -> int:
    """The id to pad with, also told to the model, which finds the last token by it."""
    chosen = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    pad_token_id = 0 if chosen is None else int(chosen)
    model.config.pad_token_id = pad_token_id
    return pad_token_id


class RewardModelVerifier(VerifierBase):
    """The model's output as a reward.

    Args:
        path: Hugging Face directory of a sequence-classification model with one label, and its tokenizer.
        device: `auto` takes a GPU if there is one.
        dtype: of the weights.
        max_tokens: of prompt and response together.
        batch_size: sequences of one forward pass.
        squash: `none`: (output − shift) / scale. `sigmoid`: of that, in (0, 1).
        shift: see `squash`.
        scale: see `squash`.

    Raises:
        ValueError: the directory holds no such model.
    """

    distributions = ("transformers", "torch")

    def __init__(
        self,
        path: str,
        *,
        device: str = "auto",
        dtype: Literal["float32", "bfloat16"] = "float32",
        max_tokens: int = 4096,
        batch_size: int = 16,
        squash: Literal["none", "sigmoid"] = "none",
        shift: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        if squash not in ("none", "sigmoid"):
            raise ValueError(f"squash: {squash!r} is neither none nor sigmoid")
        if dtype not in _DTYPES:
            raise ValueError(f"dtype: {dtype!r} is none of {', '.join(_DTYPES)}")
        folder = Path(path).expanduser()
        if not (folder / "config.json").is_file():
            raise ValueError(f"path: {folder.absolute()} holds no config.json; give a Hugging Face directory")
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=_DTYPES[dtype])
        if model.config.num_labels != 1:
            raise ValueError(f"path: the model has {model.config.num_labels} labels; a reward model has one")
        self._model = model.to(_device(device)).eval()
        self._pad_token_id = padding_id(self._model, self._tokenizer)
        self._max_tokens = max_tokens
        self._batch_size = batch_size
        self._is_squashed = squash == "sigmoid"
        self._shift, self._scale = shift, scale
        self._lock = threading.Lock()

    def score(self, prompt: Prompt, response: Response) -> Verdict:
        return self.score_batch(prompt, [response])[0]

    def score_batch(self, prompt: Prompt, responses: Sequence[Response]) -> list[Verdict]:
        """Judge `[K]` responses in batches, longest with longest."""
        started = time.perf_counter()
        sequences = [
            conversation_ids(self._tokenizer, prompt, response.text, self._max_tokens) for response in responses
        ]
        order = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
        outputs = [0.0] * len(sequences)
        with self._lock, torch.inference_mode():
            for begin in range(0, len(order), self._batch_size):
                rows = order[begin : begin + self._batch_size]
                scores = batch_scores(self._model, [sequences[row] for row in rows], self._pad_token_id).tolist()
                for row, output in zip(rows, scores, strict=True):
                    outputs[row] = output
        seconds = (time.perf_counter() - started) / max(1, len(responses))
        return [
            Verdict(self._reward(output), {"output": output}, f"the model's output is {output:.3f}", seconds)
            for output in outputs
        ]

    def close(self) -> None:
        """Free the weights."""
        self._model = None

    def _reward(self, output: float) -> float:
        value = (output - self._shift) / self._scale
        if not self._is_squashed:
            return value
        return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)
