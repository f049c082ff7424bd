"""How much a reward depends on length alone, and taking that out.

Owns: the estimate and the correction. Does not own: the verifier that is corrected.

Reward models favor long responses; a policy that finds out writes ever longer ones. The estimate compares responses to
the *same* prompt, so that hard prompts, which get long answers and low rewards, do not hide it:

    slope = Σ_groups Σ_k (length_k − mean length)(reward_k − mean reward) / Σ_groups Σ_k (length_k − mean length)²
    corrected reward_k = reward_k − slope · (length_k − mean length of the group)

A correction removes what length explains, also where length deserves its reward: measure first, correct if quality and
length are known to be unrelated in the domain.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ring_async.types import Prompt, Verdict
from ring_async.verifiers.base import MakeVerifier, Response, Verifier
from ring_async.verifiers.combine.composite import Composite
from ring_async.verifiers.scoring import score_group


@dataclass(slots=True)
class LengthBias:
    """Running sums over groups, each weighed down by `decay` as further groups come in.

    Attributes:
        decay: of the sums per group; 1 keeps all, 0.999 looks at about the last thousand groups.
    """

    decay: float = 1.0
    num_groups: int = 0
    _length_squares: float = 0.0
    _reward_squares: float = 0.0
    _products: float = 0.0

    def add_group(self, lengths: Sequence[float], rewards: Sequence[float]) -> None:
        """Take in `[K]` lengths (tokens) and rewards of responses to one prompt."""
        mean_length, mean_reward = sum(lengths) / len(lengths), sum(rewards) / len(rewards)
        centered = [
            (length - mean_length, reward - mean_reward) for length, reward in zip(lengths, rewards, strict=True)
        ]
        self._length_squares = self.decay * self._length_squares + sum(length**2 for length, _ in centered)
        self._reward_squares = self.decay * self._reward_squares + sum(reward**2 for _, reward in centered)
        self._products = self.decay * self._products + sum(length * reward for length, reward in centered)
        self.num_groups += 1

    @property
    def slope(self) -> float:
        """Reward per token; 0 while all lengths were equal."""
        return self._products / self._length_squares if self._length_squares > 0 else 0.0

    @property
    def correlation(self) -> float:
        """Between length and reward within groups, in [-1, 1]; 0 while either did not vary."""
        scale = math.sqrt(self._length_squares * self._reward_squares)
        return max(-1.0, min(1.0, self._products / scale)) if scale > 0 else 0.0


class LengthCorrected(Composite):
    """A verifier's reward without what length explains.

    Args:
        inner: the verifier.
        slope: reward per token, measured beforehand; None: measured as groups come in.
        min_groups: with `slope` None, groups seen before the correction sets in.
        decay: as `LengthBias`.
    """

    def __init__(self, inner: Verifier, slope: float | None = None, min_groups: int = 64, decay: float = 0.999) -> None:
        super().__init__({"inner": inner})
        self._slope = slope
        self._min_groups = min_groups
        self.bias = LengthBias(decay)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], make: MakeVerifier) -> LengthCorrected:
        """`of: {use, options}, slope, min_groups, decay`."""
        settings = {name: value for name, value in options.items() if name != "of"}
        if "of" not in options:
            raise ValueError("of: the verifier to correct, as {use: …, options: …}")
        return cls(make("of", options["of"]), **settings)

    async def score_group_within(
        self, prompt: Prompt, responses: Sequence[Response], timeout_s: float
    ) -> list[Verdict]:
        verdicts = await score_group(self._parts["inner"], prompt, responses, timeout_s, math.inf)
        lengths = [float(response.num_tokens) for response in responses]
        slope = self.slope
        self.bias.add_group(lengths, [verdict.reward for verdict in verdicts])
        mean_length = sum(lengths) / len(lengths)
        return [
            dataclasses.replace(
                verdict,
                reward=verdict.reward - slope * (length - mean_length),
                parts={**verdict.parts, "uncorrected": verdict.reward, "length_slope": slope},
            )
            for verdict, length in zip(verdicts, lengths, strict=True)
        ]

    @property
    def slope(self) -> float:
        """Reward per token that is taken out now."""
        if self._slope is not None:
            return self._slope
        return self.bias.slope if self.bias.num_groups >= self._min_groups else 0.0
