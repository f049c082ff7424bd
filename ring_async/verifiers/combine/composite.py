"""What verifiers made of verifiers share: named parts, their configuration, one verdict out of several.

Owns: combining verdicts. Does not own: the parts, which keep their own isolation and deadlines. A part that cannot
judge fails the whole: a missing part is never a 0 in a sum.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from ring_async.errors import VerifierError
from ring_async.types import Prompt, Verdict
from ring_async.verifiers.base import GoldenCase, MakeVerifier, Response, Verifier, VerifierBase
from ring_async.verifiers.scoring import score_group

_SINGLE_TIMEOUT_S = 60.0


class Composite(VerifierBase):
    """What all composites share: named parts, closed together."""

    def __init__(self, parts: Mapping[str, Verifier]) -> None:
        self._parts = dict(parts)

    async def score_group_within(
        self, prompt: Prompt, responses: Sequence[Response], timeout_s: float
    ) -> list[Verdict]:
        raise NotImplementedError

    async def score(self, prompt: Prompt, response: Response) -> Verdict:
        """Judge one response, each part within a minute."""
        return (await self.score_group_within(prompt, [response], _SINGLE_TIMEOUT_S))[0]

    def golden_cases(self) -> Sequence[GoldenCase]:
        """A composite declares none: `check_golden_cases` checks those of its parts."""
        return ()

    @property
    def parts(self) -> Mapping[str, Verifier]:
        return self._parts

    def close(self) -> None:
        for part in self._parts.values():
            part.close()

    async def _score_parts(
        self, prompt: Prompt, responses: Sequence[Response], timeout_s: float
    ) -> dict[str, list[Verdict]]:
        """All parts at once; `[K]` verdicts each.

        Raises:
            VerifierError: a part could not judge; the message names it.
        """
        judged = await asyncio.gather(
            *(score_group(part, prompt, responses, timeout_s) for part in self._parts.values()), return_exceptions=True
        )
        for name, outcome in zip(self._parts, judged, strict=True):
            if isinstance(outcome, VerifierError):
                raise VerifierError(outcome.cause, f"part {name}: {outcome}") from outcome
            if isinstance(outcome, BaseException):
                raise outcome
        return {name: list(outcome) for name, outcome in zip(self._parts, judged, strict=True)}  # type: ignore[arg-type]


def combined(reward: float, verdicts: Mapping[str, Verdict]) -> Verdict:
    parts = {name: verdict.reward for name, verdict in verdicts.items()}
    for name, verdict in verdicts.items():
        parts.update({f"{name}.{inner}": value for inner, value in verdict.parts.items()})
    explanation = "; ".join(f"{name}: {verdict.explanation}" for name, verdict in verdicts.items())
    return Verdict(reward, parts, explanation, sum(verdict.seconds for verdict in verdicts.values()))


def described(options: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    parts = options.get("parts")
    if not isinstance(parts, Mapping) or not parts:
        raise ValueError("parts: give at least one part, as name: {use: …, options: …}")
    for name, part in parts.items():
        if not isinstance(part, Mapping) or "use" not in part:
            raise ValueError(f"{name}: must be a mapping with `use`")
    return parts


def made_parts(options: Mapping[str, Any], make: MakeVerifier) -> dict[str, Verifier]:
    """Build the parts; if one fails, close those before it."""
    made: dict[str, Verifier] = {}
    try:
        for name, part in described(options).items():
            refuse_unknown(part, {"use", "options", "weight", "threshold"})
            made[name] = make(name, {key: part[key] for key in ("use", "options") if key in part})
    except BaseException:
        for verifier in made.values():
            verifier.close()
        raise
    return made


def refuse_unknown(given: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(given) - known)
    if unknown:
        raise ValueError(f"{unknown[0]}: no such option here; options are {', '.join(sorted(known))}")
