"""`python -m ring_async.tiny_model`: train the tiny model from scratch and write it as a Hugging Face directory.

With `--start DIR` a model is trained on instead, at a tenth of the learning rates and on examples it has not seen: the
control of an RL run, supervised training continued for the same tokens.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ring_async.tiny_model.domains import DOMAINS
from ring_async.tiny_model.model import load_model, make_model, save
from ring_async.tiny_model.sft import SftSettings, continued, train

_SHIPPED = Path(__file__).parents[1] / "models" / "tiny"


def main() -> None:
    """Parse the command line, train, save."""
    import torch
    import transformers

    parser = argparse.ArgumentParser(
        prog="python -m ring_async.tiny_model", description="Make the tiny model, or train one on."
    )
    parser.add_argument("--out", type=Path, default=_SHIPPED, help="folder to write (default: the shipped one)")
    parser.add_argument("--tokens", type=int, default=5_000_000, help="tokens to train on")
    parser.add_argument("--start", type=Path, help="Hugging Face directory to train on from (default: from scratch)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="compute threads")
    parser.add_argument("--device", default="cpu", help="a torch device (default: cpu)")
    arguments = parser.parse_args()

    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    model, tokenizer = load_model(arguments.start) if arguments.start else make_model(arguments.seed)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens in the vocabulary", flush=True)  # noqa: T201
    model.to(torch.device(arguments.device))
    settings = SftSettings(num_tokens=arguments.tokens, seed=arguments.seed)
    if arguments.start:
        settings = continued(settings)
    train(model, tokenizer, DOMAINS, settings, report=lambda progress: print(progress, flush=True))  # noqa: T201
    save(model, tokenizer, arguments.out)
    print(f"wrote {arguments.out}")  # noqa: T201


if __name__ == "__main__":
    main()
