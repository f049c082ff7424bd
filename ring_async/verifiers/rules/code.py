"""Programs judged by unit tests, run in the sandbox.

Owns: finding the program in a response, running the tests, comparing outputs. Does not own: the sandbox.

`prompt.metadata` holds
    tests: list of `{"stdin": …, "stdout": …}` or `{"args": […], "kwargs": {…}, "expected": …}`;
    function: for the second kind, `solve` or `Solution.solve`;
    language: `python` or `cpp`; absent: what the response's code fence says, else Python;
    limits: overrides of `SandboxLimits` for this problem, e.g. `{"cpu_s": 2}`;
    unordered: true where a returned list's order does not matter;
    template: a program with a gap, `{completion}`, where the response's code goes; absent: the response is the program.

Expected outputs never enter the sandbox: a program can only pass by printing or returning the right answer. A program
that is too slow, too large, or does not compile has failed its tests: that is its reward, not a fault.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ring_async.errors import VerifierError
from ring_async.sandbox.pool import (
    Call,
    Language,
    Program,
    ProgramSession,
    RefusedProgramError,
    Result,
    SandboxLimits,
    SandboxPool,
)
from ring_async.types import Prompt, Verdict
from ring_async.verifiers.base import GoldenCase, Response, VerifierBase
from ring_async.verifiers.rules.answers import tagged_answer
from ring_async.verifiers.scoring import run_in_thread

_FENCE = re.compile(r"^```[ \t]*([\w+#-]*+)[^\n]*+\n(.*?)^```", re.DOTALL | re.MULTILINE)
_LANGUAGES: Mapping[str, Language] = {
    "python": "python",
    "python3": "python",
    "py": "python",
    "cpp": "cpp",
    "c++": "cpp",
    "cxx": "cpp",
    "cc": "cpp",
}
_DEFAULT_TIMEOUT_S = 60.0
_GAP = "{completion}"


def extract_program(text: str, language: Language | None = None) -> Program | None:
    """The last fenced code block that is Python or C++ (or carries no language), or None.

    Args:
        text: the response.
        language: what it must be in; None: what the fence says, else Python.
    """
    for label, source in reversed(_FENCE.findall(text)):
        named = _LANGUAGES.get(label.lower())
        if label and named is None:
            continue
        if language is None or named in (None, language):
            return Program(source, language or named or "python")
    return None


class CodeVerifier(VerifierBase):
    """Reward 1 if all tests pass, or the passed fraction on request.

    Args:
        reward: `all` (stops at the first failure) or `fraction`.
        limits: overrides of `SandboxLimits`, for every problem.
        tolerance: relative and absolute error allowed between numbers; 0: outputs are compared as text, values exactly.
        extract: `fenced`: the code is the last fenced block. `fenced_or_tagged`: without one, the last
            `<answer>…</answer>`; for short completions of a template.
        num_workers: programs run at once.

    Raises:
        SandboxUnavailableError: no sandbox here, see `SandboxPool`.
        ValueError: an unknown limit, reward or `extract`.
    """

    def __init__(
        self,
        reward: Literal["all", "fraction"] = "all",
        limits: Mapping[str, Any] | None = None,
        tolerance: float = 0.0,
        extract: Literal["fenced", "fenced_or_tagged"] = "fenced",
        num_workers: int = 1,
    ) -> None:
        if reward not in ("all", "fraction"):
            raise ValueError(f"reward: {reward!r} is neither all nor fraction")
        if extract not in ("fenced", "fenced_or_tagged"):
            raise ValueError(f"extract: {extract!r} is neither fenced nor fenced_or_tagged")
        self._stops_early = reward == "all"
        self._limits = _with_overrides(SandboxLimits(), limits or {})
        self._tolerance = tolerance
        self._takes_tagged = extract == "fenced_or_tagged"
        self._pool = SandboxPool(num_workers, self._limits)

    def score(self, prompt: Prompt, response: Response) -> Verdict:
        """Run the tests, with a minute for all of them."""
        return self._score(prompt, response, _DEFAULT_TIMEOUT_S)

    async def score_within(self, prompt: Prompt, response: Response, timeout_s: float) -> Verdict:
        """Run the tests; all of them together have `timeout_s` from when a sandbox is free.

        Raises:
            VerifierError: the sandbox failed, or the prompt's metadata are not as described above.
        """
        return await run_in_thread(self._score, (prompt, response, timeout_s))

    def golden_cases(self) -> Sequence[GoldenCase]:
        stdio = Prompt("golden-stdio", "code", "Double it.", {"tests": [{"stdin": "21\n", "stdout": "42"}]})
        tests = [{"args": [2, 3], "expected": 5}, {"args": [1, 1], "expected": 2}]
        call = Prompt("golden-call", "code", "Add.", {"function": "add", "tests": tests})
        return (
            GoldenCase(stdio, Response("```python\nprint(2 * int(input()))\n```"), 1.0),
            GoldenCase(stdio, Response("```python\nprint(42, 'or so')\n```"), 0.0),
            GoldenCase(call, Response("```python\ndef add(a, b):\n    return a + b\n```"), 1.0),
        )

    def close(self) -> None:
        self._pool.close()

    def _score(self, prompt: Prompt, response: Response, timeout_s: float) -> Verdict:
        tests, function, language, limits = self._problem(prompt)
        program = self._program(prompt, response.text, language)
        if program is None:
            return Verdict(0.0, {"passed": 0.0, "tests": float(len(tests))}, "no code block")
        try:
            with self._pool.session(program, limits) as session:
                started = time.monotonic()
                passed, problem = self._run(session, tests, function, started + timeout_s, prompt)
                seconds = time.monotonic() - started
        except RefusedProgramError as error:
            return Verdict(0.0, {"passed": 0.0, "tests": float(len(tests))}, f"does not compile: {_line(str(error))}")
        reward = float(passed == len(tests)) if self._stops_early else passed / len(tests)
        explanation = problem or f"{passed} of {len(tests)} tests passed"
        return Verdict(reward, {"passed": float(passed), "tests": float(len(tests))}, explanation, seconds)

    def _program(self, prompt: Prompt, text: str, language: Language | None) -> Program | None:
        """The response's code, in the prompt's template where it has one."""
        program = extract_program(text, language)
        if program is None and self._takes_tagged and (tagged := tagged_answer(text)):
            program = Program(tagged, language or "python")
        template = prompt.metadata.get("template")
        if template is None:
            return program
        if _GAP not in str(template):
            raise VerifierError("bad_prompt", f"{prompt.prompt_id}: metadata.template: has no {_GAP} to fill in")
        return program and dataclasses.replace(program, source=str(template).replace(_GAP, program.source.rstrip()))

    def _run(
        self,
        session: ProgramSession,
        tests: Sequence[Mapping[str, Any]],
        function: str,
        deadline: float,
        prompt: Prompt,
    ) -> tuple[int, str]:
        """Number of tests passed, and the first failure in a line."""
        passed, first_problem = 0, ""
        is_unordered = bool(prompt.metadata.get("unordered"))
        for index, test in enumerate(tests):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return passed, first_problem or f"test {index}: no time left after the tests before it"
            if "stdout" in test:
                result = session.run(str(test.get("stdin", "")), max_wall_s=left_s)
                problem = _problem_of(result) or self._stdout_problem(result.stdout, str(test["stdout"]))
            else:
                call = Call(function, tuple(test.get("args", ())), test.get("kwargs") or {})
                result = session.call(call, max_wall_s=left_s)
                problem = _problem_of(result) or self._value_problem(result.value, test.get("expected"), is_unordered)
            if not problem:
                passed += 1
                continue
            first_problem = first_problem or f"test {index}: {problem}"
            if self._stops_early:
                break
        return passed, first_problem

    def _problem(self, prompt: Prompt) -> tuple[Sequence[Mapping[str, Any]], str, Language | None, SandboxLimits]:
        metadata = prompt.metadata
        tests, function = metadata.get("tests"), metadata.get("function", "")
        language = metadata.get("language")
        where = f"{prompt.prompt_id}: metadata"
        if not tests or not all(isinstance(test, Mapping) for test in tests):
            raise VerifierError("bad_prompt", f"{where}.tests: must be a list of tests, at least one")
        if language is not None and language not in ("python", "cpp"):
            raise VerifierError("bad_prompt", f"{where}.language: {language!r} is neither python nor cpp")
        if any("stdout" not in test for test in tests) and (not function or language == "cpp"):
            raise VerifierError("bad_prompt", f"{where}: a test without stdout needs `function`, and Python")
        if function:
            language = "python"
        try:
            limits = _with_overrides(self._limits, metadata.get("limits") or {})
        except ValueError as error:
            raise VerifierError("bad_prompt", f"{where}.{error}") from error
        return tests, str(function), language, limits

    def _stdout_problem(self, printed: str, expected: str) -> str:
        lines, wanted = _lines(printed), _lines(expected)
        if lines == wanted:
            return ""
        if self._tolerance > 0:
            tokens, wanted_tokens = printed.split(), expected.split()
            if len(tokens) == len(wanted_tokens) and all(map(self._is_close, tokens, wanted_tokens)):
                return ""
        return f"printed {_line(printed)!r}, expected {_line(expected)!r}"

    def _value_problem(self, text: str, expected: Any, is_unordered: bool) -> str:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return f"returned nothing readable: {_line(text)!r}"
        expected = json.loads(json.dumps(expected))
        if is_unordered and isinstance(value, list) and isinstance(expected, list):
            value, expected = sorted(value, key=json.dumps), sorted(expected, key=json.dumps)
        if self._is_equal(value, expected):
            return ""
        return f"returned {_line(text)}, expected {_line(json.dumps(expected))}"

    def _is_equal(self, value: Any, expected: Any) -> bool:
        if isinstance(value, list) and isinstance(expected, list):
            return len(value) == len(expected) and all(map(self._is_equal, value, expected))
        if isinstance(value, dict) and isinstance(expected, dict):
            return value.keys() == expected.keys() and all(self._is_equal(value[key], expected[key]) for key in value)
        if self._tolerance > 0 and isinstance(value, int | float) and isinstance(expected, int | float):
            return math.isclose(value, expected, rel_tol=self._tolerance, abs_tol=self._tolerance)
        return bool(value == expected)

    def _is_close(self, token: str, expected: str) -> bool:
        if token == expected:
            return True
        try:
            return math.isclose(float(token), float(expected), rel_tol=self._tolerance, abs_tol=self._tolerance)
        except ValueError:
            return False


def _with_overrides(limits: SandboxLimits, overrides: Mapping[str, Any]) -> SandboxLimits:
    known = {field.name for field in dataclasses.fields(SandboxLimits)}
    for name, value in overrides.items():
        if name not in known:
            raise ValueError(f"limits.{name}: no such limit; limits are {', '.join(sorted(known))}")
        if not isinstance(value, int | float) or value <= 0:
            raise ValueError(f"limits.{name}: {value!r} is not a positive number")
    return dataclasses.replace(limits, **overrides)


def _problem_of(result: Result) -> str:
    """Why a run counts as failed whatever it printed; empty if it does not."""
    match result.status:
        case "ok":
            return ""
        case "cpu":
            return f"more than the CPU time allowed ({result.cpu_s:.1f} s)"
        case "wall":
            return f"not done after {result.wall_s:.1f} s"
        case "output":
            return "more output than allowed"
        case "memory":
            return "more memory than allowed"
        case "signal":
            return f"killed by signal {-result.exit_code}"
        case _:
            last = result.stderr.strip().splitlines()
            return _line(last[-1]) if last else f"exit code {result.exit_code}"


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 120 else line[:119] + "…"
