"""A verifier that lets too much pass, to be swapped for a strict one while training runs: see hot_swap.md.

It takes any number near the truth for right. A model trained on it learns to guess; swapped for reasoning-gym's own
scorer, the reward falls at once to what the answers are worth, and training goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence

from ring_async.types import Prompt, Verdict
from ring_async.verifiers.base import GoldenCase, Response, VerifierBase
from ring_async.verifiers.rules.answers import last_number, tagged_answer


class Lenient(VerifierBase):
    """1 if the answer is a number within `tolerance` of the right one, else 0."""

    def __init__(self, tolerance: float = 15.0) -> None:
        if tolerance < 0:
            raise ValueError(f"tolerance: {tolerance} must be 0 or more")
        self._tolerance = tolerance

    def score(self, prompt: Prompt, response: Response) -> Verdict:
        """The right answer stands in `metadata["entry"]["answer"]`, where reasoning-gym puts it."""
        answer = last_number(tagged_answer(response.text) or "")
        if answer is None:
            return Verdict(0.0, {"answered": 0.0}, "no number in <answer>…</answer>")
        distance = abs(float(answer) - float(prompt.metadata["entry"]["answer"]))
        return Verdict(float(distance <= self._tolerance), {"answered": 1.0}, f"{distance:g} from the right answer")

    def golden_cases(self) -> Sequence[GoldenCase]:
        prompt = Prompt("golden", "sums", "What is 2 + 3?", {"entry": {"answer": "5"}})
        return (
            GoldenCase(prompt, Response("<answer>5</answer>"), 1.0),
            GoldenCase(prompt, Response(f"<answer>{5 + int(self._tolerance) + 1}</answer>"), 0.0),
            GoldenCase(prompt, Response("five"), 0.0),
        )
