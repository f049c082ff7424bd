"""Programs judged by unit tests, run in the sandbox.

Owns: the problem's metadata, running the tests, and the reward. Does not own: finding the program (`extraction`),
comparing outputs (`comparison`), or the sandbox.

`prompt.metadata` holds
    tests: list of `{"stdin": …, "stdout": …}` or `{"args": […], "kwargs": {…}, "expected": …}`;
    function: for the second kind, `solve` or `Solution.solve`;
    language: `python` or `cpp`; absent: what the response's code fence says, else Python;
    limits: overrides of `SandboxLimits` for this problem, e.g. `{"cpu_s": 2}`;
    unordered: true where a returned list's order does not matter;
    template: a program with a gap, `{completion}`, where the response's code goes; absent: the response is the program.

A function that returns None where a value is expected is judged by its first argument: it may work in place.

Expected outputs never enter the sandbox: a program can only pass by printing or returning the right answer. A program
that is too slow, too large, or does not compile has failed its tests: that is its reward, not a fault. A program that
others kept from running, or that somebody else killed, has no reward: see `sandbox.session`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ring_async.errors import VerifierError
from ring_async.sandbox.pool import SandboxPool
from ring_async.sandbox.program import Call, Language, Program, RefusedProgramError, Result, SandboxLimits
from ring_async.sandbox.session import ProgramSession
from ring_async.types import Prompt, Verdict
from ring_async.verifiers.base import GoldenCase, Response, VerifierBase
from ring_async.verifiers.rules.answers import tagged_answer
from ring_async.verifiers.rules.code.comparison import (
    UnreadableValueError,
    in_any_order,
    is_same_text,
    is_same_value,
    plain,
    read_value,
)
from ring_async.verifiers.rules.code.extraction import bare_program, extract_program
from ring_async.verifiers.scoring import run_in_thread

_DEFAULT_TIMEOUT_S = 60.0
_MAX_OUTPUT_BYTES = 16 << 20
_GAP = "{completion}"
PACKAGES = {"numpy": ("numpy",), "sortedcontainers": ("sortedcontainers", "Sorted")}
"""What programs may import beside the standard library, as on the judges that their problems come from, and
the words by which a program that may is known."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Problem:
    """A prompt's metadata, checked."""

    tests: Sequence[Mapping[str, Any]]
    function: str
    language: Language | None
    limits: SandboxLimits
    is_unordered: bool
    template: str | None

    @property
    def reads_input(self) -> bool:
        return any(str(test.get("stdin", "")).strip() for test in self.tests)


