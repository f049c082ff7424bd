"""Training a reward model on preferences (Bradley and Terry, 1952; Ouyang et al., arXiv 2203.02155 §3.5).

Owns: the loss and a small training loop, for one device. Does not own: serving the model (`reward_model`).

    loss = −mean log σ(r_chosen − r_rejected) + center · mean (r_chosen + r_rejected)²

    python -m ring_async.verifiers.models.bradley_terry configs/data/preferences.jsonl --start builtin:tiny --out FOLDER
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from ring_async.errors import ConfigError, DivergedError
from ring_async.models import resolve_model_path
from ring_async.verifiers.models.reward_model import batch_scores, conversation_ids, padding_id


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two responses to one prompt, the first one better."""

    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """Mean loss of each epoch, and the share of pairs ranked rightly by the trained model."""

    losses: tuple[float, ...]
    accuracy: float


def bradley_terry_loss(chosen: torch.Tensor, rejected: torch.Tensor, center: float = 0.0) -> torch.Tensor:
    """The negative log-likelihood of the preferences.

    Args:
        chosen: float `[B]`, rewards of the better responses.
        rejected: float `[B]`, rewards of the worse ones.
        center: pulls the rewards' mean towards 0, which the likelihood leaves free (Eisenstein et al., arXiv
            2312.09244).
    """
    return -logsigmoid(chosen - rejected).mean() + center * (chosen + rejected).square().mean()


def train_reward_model(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[PreferencePair],
    *,
    num_epochs: int = 1,
    batch_size: int = 8,
    learning_rate: float = 1e-5,
    max_tokens: int = 4096,
    center: float = 0.01,
    max_grad_norm: float = 1.0,
    seed: int = 0,
    save_to: Path | None = None,
) -> TrainingReport:
    """Train in place with AdamW, at a constant rate.

    Args:
        model: a sequence-classification model with one label.
        tokenizer: its own.
        pairs: preferences.
        num_epochs: passes over them.
        batch_size: pairs of one step.
        learning_rate: of AdamW.
        max_tokens: of prompt and response together.
        center: as `bradley_terry_loss`.
        max_grad_norm: gradients are clipped to it.
        seed: of the order of pairs.
        save_to: a folder for the model and its tokenizer, ready for `reward_model`.

    Raises:
        DivergedError: the loss became non-finite.
        ValueError: no pairs.
    """
    if not pairs:
        raise ValueError("pairs: there are none to train on")
    pad_token_id = padding_id(model, tokenizer)
    encoded = _encode(tokenizer, pairs, max_tokens)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    rng = random.Random(seed)
    losses = []
    model.train()
    for epoch in range(num_epochs):
        order = rng.sample(range(len(encoded)), len(encoded))
        total = 0.0
        for begin in range(0, len(order), batch_size):
            batch = [encoded[index] for index in order[begin : begin + batch_size]]
            loss = bradley_terry_loss(*_pair_scores(model, batch, pad_token_id), center)
            if not torch.isfinite(loss):
                raise DivergedError(f"reward model: loss {loss.item()} in epoch {epoch}; lower learning_rate")
            _step(model, optimizer, loss, max_grad_norm)
            total += loss.item() * len(batch)
        losses.append(total / len(encoded))
    model.eval()
    accuracy = _share_ranked_rightly(model, encoded, pad_token_id, batch_size)
    if save_to is not None:
        model.save_pretrained(save_to)
        tokenizer.save_pretrained(save_to)
    return TrainingReport(tuple(losses), accuracy)


def _encode(tokenizer: Any, pairs: Sequence[PreferencePair], max_tokens: int) -> list[tuple[list[int], ...]]:
    """Token ids of each pair's conversations, the chosen one first."""
    return [
        tuple(conversation_ids(tokenizer, pair.prompt, text, max_tokens) for text in (pair.chosen, pair.rejected))
        for pair in pairs
    ]


def _step(model: Any, optimizer: torch.optim.Optimizer, loss: torch.Tensor, max_grad_norm: float) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()


def _share_ranked_rightly(
    model: Any, pairs: Sequence[tuple[list[int], ...]], pad_token_id: int, batch_size: int
) -> float:
    """Share of (chosen, rejected) token ids whose chosen one has the higher reward."""
    num_right = 0
    with torch.inference_mode():
        for begin in range(0, len(pairs), batch_size):
            chosen, rejected = _pair_scores(model, pairs[begin : begin + batch_size], pad_token_id)
            num_right += int((chosen > rejected).sum())
    return num_right / len(pairs)


def _pair_scores(
    model: Any, batch: Sequence[tuple[list[int], ...]], pad_token_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 `[B]` twice, from one forward pass."""
    sequences = [pair[0] for pair in batch] + [pair[1] for pair in batch]
    scores = batch_scores(model, sequences, pad_token_id)
    return scores[: len(batch)], scores[len(batch) :]


def read_pairs(path: Path) -> list[PreferencePair]:
    """Preferences from JSON lines with `prompt`, `chosen` and `rejected`; other columns are passed over.

    Raises:
        ConfigError: no such file, or a line without them; names it.
    """
    if not path.is_file():
        raise ConfigError(f"{path.absolute()}: no such file; give JSON lines with prompt, chosen and rejected")
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            pair = PreferencePair(row["prompt"], row["chosen"], row["rejected"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path}:{number}: not an object with prompt, chosen and rejected ({type(error).__name__}: {error})"
            ) from error
        pairs.append(pair)
    return pairs


def load_start(path: str, seed: int = 0) -> tuple[Any, Any]:
    """A language model as the start of a reward model: its layers, and a new head with one output. And its tokenizer.

    Args:
        path: as `model.path` of a configuration.
        seed: of the head.

    Raises:
        ConfigError: no model there.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = resolve_model_path(path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(folder)


def main() -> None:
    """Train a reward model from a file of preferences."""
    import transformers

    parser = argparse.ArgumentParser(
        prog="python -m ring_async.verifiers.models.bradley_terry", description="Train a reward model on preferences."
    )
    parser.add_argument("pairs", type=Path, help="JSON lines with prompt, chosen, rejected")
    parser.add_argument("--start", default="builtin:tiny", help="language model to start from (default: builtin:tiny)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--epochs", type=int, default=4, help="passes over the pairs")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--max-tokens", type=int, default=256, help="of prompt and response together")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # it warns that the head is new
    try:
        pairs = read_pairs(arguments.pairs)
        model, tokenizer = load_start(arguments.start, arguments.seed)
    except ConfigError as error:
        parser.error(str(error))
    report = train_reward_model(
        model,
        tokenizer,
        pairs,
        num_epochs=arguments.epochs,
        learning_rate=arguments.learning_rate,
        max_tokens=arguments.max_tokens,
        seed=arguments.seed,
        save_to=arguments.out,
    )
    losses = " ".join(f"{loss:.3f}" for loss in report.losses)
    print(f"{len(pairs)} pairs; loss of each epoch {losses}; {report.accuracy:.0%} ranked rightly")  # noqa: T201
    print(f"wrote {arguments.out}")  # noqa: T201


if __name__ == "__main__":
    main()
