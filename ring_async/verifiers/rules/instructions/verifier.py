"""Following verifiable instructions, as IFEval (arXiv 2311.07911) and IFBench pose them, strictly or loosely.

Owns: the reward, and the loose mode's variants of a response. Does not own: the kinds (`kinds`), or making
prompts (`data.instruction`).

`prompt.metadata` holds `instructions`: a list of `{"id": "punctuation:no_comma", "kwargs": {…}}`; or IFEval's own
`instruction_id_list` and `kwargs`. Loose mode accepts a response if any variant follows the instruction: without its
first line, its last line, both, and each of these without markdown's asterisks (the paper's §2.2).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ring_async.errors import VerifierError
from ring_async.types import Prompt, Verdict
from ring_async.verifiers.base import GoldenCase, Response, VerifierBase
from ring_async.verifiers.rules.instructions.kinds import KINDS

MAX_CHARACTERS = 200_000
"""Longer responses are cut before they are checked: no check may take seconds."""


class InstructionVerifier(VerifierBase):
    """Reward 1 if all instructions are followed, or the share of those that are.

    Args:
        mode: `strict` or `loose`.
        reward: `all` or `fraction`.
    """

    distributions = ("py3langid", "lemminflect", "syllapy")

    def __init__(self, mode: Literal["strict", "loose"] = "strict", reward: Literal["all", "fraction"] = "all") -> None:
        if mode not in ("strict", "loose"):
            raise ValueError(f"mode: {mode!r} is neither strict nor loose")
        if reward not in ("all", "fraction"):
            raise ValueError(f"reward: {reward!r} is neither all nor fraction")
        self._is_loose = mode == "loose"
        self._needs_all = reward == "all"

    def score(self, prompt: Prompt, response: Response) -> Verdict:
        started = time.perf_counter()
        instructions = _instructions(prompt)
        variants = (
            loose_variants(response.text[:MAX_CHARACTERS]) if self._is_loose else [response.text[:MAX_CHARACTERS]]
        )
        parts: dict[str, float] = {}
        broken = []
        for identifier, arguments in instructions:
            check = KINDS[identifier].check
            try:
                is_followed = any(variant.strip() and check(variant, arguments) for variant in variants)
            except (KeyError, TypeError, ValueError) as error:
                detail = f"{prompt.prompt_id}: {identifier} with {dict(arguments)}: {type(error).__name__}: {error}"
                raise VerifierError("bad_prompt", detail) from error
            parts[identifier] = min(parts.get(identifier, 1.0), float(is_followed))
            if not is_followed:
                broken.append(identifier)
        share = 1 - len(broken) / len(instructions)
        explanation = f"does not follow {', '.join(broken)}" if broken else "follows all"
        reward = float(not broken) if self._needs_all else share
        return Verdict(reward, parts, explanation, time.perf_counter() - started)

    def check_prompt(self, prompt: Prompt) -> None:
        _instructions(prompt)

    def golden_cases(self) -> Sequence[GoldenCase]:
        instructions = [{"id": "punctuation:no_comma", "kwargs": {}}]
        prompt = Prompt("golden", "instruction", "Greet me. No commas.", {"instructions": instructions})
        return (
            GoldenCase(prompt, Response("Hello there friend."), 1.0),
            GoldenCase(prompt, Response("Hello, friend."), 0.0),
        )


def loose_variants(text: str) -> list[str]:
    """The response and what is left of it without a preamble, a closing line, or asterisks."""
    lines = text.split("\n")
    cuts = [text, "\n".join(lines[1:]).strip(), "\n".join(lines[:-1]).strip(), "\n".join(lines[1:-1]).strip()]
    return cuts + [cut.replace("*", "") for cut in cuts]


def _instructions(prompt: Prompt) -> list[tuple[str, Mapping[str, Any]]]:
    metadata = prompt.metadata
    found: list[tuple[str, Mapping[str, Any]]]
    if "instructions" in metadata:
        found = [(item["id"], item.get("kwargs") or {}) for item in metadata["instructions"]]
    else:
        found = list(zip(metadata.get("instruction_id_list", ()), metadata.get("kwargs", ()), strict=True))
    if not found:
        raise VerifierError("bad_prompt", f"{prompt.prompt_id}: metadata has no `instructions`")
    for identifier, _ in found:
        if identifier not in KINDS:
            raise VerifierError("bad_prompt", f"{prompt.prompt_id}: no kind of instruction is called {identifier!r}")
    return [(identifier, {k: v for k, v in (given or {}).items() if v is not None}) for identifier, given in found]
