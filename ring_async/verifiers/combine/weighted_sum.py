"""All parts judge every response: their weighted sum, or 1 where each reaches its threshold.

    verifiers:
      general:
        use: weighted_sum
        options:
          parts:
            format: {use: instruction, weight: 0.2}
            quality: {use: reward_model, options: {path: models/rm}, weight: 0.8}

Owns: the two rules. Does not own: the parts (`composite`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ring_async.types import Prompt, Verdict
from ring_async.verifiers.base import MakeVerifier, Response, Verifier
from ring_async.verifiers.combine.composite import Composite, combined, described, made_parts, refuse_unknown


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
        refuse_unknown(options, {"parts"})
        weights = {name: float(part.get("weight", 1.0)) for name, part in described(options).items()}
        if not any(weights.values()):
            raise ValueError("parts: every weight is 0; the reward would always be 0")
        return cls(made_parts(options, make), weights)

    async def score_group_within(
        self, prompt: Prompt, responses: Sequence[Response], timeout_s: float
    ) -> list[Verdict]:
        judged = await self._score_parts(prompt, responses, timeout_s)
        return [
            combined(
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
        refuse_unknown(options, {"parts"})
        thresholds = {name: float(part.get("threshold", 1.0)) for name, part in described(options).items()}
        return cls(made_parts(options, make), thresholds)

    async def score_group_within(
        self, prompt: Prompt, responses: Sequence[Response], timeout_s: float
    ) -> list[Verdict]:
        judged = await self._score_parts(prompt, responses, timeout_s)
        return [
            combined(
                float(all(verdicts[index].reward >= self._thresholds[name] for name, verdicts in judged.items())),
                {name: verdicts[index] for name, verdicts in judged.items()},
            )
            for index in range(len(responses))
        ]
