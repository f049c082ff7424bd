"""Procedural games and puzzles, judged by reasoning-gym's own scorers.

Owns: finding the answer and calling the task's scorer. Does not own: the tasks, or making prompts.

`prompt.metadata` holds `task` (reasoning-gym's name), `entry` (its entry as plain data) and `options` (the task's
settings, without size and seed). The answer stands in the last `<answer>…</answer>`; without one the reward is 0.

Several scorers evaluate the answer as Python (`eval`, sympy's `parse_expr`): a response could run code, choose its own
reward, or never end (`9**9**9**9`). So answers to those tasks must look like answers (else the reward is 0), and the
verifier is `guarded`: what gets through runs in killable workers that can reach nothing.
"""

from __future__ import annotations

import importlib
import json
import re
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from ring_async.errors import VerifierError
from ring_async.types import Prompt, Verdict
from ring_async.verifiers.base import GoldenCase, Isolation, Response, VerifierBase
from ring_async.verifiers.rules.answers import tagged_answer

_MAX_DATASETS = 256
_MAX_ANSWER_CHARACTERS = 20_000
_MAX_EXPRESSION_CHARACTERS = 2000
_PARSED_TASKS = frozenset(
    {"countdown", "puzzle24", "polynomial_multiplication", "simple_integration", "intermediate_integration"}
)
"""Their scorers call sympy's `parse_expr`."""
_EVALUATED_TASKS = frozenset({"string_insertion", "spiral_matrix", "binary_matrix", "n_queens"})
"""Their scorers call `eval` where they expect a list."""
_EXPRESSION = re.compile(r"[\w\s+\-*/^().,|]*")
_LIST_OR_BOARD = re.compile(r"[\w\s,.\-\[\]'\"|]*")
_NAME = re.compile(r"[^\W\d]\w*")
_FUNCTIONS = frozenset(
    {"sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "arcsin", "arccos", "arctan", "sinh", "cosh"}
    | {"tanh", "asinh", "acosh", "atanh", "exp", "log", "ln", "sqrt", "pi", "abs", "Abs", "Integral"}
)
_ATTRIBUTE = re.compile(r"\.\s*[^\W\d]")
_POWER_TOWER = re.compile(r"(?:\*\*|\^)[\s(\-+]*(?:\d{3,}|[\d.]+[\s)]*(?:\*\*|\^))")
_TUPLED_TASKS = frozenset({"arc_agi", "rearc"})
"""Their scorers compare boards as tuples, which plain data (lists) never equals."""


class LogicVerifier(VerifierBase):
    """reasoning-gym's scorer of the prompt's task.

    Args:
        threshold: with a value, the reward is 1 where the scorer gives at least this much, else 0; without, the
            scorer's own partial credit in [0, 1].
    """

    isolation: Isolation = "guarded"
    distributions = ("reasoning-gym", "sympy")

    def __init__(self, threshold: float | None = None) -> None:
        self._threshold = threshold
        self._datasets: OrderedDict[str, Any] = OrderedDict()

    def score(self, prompt: Prompt, response: Response) -> Verdict:
        started = time.perf_counter()
        answer = tagged_answer(response.text)
        if answer is None:
            return Verdict(0.0, {"answered": 0.0}, "no <answer>…</answer>", time.perf_counter() - started)
        task, entry, dataset = self._dataset(prompt)
        if not is_plausible_answer(task, answer):
            explanation = f"{task}: {_shown(answer)} is not an answer to this kind of task"
            return Verdict(0.0, {"answered": 1.0, "refused": 1.0}, explanation, time.perf_counter() - started)
        credit = float(dataset.score_answer(answer=answer, entry=entry))
        reward = credit if self._threshold is None else float(credit >= self._threshold)
        return Verdict(
            reward,
            {"answered": 1.0, "credit": credit},
            f"{task}: {_shown(answer)} scores {credit:g}",
            time.perf_counter() - started,
        )

    def golden_cases(self) -> Sequence[GoldenCase]:
        question = "What is 2 + 3?"
        entry = {"question": question, "answer": "5", "metadata": {}}
        prompt = Prompt("golden", "logic", question, {"task": "basic_arithmetic", "entry": entry})
        return (
            GoldenCase(prompt, Response("<answer>5</answer>"), 1.0),
            GoldenCase(prompt, Response("five, I think"), 0.0),
        )

    def _dataset(self, prompt: Prompt) -> tuple[str, dict[str, Any], Any]:
        try:
            task, entry = prompt.metadata["task"], dict(prompt.metadata["entry"])
        except KeyError as error:
            raise VerifierError("bad_prompt", f"{prompt.prompt_id}: metadata has no {error}") from error
        if task in _TUPLED_TASKS:
            entry["metadata"] = _tupled(entry.get("metadata"))
        options = prompt.metadata.get("options") or {}
        key = json.dumps([task, options], sort_keys=True, default=str)
        dataset = self._datasets.get(key)
        if dataset is None:
            gym = importlib.import_module("reasoning_gym")
            settings = {name: value for name, value in options.items() if name not in {"seed", "size"}}
            try:
                dataset = gym.create_dataset(task, seed=0, size=1, **settings)
            except (ValueError, TypeError, AssertionError) as error:
                raise VerifierError("bad_prompt", f"{prompt.prompt_id}: task {task!r}: {error}") from error
            self._datasets[key] = dataset
            if len(self._datasets) > _MAX_DATASETS:
                self._datasets.popitem(last=False)
        else:
            self._datasets.move_to_end(key)
        return task, entry, dataset


def is_plausible_answer(task: str, answer: str) -> bool:
    """Whether an answer has a sane length and, where the task's scorer evaluates it, holds only what an answer needs.

    Expressions: numbers, one-letter symbols, elementary functions, operators, no attributes, no towers of powers.
    Lists and boards: words, numbers, quotes and brackets, but nothing that calls or computes.
    """
    if task in _EVALUATED_TASKS:
        return len(answer) <= _MAX_ANSWER_CHARACTERS and _LIST_OR_BOARD.fullmatch(answer) is not None
    if task in _PARSED_TASKS:
        return (
            len(answer) <= _MAX_EXPRESSION_CHARACTERS
            and _EXPRESSION.fullmatch(answer) is not None
            and _ATTRIBUTE.search(answer) is None
            and _POWER_TOWER.search(answer) is None
            and all(len(name) == 1 or name in _FUNCTIONS for name in _NAME.findall(answer))
        )
    return len(answer) <= _MAX_ANSWER_CHARACTERS


def _tupled(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_tupled(item) for item in value)
    if isinstance(value, dict):
        return {key: _tupled(item) for key, item in value.items()}
    return value


def _shown(answer: str) -> str:
    line = " ".join(answer.split())
    return line if len(line) <= 60 else line[:57] + "…"
