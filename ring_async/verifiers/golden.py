"""The self-check of a verifier before it judges anything: cases whose reward is known.

Owns: running them and saying which fail. The cases are the verifier's own (`golden_cases`), and those of its parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ring_async.errors import ConfigError, VerifierError
from ring_async.verifiers.base import GoldenCase, Verifier
from ring_async.verifiers.scoring import score_group

GOLDEN_TIMEOUT_S = 60.0
"""Time for one golden case; long, since a verifier's first call may load a library or a model."""


@dataclass(frozen=True, slots=True)
class GoldenFailure:
    """A golden case that did not come out as declared; `problem` is one line for a person."""

    index: int
    problem: str


async def require_golden_cases(verifier: Verifier, timeout_s: float = GOLDEN_TIMEOUT_S) -> int:
    """Judge every golden case of a verifier that is to go into service; returns how many there are.

    Raises:
        ConfigError: at least one does not come out as declared, or cannot be judged; a line for each names it.
    """
    failures = await check_golden_cases(verifier, timeout_s)
    if failures:
        lines = [f"verifiers.{verifier.name}: golden case {one.index}: {one.problem}" for one in failures]
        remedy = "it does not go into service; mend it, or the case if that is wrong"
        raise ConfigError("\n".join([*lines, f"verifiers.{verifier.name}: {remedy}"]))
    return sum(1 for _ in _cases(verifier))


async def check_golden_cases(verifier: Verifier, timeout_s: float) -> list[GoldenFailure]:
    """Run a verifier's golden cases, and its parts' if it has any. An empty list means it may go into service."""
    failures = []
    for part, index, judge, case in _cases(verifier):
        where = f"{part}{case.prompt.prompt_id}"
        try:
            (verdict,) = await score_group(judge, case.prompt, [case.response], timeout_s)
        except VerifierError as error:
            failures.append(GoldenFailure(index, f"{where}: could not be judged: {error}"))
            continue
        if abs(verdict.reward - case.reward) > case.tolerance:
            problem = f"{where}: reward {verdict.reward:g}, declared {case.reward:g} ± {case.tolerance:g}"
            failures.append(GoldenFailure(index, f"{problem} ({verdict.explanation})"))
    return failures


def _cases(verifier: Verifier, part: str = "") -> Iterator[tuple[str, int, Verifier, GoldenCase]]:
    """Each case with the words that name its part, its number there, and the verifier that judges it."""
    for name, inner in getattr(verifier, "parts", {}).items():
        yield from _cases(inner, f"{part}part {name}: ")
    for index, case in enumerate(verifier.golden_cases()):
        yield part, index, verifier, case
