"""The choice of held-out problems: the first distinct ones of each source.

Owns: which problems each source gives, and how many. Does not own the sources (`data`).
Invariant: the same configuration gives the same problems, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ring_async.data.base import PromptSource
from ring_async.data.split import question_of
from ring_async.errors import ConfigError
from ring_async.types import Prompt


def share_problems(num_problems: int, sources: Iterable[str]) -> dict[str, int]:
    """The number of problems that each source gives: numbers as equal as possible that add up to `num_problems`."""
    names = list(sources)
    return {
        name: num_problems // len(names) + (number < num_problems % len(names)) for number, name in enumerate(names)
    }


def held_out_problems(
    name: str,
    source: PromptSource,
    num_problems: int,
    key: str = "evaluation.checkpoint_problems",
    refusal: Callable[[Prompt], str] = lambda prompt: "",
) -> list[Prompt]:
    """The first distinct held-out questions of a source: a question that comes again is passed over, and so is one that
    the model cannot take.

    `key` is the configuration's name for the number, for the error; `refusal` says why a prompt cannot be taken.

    Raises:
        ConfigError: the source has too few distinct questions.
    """
    problems: dict[str, Prompt] = {}
    patience = 50 * num_problems + 1000
    for index in range(patience):
        if len(problems) == num_problems:
            break
        try:
            prompt = source.held_out(index)
        except IndexError:
            break
        if not refusal(prompt):
            problems.setdefault(question_of(prompt), prompt)
    if len(problems) < num_problems:
        raise ConfigError(
            f"{key}: source {name} has only {len(problems)} different held-out problems, {num_problems} are wanted; "
            f"lower {key} or widen the source"
        )
    return list(problems.values())
