"""Answers that no question asks for, put to all of reasoning-gym's scorers through the verifier.

    python -m tests.support.odd_answers [TASK ...]

prints a row for each task (its reference's reward, and how many odd answers earned more than nothing, which must be
those equal to the reference) and ends with 1 if a row is wrong.
"""

import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from ring_async.data.reasoning_gym import _plain
from ring_async.errors import VerifierError
from ring_async.types import Prompt
from ring_async.verifiers.base import Response
from ring_async.verifiers.rules.logic.verifier import LogicVerifier

ODD_ANSWERS = (
    *(
        "",
        " ",
        "\t",
        "?",
        "...",
        "-",
        "_",
        "*",
        "'",
        '"',
        "\0",
        "日本語",
        "−",
        "×",
        "١",
        "<b>",
        "\\frac{1}{2}",
        "\\boxed{}",
    ),
    *("nan", "NaN", "-nan", "inf", "-inf", "Infinity", "1e999", "1/0", "0/0", "9**9", "9**9**9", "1" * 500, "a" * 2000),
    *("None", "none", "null", "unknown", "N/A", "undefined", "I do not know", "not possible", "impossible", "error"),
    *(
        "The answer is 5",
        "the answer is 0 or 1",
        "1 2 3 4 5 6 7 8 9",
        "5 6",
        "1,2,3",
        "1, 2",
        "(1",
        "[1, 2",
        "True False",
    ),
    *(
        "True or False",
        "yes and no",
        "hello world",
        "lambda: 1",
        "print(1)",
        "__import__('os')",
        "x = 1",
        "A or B",
        "{0",
    ),
)


@dataclass(frozen=True)
class Row:
    """What one task's scorer made of its own reference and of the odd answers."""

    task: str
    reference: float | None
    num_crashed: int
    paid: tuple[str, ...]

    @property
    def is_right(self) -> bool:
        return self.num_crashed == 0 and not self.paid and self.reference in (None, 1.0)


def task_names() -> list[str]:
    """All of reasoning-gym's tasks but the one that is made of others."""
    from reasoning_gym.factory import DATASETS

    return sorted(set(DATASETS) - {"composite"})


def rows(tasks: list[str], prompts_each: int = 2) -> Iterator[Row]:
    """A row for each task."""
    import reasoning_gym

    verifier = LogicVerifier()
    for task in tasks:
        entries = itertools.islice(reasoning_gym.create_dataset(task, seed=3, size=prompts_each), prompts_each)
        yield _row(
            verifier,
            task,
            [Prompt(task, "odd", entry["question"], {"task": task, "entry": _plain(entry)}) for entry in entries],
        )


def _row(verifier: LogicVerifier, task: str, prompts: list[Prompt]) -> Row:
    references, paid, num_crashed = [], [], 0
    for prompt, answer in itertools.product(prompts, (None, *ODD_ANSWERS)):
        reference = prompt.metadata["entry"].get("answer")
        if answer is None and reference is None:
            continue
        said = reference if answer is None else answer
        try:
            reward = verifier.score(prompt, Response(f"<answer>{said}</answer>")).reward
        except VerifierError:
            num_crashed += 1
            continue
        if answer is None:
            references.append(reward)
        elif reward > 0 and answer.strip() != str(reference).strip():
            paid.append(answer)
    return Row(task, min(references, default=None), num_crashed, tuple(paid))


def main() -> int:
    wrong = 0
    print("| task | reference earns | odd answers that crash | that earn anything |\n|---|---|---|---|")
    for row in rows(sys.argv[1:] or task_names()):
        wrong += not row.is_right
        reference = "no reference" if row.reference is None else f"{row.reference:g}"
        print(f"| {row.task} | {reference} | {row.num_crashed} | {json.dumps(row.paid)} |", flush=True)
    print(f"{len(ODD_ANSWERS)} odd answers; {wrong} tasks wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
