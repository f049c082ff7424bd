"""A verifier that gives the verdicts of a test's script, at the times that the test chooses.

Owns: the script, and the list of the questions it was asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from ring_async.errors import VerifierError
from ring_async.types import Prompt, Verdict
from ring_async.verifiers.base import GoldenCase, Response

Rewards = float | Mapping[str, float] | Callable[[Prompt, Response], float]


class ScriptedVerifier:
    """Implements `verifiers.base.Verifier`.

    Args:
        rewards: the reward of every response; or rewards by prompt id; or a function of prompt and response.
        version: what its verdicts are stamped with.
        delay_s: how long one verdict takes, on the event loop's clock.
        failures: causes to raise instead of answering, for the first calls in order; None answers that call.
        cases: what its self-check runs on.
    """

    def __init__(
        self,
        rewards: Rewards = 1.0,
        *,
        name: str = "exact",
        version: str = "v1",
        delay_s: float = 0.0,
        failures: Sequence[str | None] = (),
        cases: Sequence[GoldenCase] = (),
    ) -> None:
        self.name = name
        self.version = version
        self.delay_s = delay_s
        self.asked: list[tuple[Prompt, Response]] = []
        self.num_scoring = 0
        """Verdicts under way now."""
        self.is_closed = False
        self._rewards = rewards
        self._failures = list(failures)
        self._cases = tuple(cases)

    async def score(self, prompt: Prompt, response: Response) -> Verdict:
        """Answer by the script.

        Raises:
            VerifierError: the script says so, has no reward for this prompt, or the verifier was closed.
        """
        if self.is_closed:
            raise VerifierError("closed", f"{self.name} was asked after close")
        self.asked.append((prompt, response))
        failure = self._failures.pop(0) if self._failures else None
        self.num_scoring += 1
        try:
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
        finally:
            self.num_scoring -= 1
        if failure is not None:
            raise VerifierError(failure, f"scripted for {prompt.prompt_id}")
        return Verdict(reward=self._reward(prompt, response), explanation="scripted", seconds=self.delay_s)

    def _reward(self, prompt: Prompt, response: Response) -> float:
        rewards = self._rewards
        if callable(rewards):
            return float(rewards(prompt, response))
        if isinstance(rewards, Mapping):
            if prompt.prompt_id not in rewards:
                raise VerifierError("unscripted", f"no reward for {prompt.prompt_id}")
            return float(rewards[prompt.prompt_id])
        return float(rewards)

    def golden_cases(self) -> Sequence[GoldenCase]:
        return self._cases

    def close(self) -> None:
        self.is_closed = True