class CodeVerifier(VerifierBase):
    """Reward 1 if all tests pass, or the passed fraction on request.

    Args:
        reward: `all` (stops at the first failure) or `fraction`.
        limits: overrides of `SandboxLimits`, for every problem.
        tolerance: relative and absolute error allowed between numbers; 0: outputs are compared as text, values exactly.
        extract: `fenced`: the code stands in a fenced block, or is all of the response. `fenced_or_tagged`: without
            either, in the last `<answer>…</answer>`; for short completions of a template.
        num_workers: programs run at once.

    Raises:
        SandboxUnavailableError: no sandbox here, see `SandboxPool`.
        ValueError: an unknown limit, reward or `extract`.
    """

    distributions = tuple(PACKAGES)

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
        self._pool = SandboxPool(num_workers, self._limits, packages=PACKAGES)

    def score(self, prompt: Prompt, response: Response) -> Verdict:
        """Run the tests, with a minute for all of them."""
        return self._score(prompt, response, _DEFAULT_TIMEOUT_S)

    async def score_within(self, prompt: Prompt, response: Response, timeout_s: float) -> Verdict:
        """Run the tests; all of them together have `timeout_s` from when a sandbox is free, of
        CPU time and idle time: what the program waits for a processor does not count.

        Raises:
            VerifierError: the sandbox failed, or the prompt's metadata are not as described above.
        """
        return await run_in_thread(self._score, (prompt, response, timeout_s))

    def check_prompt(self, prompt: Prompt) -> None:
        self._problem(prompt)

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
        problem = self._problem(prompt)
        num_tests = float(len(problem.tests))
        program = self._program(problem, response.text)
        if program is None:
            return Verdict(0.0, {"passed": 0.0, "tests": num_tests}, "no code block")
        try:
            with self._pool.session(program, problem.limits) as session:
                passed, failure, seconds = self._run(session, problem, timeout_s)
        except RefusedProgramError as error:
            return Verdict(0.0, {"passed": 0.0, "tests": num_tests}, f"does not compile: {_line(str(error))}")
        reward = float(passed == num_tests) if self._stops_early else passed / num_tests
        explanation = failure or f"{passed} of {len(problem.tests)} tests passed"
        return Verdict(reward, {"passed": float(passed), "tests": num_tests}, explanation, seconds)

    def _program(self, problem: _Problem, text: str) -> Program | None:
        """The response's code, in the prompt's template where it has one."""
        function = problem.function if problem.template is None else ""
        reads_input = problem.reads_input and problem.template is None
        program = extract_program(text, problem.language, function=function, reads_input=reads_input)
        if program is None and self._takes_tagged and (tagged := tagged_answer(text)):
            program = Program(tagged, problem.language or "python")
        if problem.template is None:
            return program or bare_program(text, problem.language)
        return program and dataclasses.replace(program, source=problem.template.replace(_GAP, program.source.rstrip()))

    def _run(self, session: ProgramSession, problem: _Problem, timeout_s: float) -> tuple[int, str, float]:
        """Number of tests passed, the first failure in a line, and seconds on the clock."""
        passed, first_failure, left_s, seconds = 0, "", timeout_s, 0.0
        for index, test in enumerate(problem.tests):
            if left_s <= 0:
                return passed, first_failure or f"test {index}: no time left after the tests before it", seconds
            result, failure = self._run_test(session, problem, test, left_s)
            left_s -= result.own_s
            seconds += result.wall_s
            if not failure:
                passed += 1
                continue
            first_failure = first_failure or f"test {index}: {failure}"
            if self._stops_early:
                break
        return passed, first_failure, seconds

    def _run_test(
        self, session: ProgramSession, problem: _Problem, test: Mapping[str, Any], left_s: float
    ) -> tuple[Result, str]:
        if "stdout" in test:
            result = session.run(str(test.get("stdin", "")), max_own_s=left_s)
            return result, _failure_of(result) or self._stdout_failure(result.stdout, str(test["stdout"]))
        call = Call(problem.function, tuple(test.get("args", ())), test.get("kwargs") or {})
        result = session.call(call, max_own_s=left_s)
        return result, _failure_of(result) or self._value_failure(result.value, test, problem.is_unordered)

    def _problem(self, prompt: Prompt) -> _Problem:
        metadata = prompt.metadata
        tests, function = _listed(metadata.get("tests")), metadata.get("function", "")
        language, template = metadata.get("language"), metadata.get("template")
        where = f"{prompt.prompt_id}: metadata"
        if not isinstance(tests, list | tuple) or not tests or not all(isinstance(test, Mapping) for test in tests):
            raise VerifierError(
                "bad_prompt", f'{where}.tests: must be a list of tests, at least one: [{{"stdin": …, "stdout": …}}]'
            )
        if any(test.get("stdout", "") is None for test in tests):
            raise VerifierError("bad_prompt", f"{where}.tests: `stdout` is null in one; what should be printed?")
        if language is not None and language not in ("python", "cpp"):
            raise VerifierError("bad_prompt", f"{where}.language: {language!r} is neither python nor cpp")
        if any("stdout" not in test for test in tests) and (not function or language == "cpp"):
            raise VerifierError("bad_prompt", f"{where}: a test without stdout needs `function`, and Python")
        if template is not None and _GAP not in str(template):
            raise VerifierError("bad_prompt", f"{where}.template: has no {_GAP} to fill in")
        try:
            limits = _with_overrides(self._limits, metadata.get("limits") or {})
            largest = max(len(repr(plain(test.get("stdout", test.get("expected"))))) for test in tests)
        except (ValueError, TypeError) as error:
            raise VerifierError("bad_prompt", f"{where}.{error}") from error
        return _Problem(
            tests,
            str(function),
            "python" if function else language,
            _with_room_for(largest, limits),
            bool(metadata.get("unordered")),
            None if template is None else str(template),
        )

    def _stdout_failure(self, printed: str, expected: str) -> str:
        if is_same_text(printed, expected, self._tolerance):
            return ""
        return f"printed {_line(printed)!r}, expected {_line(expected)!r}"

    def _value_failure(self, text: str, test: Mapping[str, Any], is_unordered: bool) -> str:
        returned, _, first_argument = text.partition("\n")
        expected = plain(test.get("expected"))
        try:
            value = read_value(returned)
            if value is None and expected is not None and first_argument:
                value = read_value(first_argument)
        except UnreadableValueError:
            return f"returned nothing readable: {_line(text)!r}"
        if is_unordered:
            value, expected = in_any_order(value), in_any_order(expected)
        if is_same_value(value, expected, self._tolerance):
            return ""
        return f"returned {_line(returned)}, expected {_line(repr(expected))}"


def _listed(tests: Any) -> Any:
    """Tests that a data set holds as JSON in a text, as a list; anything else as it is."""
    try:
        return json.loads(tests) if isinstance(tests, str) else tests
    except ValueError:
        return None


def _with_room_for(largest: int, limits: SandboxLimits) -> SandboxLimits:
    """Limits that let an expected output of this many characters through.

    Rounded up to a power of two: the limits enter the sandbox, and should tell nothing about the expected output.
    """
    needed = 8 * largest
    if needed <= limits.output_bytes:
        return limits
    return dataclasses.replace(limits, output_bytes=min(1 << needed.bit_length(), _MAX_OUTPUT_BYTES))


def _with_overrides(limits: SandboxLimits, overrides: Mapping[str, Any]) -> SandboxLimits:
    known = {field.name for field in dataclasses.fields(SandboxLimits)}
    for name, value in overrides.items():
        if name not in known:
            raise ValueError(f"limits.{name}: no such limit; limits are {', '.join(sorted(known))}")
        if not isinstance(value, int | float) or value <= 0:
            raise ValueError(f"limits.{name}: {value!r} is not a positive number")
    return dataclasses.replace(limits, **overrides)


def _failure_of(result: Result) -> str:
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


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 120 else line[:119] + "…"
