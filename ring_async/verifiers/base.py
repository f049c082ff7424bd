"""What a verifier is: something that judges a response, says which version of itself judged, and can check itself.

Owns: the protocol. A verifier that cannot judge raises `VerifierError`; it never answers 0 for its own failure.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ring_async.types import FinishReason, Prompt, Verdict


@dataclass(frozen=True, slots=True)
class Response:
    """What the model answered, decoded."""

    text: str
    num_tokens: int = 0
    finish_reason: FinishReason = "stop"


@dataclass(frozen=True, slots=True)
class GoldenCase:
    """A case whose reward is known, for the self-check before a verifier goes into service."""

    prompt: Prompt
    response: Response
    reward: float
    tolerance: float = 1e-6


class Verifier(Protocol):
    """Judges responses. `score` may be sync (called in a worker thread) or async."""

    name: str
    version: str
    """Content hash of code and settings: two verifiers that could judge differently never share it."""

    def score(self, prompt: Prompt, response: Response) -> Verdict | Awaitable[Verdict]:
        """Judge one response.

        Raises:
            VerifierError: it could not judge; the cause is counted, the response is not trained.
        """
        ...

    def golden_cases(self) -> Sequence[GoldenCase]: ...

    def close(self) -> None: ...
