"""One part behind another: a cheap verifier decides which responses a dear one sees.

Owns: the rule. Does not own: the parts (`composite`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ring_async.types import Prompt, Verdict
from ring_async.verifiers.base import MakeVerifier, Response, Verifier
from ring_async.verifiers.combine.composite import Composite, combined, made_parts, refuse_unknown
from ring_async.verifiers.scoring import score_group


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
        refuse_unknown(options, {"gate", "then", "threshold", "otherwise"})
        parts = made_parts({"parts": {name: options.get(name) for name in ("gate", "then")}}, make)
        threshold, otherwise = float(options.get("threshold", 1.0)), float(options.get("otherwise", 0.0))
        return cls(parts["gate"], parts["then"], threshold, otherwise)

    async def score_group_within(
        self, prompt: Prompt, responses: Sequence[Response], timeout_s: float
    ) -> list[Verdict]:
        gated = await score_group(self._parts["gate"], prompt, responses, timeout_s)
        admitted = [index for index, verdict in enumerate(gated) if verdict.reward >= self._threshold]
        judged = await score_group(self._parts["then"], prompt, [responses[index] for index in admitted], timeout_s)
        later = dict(zip(admitted, judged, strict=True))
        return [
            combined(later[index].reward, {"gate": verdict, "then": later[index]})
            if index in later
            else combined(self._otherwise, {"gate": verdict})
            for index, verdict in enumerate(gated)
        ]
