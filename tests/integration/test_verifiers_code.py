"""Programs judged by tests, in the sandbox; and what happens where there is none."""

import asyncio
import shutil
from pathlib import Path

import pytest

from ring_async.config.schema import VerifierSection
from ring_async.errors import ConfigError, SandboxUnavailableError, VerifierError
from ring_async.sandbox.pool import SandboxPool
from ring_async.types import Prompt
from ring_async.verifiers.base import Response
from ring_async.verifiers.golden import check_golden_cases
from ring_async.verifiers.registry import make_verifier
from ring_async.verifiers.scoring import score_group

SUM = {
    "tests": [
        {"stdin": "3 4\n", "stdout": "7\n"},
        {"stdin": "1 1\n", "stdout": "2\n"},
        {"stdin": "0 0\n", "stdout": "0\n"},
    ]
}
needs_bubblewrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
needs_compiler = pytest.mark.skipif(not Path("/usr/bin/g++").exists(), reason="g++ is not installed")


@pytest.fixture(scope="module")
def code():
    made = {}

    def get(**options):
        key = repr(sorted(options.items()))
        if key not in made:
            made[key] = make_verifier("code", VerifierSection(use="code", options=options))
        return made[key]

    yield get
    for verifier in made.values():
        verifier.close()


def verdict(verifier, text, metadata, timeout_s=20.0):
    return asyncio.run(score_group(verifier, Prompt("p", "s", "?", metadata), [Response(text)], timeout_s))[0]


def fenced(source, language="python"):
    return f"Here:\n```{language}\n{source}\n```\n"


pytestmark = [
    needs_bubblewrap,
    pytest.mark.may_leak("the module's pools replace their sandboxes during a test; their fixture closes them"),
]


def test_golden_cases(code):
    assert asyncio.run(check_golden_cases(code(), 20.0)) == []


GAP = {
    "template": "def solve(of):\n    total = {completion}\n    return [total, total < 0][of]\n",
    "function": "solve",
    "tests": [{"args": [0], "expected": 5}, {"args": [1], "expected": False}],
}


@pytest.mark.parametrize(
    ("text", "reward", "says"),
    [
        (fenced("2 + 3"), 1.0, "2 of 2 tests passed"),
        ("2+3=5<answer>5</answer>", 1.0, "2 of 2 tests passed"),
        ("<answer>6</answer>", 0.5, "test 0: returned 6, expected 5"),
        ("<answer>dog</answer>", 0.0, "test 0: NameError: name 'dog' is not defined"),
        ("<answer>5", 0.0, "no code block"),
    ],
)
def test_a_completion_runs_inside_its_template(code, text, reward, says):
    judged = verdict(code(reward="fraction", extract="fenced_or_tagged"), text, GAP)
    assert judged.reward == reward
    assert says in judged.explanation


def test_a_tagged_answer_is_code_only_on_request_and_a_template_needs_a_gap(code):
    assert verdict(code(), "<answer>5</answer>", GAP).explanation == "no code block"
    with pytest.raises(VerifierError, match=r"metadata\.template: has no \{completion\} to fill in"):
        verdict(code(), fenced("5"), GAP | {"template": "print(5)"})
    with pytest.raises(ConfigError, match="extract: 'all' is neither fenced nor fenced_or_tagged"):
        code(extract="all")


@pytest.mark.parametrize(
    ("source", "reward", "says"),
    [
        ("print(sum(map(int, input().split())))", 1.0, "3 of 3 tests passed"),
        ("a, b = map(int, input().split())\nprint(f'{a + b}   ')\nprint()", 1.0, "3 of 3"),
        ("print(7)", 0.0, "test 1: printed '7', expected '2'"),
        ("print(", 0.0, "test 0: SyntaxError: '(' was never closed"),
        ("1 / 0", 0.0, "test 0: ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(3)", 0.0, "test 0: exit code 3"),
        ("while True: pass", 0.0, "test 0: more than the CPU time allowed"),
        ("import time; time.sleep(60)", 0.0, "test 0: not done after"),
        ("print('x' * 10 ** 8)", 0.0, "test 0: more output than allowed"),
    ],
)
def test_stdin_and_stdout(code, source, reward, says):
    verifier = code(limits={"cpu_s": 1, "wall_s": 30})
    found = verdict(verifier, fenced(source), SUM)
    assert found.reward == reward, found
    assert says in found.explanation


def test_the_passed_fraction_on_request(code):
    found = verdict(code(reward="fraction"), fenced("print(7)"), SUM)
    assert (found.reward, found.parts) == (1 / 3, {"passed": 1.0, "tests": 3.0})


