"""A verifier that knows nothing: rewards drawn from a response's text, so that groups have something to train on."""

from __future__ import annotations

from collections.abc import Sequence

import xxhash

from ring_async.types import Prompt, Verdict
from ring_async.verifiers.base import GoldenCase, Response, VerifierBase


class Coin(VerifierBase):
    """0 or 1, the same for the same text."""

    def score(self, prompt: Prompt, response: Response) -> Verdict:
        return Verdict(float(xxhash.xxh3_64_intdigest(response.text.encode()) % 2), {})

    def golden_cases(self) -> Sequence[GoldenCase]:
        return ()
