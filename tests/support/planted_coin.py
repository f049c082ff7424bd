"""The verifier of planted runs: it is loaded by path, as a person's own would be."""

from __future__ import annotations

import asyncio
from typing import Any

from planted_fleet import ACTOR, SLOW_ACTORS
from ring_async.clock import monotonic_s
from ring_async.testing.builders import stable_seed
from ring_async.testing.scripted_verifier import ScriptedVerifier
from ring_async.types import Prompt
from ring_async.verifiers.base import Response


class Coin(ScriptedVerifier):
    """Solved with probability `solved`, whatever the response.

    Args:
        delay_s: of a verdict.
        never: a source of which nothing is solved.
        broken: a source of which nothing can be judged from `after_s` on; with `every_s`, for a fifth of that time.
    """

    def __init__(
        self,
        delay_s: float = 0.4,
        solved: float = 0.5,
        never: str = "",
        broken: str = "",
        after_s: float = 0.0,
        every_s: float = 0.0,
    ) -> None:
        def reward(prompt: Prompt, response: Response) -> float:
            if prompt.source == never:
                return 0.0
            drawn = stable_seed(response.text, prompt.prompt_id) % 1000
            return float(drawn < 1000 * solved)

        super().__init__(reward, delay_s=delay_s)
        self._broken = broken
        self._after_s = after_s
        self._every_s = every_s

    async def score(self, prompt: Prompt, response: Response) -> Any:
        since_s = monotonic_s() - self._after_s
        is_broken = not self._every_s or since_s % self._every_s < self._every_s / 5
        if prompt.source == self._broken and since_s >= 0 and is_broken:
            self._failures = ["timeout"]
        await asyncio.sleep(SLOW_ACTORS.get(ACTOR.get(), 0.0))
        return await super().score(prompt, response)
