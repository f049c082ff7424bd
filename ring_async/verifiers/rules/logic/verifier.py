"""Procedural games and puzzles, judged by reasoning-gym's own scorers.

Owns: finding the answer, calling the task's scorer, and what its outcome is worth. Does not own: the tasks, making
prompts, or which answers reach a scorer (`screening`, `forms`).

`prompt.metadata` holds `task` (reasoning-gym's name), `entry` (its entry as plain data) and `options` (the task's
settings, without size and seed). The answer stands in the last `<answer>…</answer>`; without one the reward is 0.

Several scorers evaluate the answer as Python (`eval`, sympy's `parse_expr`): a response could run code, choose its own
reward, or never end (`9**9**9**9`). So answers to those tasks must look like answers (else the reward is 0), and the
verifier is `guarded`: what gets through runs in killable workers that can reach nothing.

A scorer that raises at an answer, or computes on it for seconds, has judged it: 0. Only one that raises at the
reference too has failed. Credit that the empty answer earns as well is no credit.
"""

from __future__ import annotations

import importlib
import json
import math
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ring_async.errors import VerifierError
from ring_async.types import Prompt, Verdict
from ring_async.verifiers.base import GoldenCase, Isolation, Response, VerifierBase
from ring_async.verifiers.rules.answers import tagged_answer
from ring_async.verifiers.rules.logic.forms import credit_kept, has_form, spelled_plainly
from ring_async.verifiers.rules.logic.screening import is_plausible_answer

_MAX_DATASETS = 256
_MAX_CPU_S = 3.0
"""For one answer; well below `reward.timeout_s`, past which its group would fail."""
_REPEAT_S = 0.2
"""Some scorers catch whatever is raised within them, once."""
_TUPLED_TASKS = frozenset({"arc_agi", "rearc"})
"""Their scorers compare boards as tuples, which plain data (lists) never equals."""


class LogicVerifier(VerifierBase):
    """reasoning-gym's scorer of the prompt's task.

    Args:
        threshold: with a value, the reward is 1 where the scorer gives at least this much, else 0; without, the
            scorer's own partial credit in [0, 1], for answers that have their task's form.
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
        spellings = dict.fromkeys((answer, spelled_plainly(task, answer)))
        plausible = [spelling for spelling in spellings if is_plausible_answer(task, spelling)]
        if not plausible:
            explanation = f"{task}: {_shown(answer)} is not an answer to this kind of task"
            return Verdict(0.0, {"answered": 1.0, "refused": 1.0}, explanation, time.perf_counter() - started)
        credit = 0.0
        try:
            with _cpu_limit(_MAX_CPU_S):
                for spelling in plausible:
                    if credit < 1 and has_form(task, spelling, entry):
                        credit = max(credit, self._credit(prompt, dataset, task, entry, spelling))
        except _TooSlowError as error:
            explanation = f"{task}: {_shown(answer)}: {error}"
            return Verdict(credit, {"answered": 1.0, "credit": credit}, explanation, time.perf_counter() - started)
        reward = credit if self._threshold is None else float(credit >= self._threshold)
        explanation = f"{task}: {_shown(answer)} scores {credit:g}"
        return Verdict(reward, {"answered": 1.0, "credit": credit}, explanation, time.perf_counter() - started)

    def golden_cases(self) -> Sequence[GoldenCase]:
        question = "What is 2 + 3?"
        entry = {"question": question, "answer": "5", "metadata": {}}
        prompt = Prompt("golden", "logic", question, {"task": "basic_arithmetic", "entry": entry})
        return (
            GoldenCase(prompt, Response("<answer>5</answer>"), 1.0),
            GoldenCase(prompt, Response("five, I think"), 0.0),
        )

    def _credit(self, prompt: Prompt, dataset: Any, task: str, entry: dict[str, Any], answer: str) -> float:
        """What a well-formed answer earns, in [0, 1].

        Raises:
            VerifierError: `bad_prompt`, the scorer cannot judge this entry's own answer either.
        """
        credit = _scored(dataset, entry, answer)
        if credit is None:
            reference = entry.get("answer")
            if reference is not None and _scored(dataset, entry, str(reference)) is None:
                raise VerifierError("bad_prompt", f"{prompt.prompt_id}: {task}: the scorer cannot judge this entry")
            return 0.0
        credit = credit_kept(task, answer, entry, credit)
        if 0 < credit < 1 and credit <= (_scored(dataset, entry, "") or 0.0):
            return 0.0
        return credit

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


class _TooSlowError(Exception):
    """A scorer used more CPU time on one answer than any answer needs."""


@contextmanager
def _cpu_limit(seconds: float) -> Iterator[None]:
    """Raises `_TooSlowError` in what runs within, by CPU time: a busy machine makes no answer wrong.

    Only a main thread can be interrupted, as a worker's is; elsewhere there is no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise _TooSlowError(f"more than {seconds:g} s of CPU time")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds, _REPEAT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _scored(dataset: Any, entry: dict[str, Any], answer: str) -> float | None:
    """The scorer's credit, bounded to [0, 1]; None where it raises."""
    try:
        credit = float(dataset.score_answer(answer=answer, entry=entry))
    except (MemoryError, _TooSlowError):
        raise
    except Exception:
        return None
    return min(1.0, max(0.0, credit)) if math.isfinite(credit) else 0.0


def _tupled(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_tupled(item) for item in value)
    if isinstance(value, dict):
        return {key: _tupled(item) for key, item in value.items()}
    return value


def _shown(answer: str) -> str:
    line = " ".join(answer.split())
    return line if len(line) <= 60 else line[:57] + "…"
