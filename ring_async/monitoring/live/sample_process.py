"""The process that reads samples for the live page: a query a line on stdin, an answer a line on stdout.

Ends when its stdin is closed, which is when its parent dies at the latest.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from ring_async.errors import RingAsyncError
from ring_async.monitoring.samples import Choice, read_samples, tokenizer_of
from ring_async.storage.run_dir import RunDir

_choice_decoder = msgspec.json.Decoder(Choice)


def main(folder: str) -> None:
    """Answer every query of the run in `folder`."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    run_dir, tokenizer = RunDir(Path(folder)), None
    for line in sys.stdin:
        answer: dict[str, Any]
        try:
            choice = _choice_decoder.decode(line)
            tokenizer = tokenizer or tokenizer_of(run_dir)
            answer = {"groups": read_samples(run_dir, choice, tokenizer)}
        except (RingAsyncError, OSError, ValueError) as error:
            answer = {"refusal": str(error)}
        out.write(json.dumps(answer, default=str) + "\n")
        out.flush()


if __name__ == "__main__":
    main(sys.argv[1])