@pytest.mark.parametrize(
    ("source", "function", "test", "reward"),
    [
        ("def f(a, b=1): return a + b", "f", {"args": [1], "kwargs": {"b": 4}, "expected": 5}, 1.0),
        (
            "class Solution:\n    def f(self, a): return a[::-1]",
            "Solution.f",
            {"args": [[1, 2]], "expected": [2, 1]},
            1.0,
        ),
        ("def f(): return (1, {'a': None, 2: True})", "f", {"expected": [1, {"a": None, "2": True}]}, 1.0),
        ("def f(): return {3, 1, 2}", "f", {"expected": [1, 2, 3]}, 1.0),
        ("def f(): return 0.1 + 0.2", "f", {"expected": 0.3}, 0.0),
        ("def f(): return 5", "f", {"expected": "5"}, 0.0),
        ("def f(): return object()", "f", {"expected": 1}, 0.0),
        ("class E:\n    def __eq__(self, o): return True\ndef f(): return E()", "f", {"expected": 1}, 0.0),
        ("class I(int):\n    def __repr__(self): return '5'\ndef f(): return I(4)", "f", {"expected": 5}, 0.0),
        ("def f():\n    a = []\n    a.append(a)\n    return a", "f", {"expected": []}, 0.0),
        ("def g(): return 1", "f", {"expected": 1}, 0.0),
        ("def f(): print('noise'); return 1", "f", {"expected": 1}, 1.0),
    ],
)
def test_function_calls(code, source, function, test, reward):
    assert verdict(code(), fenced(source), {"function": function, "tests": [test]}).reward == reward


def test_numbers_within_a_tolerance(code):
    verifier = code(tolerance=1e-6)
    assert (
        verdict(verifier, fenced("def f(): return 0.1 + 0.2"), {"function": "f", "tests": [{"expected": 0.3}]}).reward
        == 1.0
    )
    assert verdict(verifier, fenced("print(1 / 3)"), {"tests": [{"stdout": "0.33333333"}]}).reward == 1.0
    assert verdict(verifier, fenced("print(1 / 3)"), {"tests": [{"stdout": "0.34"}]}).reward == 0.0


def test_order_may_not_matter(code):
    metadata = {"function": "f", "tests": [{"expected": [1, 2]}]}
    source = fenced("def f(): return [2, 1]")
    assert verdict(code(), source, metadata).reward == 0.0
    assert verdict(code(), source, {**metadata, "unordered": True}).reward == 1.0


@needs_compiler
@pytest.mark.parametrize(
    ("source", "reward", "says"),
    [
        (
            "#include <iostream>\nint main() { int a, b; std::cin >> a >> b; std::cout << a + b << std::endl; }",
            1.0,
            "3 of 3",
        ),
        ("int main() { return 0; }", 0.0, "test 0: printed ''"),
        ("int main() { int *p = 0; *p = 1; }", 0.0, "test 0: killed by signal"),
        ("int main() { for (volatile int i = 0;; ++i); }", 0.0, "test 0: more than the CPU time"),
        ("int main( {", 0.0, "does not compile"),
    ],
)
def test_cpp(code, source, reward, says):
    found = verdict(code(limits={"cpu_s": 1, "wall_s": 30}), fenced(source, "cpp"), SUM)
    assert found.reward == reward, found
    assert says in found.explanation


def test_a_problem_s_own_limits(code):
    found = verdict(code(), fenced("while True: pass"), {**SUM, "limits": {"cpu_s": 0.5}})
    assert "more than the CPU time" in found.explanation


def test_all_tests_together_have_a_deadline(code):
    metadata = {"tests": [{"stdin": "", "stdout": ""}] * 50}
    found = verdict(code(), fenced("import time; time.sleep(0.3)"), metadata, timeout_s=1.0)
    assert found.reward == 0.0
    assert found.parts["passed"] < 25, "all fifty would take 15 s; on a busy machine the deadline waits for CPU time"


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"tests": []},
        {"tests": [3]},
        {"tests": [{"expected": 1}]},
        {"tests": [{"stdout": ""}], "language": "cobol"},
        {"tests": [{"expected": 1}], "function": "f", "language": "cpp"},
        {"tests": [{"stdout": ""}], "limits": {"luck": 1}},
    ],
)
def test_a_prompt_that_cannot_be_judged_is_a_failure(code, metadata):
    with pytest.raises(VerifierError, match="bad_prompt"):
        verdict(code(), fenced("print()"), metadata)


@pytest.mark.parametrize("options", [{"limits": {"luck": 1}}, {"limits": {"cpu_s": 0}}, {"reward": "most"}])
def test_mistakes_in_options_are_said(options):
    with pytest.raises(ConfigError, match=r"verifiers.code.options"):
        make_verifier("code", VerifierSection(use="code", options=options))


def test_without_bubblewrap_there_is_a_refusal_that_names_the_package(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SandboxUnavailableError, match="install the system package `bubblewrap`"):
        SandboxPool()


def test_a_bubblewrap_that_cannot_sandbox_is_a_refusal_with_its_words(monkeypatch, tmp_path):
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    tmp_path.chmod(0o755)
    fake.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(fake))
    with pytest.raises(SandboxUnavailableError, match=r"no sandbox starts: .*|Unprivileged user namespaces"):
        SandboxPool()


def test_a_processor_without_a_filter_is_a_refusal(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(SandboxUnavailableError, match="no system call table for riscv64"):
        SandboxPool()
