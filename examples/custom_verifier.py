"""A verifier of your own, used by path. Try it, from the repository's root:

    ring-async up examples/custom_verifier.yaml

which is the local run with this file as its judge:

    verifiers:
      brevity:
        use: examples/custom_verifier.py:Brevity
        options: {max_words: 12}

or swapped into a running fleet: `ring-async swap verifier math=examples/custom_verifier.py:Brevity max_words=12`.

To write yours, copy this file and change three things: what `score` says, the options, the golden cases. `score` gets
the prompt, with all that its source put into `metadata`, and the response's text; it returns a finite reward, or raises
`VerifierError(cause)` if it cannot judge, and then the prompt is issued again. The golden cases are judged before any
response is; if one does not come out as declared, the run ends at once and names it.

It rewards a right answer to a sum, and more so if it is said briefly. Options are the constructor's arguments; name and
version (a hash of this file and the options) are set by the package. `isolation = "process"` would run it in worker
processes that are killed at their deadline; plain arithmetic needs no such thing.
"""

from __future__ import annotations

from collections.abc import Sequence

from ring_async.types import Prompt, Verdict
from ring_async.verifiers.base import GoldenCase, Response, VerifierBase
from ring_async.verifiers.rules.answers import last_number, tagged_answer


class Brevity(VerifierBase):
    """1 for a right answer of at most `max_words` words, `long_reward` for a longer right one, else 0.

    Args:
        max_words: of the whole response.
        long_reward: of a right answer that is longer.
    """

    def __init__(self, max_words: int = 12, long_reward: float = 0.5) -> None:
        if not 0 <= long_reward <= 1:
            raise ValueError(f"long_reward: {long_reward} must be in [0, 1]")
        self._max_words = max_words
        self._long_reward = long_reward

    def score(self, prompt: Prompt, response: Response) -> Verdict:
        """The right answer stands in `metadata["entry"]["answer"]`, where reasoning-gym puts it."""
        answer = tagged_answer(response.text) or last_number(response.text)
        is_right = answer == str(prompt.metadata["entry"]["answer"])
        num_words = len(response.text.split())
        is_brief = num_words <= self._max_words
        reward = 0.0 if not is_right else 1.0 if is_brief else self._long_reward
        explanation = f"{answer or 'no answer'} in {num_words} words"
        return Verdict(reward, {"right": float(is_right), "brief": float(is_brief)}, explanation)

    def golden_cases(self) -> Sequence[GoldenCase]:
        """Checked before it goes into service: a swap whose golden cases fail never happens."""
        prompt = Prompt("golden", "sums", "What is 2 + 3?", {"entry": {"answer": "5"}})
        return (
            GoldenCase(prompt, Response("<answer>5</answer>"), 1.0),
            GoldenCase(prompt, Response("well " * 50 + "<answer>5</answer>"), self._long_reward),
            GoldenCase(prompt, Response("<answer>6</answer>"), 0.0),
        )
