"""The self-check of a verifier before it judges anything: cases whose reward is known.

Owns: running them and saying which fails. The cases are the verifier's own (`golden_cases`).
"""

from __future__ import annotations

from ring_async.errors import ConfigError, VerifierError
from ring_async.verifiers.base import Verifier
from ring_async.verifiers.scoring import score_one


async def check_golden_cases(verifier: Verifier, timeout_s: float) -> int:
    """Judge every golden case; returns how many there are.

    Raises:
        ConfigError: the first case whose reward is another, or that cannot be judged.
    """
    cases = verifier.golden_cases()
    for number, case in enumerate(cases):
        where = f"verifiers.{verifier.name}: golden case {number} ({case.response.text[:60]!r})"
        try:
            verdict = await score_one(verifier, case.prompt, case.response, timeout_s)
        except VerifierError as failure:
            raise ConfigError(f"{where} could not be judged: {failure}") from failure
        if abs(verdict.reward - case.reward) > case.tolerance:
            raise ConfigError(f"{where}: reward {verdict.reward:g}, it should be {case.reward:g}")
    return len(cases)
