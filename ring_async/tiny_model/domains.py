"""The tiny model's domains and their programmatic solutions.

Owns: which reasoning-gym tasks, under which settings, and two ways to answer each: worked out step by step, or guessed
outright. Both end in the right answer; only the worked one is within a tiny model's reach. Does not own training.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ring_async.data.reasoning_gym import ReasoningGymSource


@dataclass(frozen=True, slots=True)
class Domain:
    """One task. `work` gives the steps that lead to the answer, from the entry that reasoning-gym made."""

    name: str
    options: dict[str, Any]
    work: Callable[[dict[str, Any]], str]
    phrases: tuple[str, ...] = field(default=())
    """Constant text of the task's questions: one token each."""

    def source(self) -> ReasoningGymSource:
        return ReasoningGymSource(self.name, self.name, self.options)


def work_chain_sum(entry: dict[str, Any]) -> str:
    """`12 + 45 - 8` → `12+45=57-8=49`."""
    total, *rest = entry["metadata"]["expression"].split()
    steps = total
    value = int(total)
    for sign, term in zip(rest[::2], rest[1::2], strict=True):
        value += int(term) if sign == "+" else -int(term)
        steps += f"{sign}{term}={value}"
    return steps


def work_leg_counting(entry: dict[str, Any]) -> str:
    """`5 tigers, 3 ants, 2 humans` → `20,18,4;20+18=38+4=42`."""
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    legs = [count * ANIMALS[animal] for animal, count in entry["metadata"]["animals"].items()]
    total = legs[0]
    steps = str(total)
    for more in legs[1:]:
        total += more
        steps += f"+{more}={total}"
    return ",".join(map(str, legs)) + ";" + steps


DOMAINS = (
    Domain(
        "chain_sum",
        {"min_terms": 3, "max_terms": 4, "min_digits": 1, "max_digits": 2},
        work_chain_sum,
        ("State the final answer to the following arithmetic problem: ", " =", " + ", " - "),
    ),
    Domain(
        "leg_counting",
        {"min_animals": 3, "max_animals": 4, "min_instances": 1, "max_instances": 15},
        work_leg_counting,
        (
            "Your task is to count how many legs there are in total when given a list of animals.\n\n"
            "Now, how many legs are there in total if you have ",
            "?\n",
            ", ",
        ),
    ),
)
"""In the order in which they are reported."""


def vocabulary_phrases() -> list[str]:
    """Text that gets a token of its own: the questions' constant parts, the animals, the answer's tags."""
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    return [*(phrase for domain in DOMAINS for phrase in domain.phrases), "<answer>", "</answer>", *ANIMALS]


def answer(entry: dict[str, Any], domain: Domain, *, is_worked: bool) -> str:
    """A response that ends in the right answer, in the form the scorers read."""
    work = domain.work(entry) if is_worked else ""
    return f"{work}<answer>{entry['answer']}</answer>"


def is_worked(response: str) -> bool:
    """Whether a response shows steps before its answer."""
    return not response.startswith("<answer>")


def draw_example(
    domain: Domain, source: ReasoningGymSource, index: int, rng: random.Random, worked_share: float
) -> tuple[str, str]:
    """Question and response number `index` of one domain."""
    prompt = source.prompt(index)
    return prompt.text, answer(prompt.metadata["entry"], domain, is_worked=rng.random() < worked_share)
