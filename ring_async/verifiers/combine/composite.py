"""Verifiers made of verifiers, in configuration: a weighted sum, all of them, or one behind another.

    verifiers:
      general:
        use: weighted_sum
        options:
          parts:
            format: {use: instruction, weight: 0.2}
            quality: {use: reward_model, options: {path: models/rm}, weight: 0.8}

Owns: combining verdicts. Does not own: the parts, which keep their own isolation and deadlines. A part that cannot
judge fails the whole: a missing part is never a 0 in a sum. The bound on rewards holds for the whole alone.
"""

from __future__ import annotations

import asyncio
import math
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
        """None of its own: `check_golden_cases` checks the parts'."""
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
            *(score_group(part, prompt, responses, timeout_s, math.inf) for part in self._parts.values()),
            return_exceptions=True,
        )
        for name, outcome in zip(self._parts, judged, strict=True):
            if isinstance(outcome, VerifierError):
                raise VerifierError(outcome.cause, f"part {name}: {outcome}") from outcome
            if isinstance(outcome, BaseException):
                raise outcome
        return {name: list(outcome) for name, outcome in zip(self._parts, judged, strict=True)}  # type: ignore[arg-type]


class WeightedSum(Composite):
    """Σ weight · reward over the parts.

    Args:
        parts: by name.
        weights: by the same names; they need not sum to 1, and may be negative (a penalty).
    """

    def __init__(self, parts: Mapping[str, Verifier], weights: Mapping[str, float]) -> None:
        super().__init__(parts)
        self._weights = dict(weights)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], make: MakeVerifier) -> WeightedSum:
        """`parts: {name: {use, options, weight}}`."""
        _refuse_unknown(options, {"parts"})
        weights = {name: float(part.get("weight", 1.0)) for name, part in _described(options).items()}
        if not any(weights.values()):
            raise ValueError("parts: every weight is 0; the reward would always be 0")
        return cls(_made(options, make), weights)

    async def score_group_within(
        self, prompt: Prompt, responses: Sequence[Response], timeout_s: float
    ) -> list[Verdict]:
        judged = await self._score_parts(prompt, responses, timeout_s)
        return [
            _combined(
                sum(self._weights[name] * verdicts[index].reward for name, verdicts in judged.items()),
                {name: verdicts[index] for name, verdicts in judged.items()},
            )
            for index in range(len(responses))
        ]


class AllOf(Composite):
    """1 where every part gives at least its threshold, else 0.

    Args:
        parts: by name.
        thresholds: by the same names.
    """

    def __init__(self, parts: Mapping[str, Verifier], thresholds: Mapping[str, float]) -> None:
        super().__init__(parts)
        self._thresholds = dict(thresholds)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], make: MakeVerifier) -> AllOf:
        """`parts: {name: {use, options, threshold}}`; a threshold is 1 unless given."""
        _refuse_unknown(options, {"parts"})
        thresholds = {name: float(part.get("threshold", 1.0)) for name, part in _described(options).items()}
        return cls(_made(options, make), thresholds)

    async def score_group_within(
        self, prompt: Prompt, responses: Sequence[Response], timeout_s: float
    ) -> list[Verdict]:
        judged = await self._score_parts(prompt, responses, timeout_s)
        return [
            _combined(
                float(all(verdicts[index].reward >= self._thresholds[name] for name, verdicts in judged.items())),
                {name: verdicts[index] for name, verdicts in judged.items()},
            )
            for index in range(len(responses))
        ]


class Gate(Composite):
    """A cheap verifier before a dear one: only responses that pass the first are judged by the second.

    Args:
        gate: judges all.
        then: judges those to which `gate` gave at least `threshold`.
        threshold: what opens the gate.
        otherwise: the reward of the rest.
    """

    def __init__(self, gate: Verifier, then: Verifier, threshold: float = 1.0, otherwise: float = 0.0) -> None:
        super().__init__({"gate": gate, "then": then})
        self._threshold = threshold
        self._otherwise = otherwise

    @classmethod
    def from_options(cls, options: Mapping[str, Any], make: MakeVerifier) -> Gate:
        """`gate: {use, options}, then: {use, options}, threshold, otherwise`."""
        _refuse_unknown(options, {"gate", "then", "threshold", "otherwise"})
        parts = _made({"parts": {name: options.get(name) for name in ("gate", "then")}}, make)
        threshold, otherwise = float(options.get("threshold", 1.0)), float(options.get("otherwise", 0.0))
        return cls(parts["gate"], parts["then"], threshold, otherwise)

    async def score_group_within(
        self, prompt: Prompt, responses: Sequence[Response], timeout_s: float
    ) -> list[Verdict]:
        gated = await score_group(self._parts["gate"], prompt, responses, timeout_s, math.inf)
        admitted = [index for index, verdict in enumerate(gated) if verdict.reward >= self._threshold]
        passed = [responses[index] for index in admitted]
        judged = await score_group(self._parts["then"], prompt, passed, timeout_s, math.inf)
        later = dict(zip(admitted, judged, strict=True))
        return [
            _combined(later[index].reward, {"gate": verdict, "then": later[index]})
            if index in later
            else _combined(self._otherwise, {"gate": verdict})
            for index, verdict in enumerate(gated)
        ]


def _combined(reward: float, verdicts: Mapping[str, Verdict]) -> Verdict:
    parts = {name: verdict.reward for name, verdict in verdicts.items()}
    for name, verdict in verdicts.items():
        parts.update({f"{name}.{inner}": value for inner, value in verdict.parts.items()})
    explanation = "; ".join(f"{name}: {verdict.explanation}" for name, verdict in verdicts.items())
    return Verdict(reward, parts, explanation, sum(verdict.seconds for verdict in verdicts.values()))


def _described(options: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    parts = options.get("parts")
    if not isinstance(parts, Mapping) or not parts:
        raise ValueError("parts: give at least one part, as name: {use: …, options: …}")
    for name, part in parts.items():
        if not isinstance(part, Mapping) or "use" not in part:
            raise ValueError(f"{name}: must be a mapping with `use`")
    return parts


def _made(options: Mapping[str, Any], make: MakeVerifier) -> dict[str, Verifier]:
    """Build the parts; if one fails, close those before it."""
    made: dict[str, Verifier] = {}
    try:
        for name, part in _described(options).items():
            _refuse_unknown(part, {"use", "options", "weight", "threshold"})
            made[name] = make(name, {key: part[key] for key in ("use", "options") if key in part})
    except BaseException:
        for verifier in made.values():
            verifier.close()
        raise
    return made


def _refuse_unknown(given: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(given) - known)
    if unknown:
        raise ValueError(f"{unknown[0]}: no such option here; options are {', '.join(sorted(known))}")
