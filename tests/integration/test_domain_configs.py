"""Every domain's configuration, and the example of one's own verifier, run for a few optimizer steps.

Nothing is scripted: the tiny model generates and trains, the configured verifier judges. One process holds the fleet;
`code` also runs as people run it, in processes of its own.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from live_fleet import ROOT, fleet
from ring_async.actors import reward
from ring_async.config.load import load_config
from ring_async.data.registry import make_source
from ring_async.storage.audit import audit
from ring_async.testing.one_process import ConfiguredFleet
from ring_async.transport.curve import make_socket_dir
from ring_async.types import Prompt, Verdict
from ring_async.verifiers.base import Response
from ring_async.verifiers.rules.answers import last_number, tagged_answer

NUM_VERSIONS = 3
TOKEN_BUDGET = 512
SHORT = (f"stop.policy_versions={NUM_VERSIONS}", f"budget.token_budget={TOKEN_BUDGET}")
EXAMPLE = "examples/custom_verifier.yaml"

needs_bubblewrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


def math_reward(prompt: Prompt, text: str, _parts: Any) -> float | None:
    return float((tagged_answer(text) or last_number(text)) == prompt.metadata["answer"])


def code_reward(prompt: Prompt, text: str, _parts: Any) -> float | None:
    """What the tests make of an answer that is a plain number."""
    answer = tagged_answer(text)
    if answer is None:
        return 0.0
    if not re.fullmatch(r"0|-?[1-9]\d*", answer):
        return None
    value = int(answer)
    returned = (value, value < 0, value % 2)
    passed = [got == test["expected"] for got, test in zip(returned, prompt.metadata["tests"], strict=True)]
    return sum(passed) / len(passed)


def logic_reward(prompt: Prompt, text: str, _parts: Any) -> float | None:
    is_right = tagged_answer(text) == prompt.metadata["entry"]["answer"]
    return 1.0 if is_right else 0.0 if prompt.source == "leg_counting" else None


def instruction_reward(prompt: Prompt, text: str, _parts: Any) -> float | None:
    (instruction,) = prompt.metadata["instructions"]
    if instruction["id"] == "punctuation:no_comma":
        return float("," not in text and bool(text.strip()))
    if re.search(r"\w[.,:'’-]\w", text):  # one word or two: not worked out in a line
        return None
    is_long = len(re.findall(r"\w+", text)) >= instruction["kwargs"]["num_words"]
    return float(is_long is (instruction["kwargs"]["relation"] == "at least") and bool(text.strip()))


def corrected_reward(_prompt: Prompt, _text: str, parts: dict[str, float]) -> float | None:
    """The reward model's output, squashed; as it is until the length's slope was measured."""
    squashed = 1 / (1 + math.exp(-parts["output"]))
    assert parts["uncorrected"] == pytest.approx(squashed, rel=1e-6)
    return squashed if parts["length_slope"] == 0 else None


def brevity_reward(prompt: Prompt, text: str, _parts: Any) -> float | None:
    is_right = (tagged_answer(text) or last_number(text)) == str(prompt.metadata["entry"]["answer"])
    return 0.0 if not is_right else 1.0 if len(text.split()) <= 12 else 0.5


DOMAINS: dict[str, tuple[Callable[..., float | None], set[str]]] = {
    "configs/math.yaml": (math_reward, {"answered"}),
    "configs/code.yaml": (code_reward, {"passed", "tests"}),
    "configs/logic.yaml": (logic_reward, {"answered"}),
    "configs/instruction.yaml": (instruction_reward, set()),
    "configs/reward_model.yaml": (corrected_reward, {"output", "uncorrected", "length_slope"}),
    EXAMPLE: (brevity_reward, {"right", "brief"}),
}
"""For each configuration: the reward worked out anew (None: not so simply), and parts every verdict has."""


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reward model of configs/reward_model.yaml, trained by the command that the file names, for one epoch."""
    folder = tmp_path_factory.mktemp("reward_model") / "trained"
    command = [sys.executable, "-m", "ring_async.verifiers.models.bradley_terry", "configs/data/preferences.jsonl"]
    done = subprocess.run(
        [*command, "--epochs", "1", "--out", str(folder)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "128 pairs" in done.stdout
    return folder


@pytest.fixture
def socket_dir() -> Iterator[Path]:
    folder = make_socket_dir()
    yield folder
    shutil.rmtree(folder)


class Record:
    """Every group that the reward actor judged, with its verdicts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.groups: list[tuple[Prompt, list[Response], list[Verdict]]] = []
        self._judge_group = reward.judge_group
        monkeypatch.setattr(reward, "judge_group", self._judge)

    async def _judge(
        self, verifier: Any, prompt: Prompt, responses: Any, timeout_s: float, bound: float
    ) -> list[Verdict]:
        verdicts = await self._judge_group(verifier, prompt, responses, timeout_s, bound)
        assert all(isinstance(one, Verdict) for one in verdicts)
        self.groups.append((prompt, list(responses), verdicts))
        return verdicts


@pytest.mark.parametrize("name", [pytest.param(n, marks=needs_bubblewrap) if "code" in n else n for n in DOMAINS])
def test_a_domain_s_configuration_trains_on_its_verifier_s_rewards(
    name: str, tmp_path: Path, socket_dir: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
):
    monkeypatch.chdir(ROOT)
    overrides = list(SHORT)
    if "reward_model" in name:
        overrides.append(f"verifiers.preference.options.of.options.path={request.getfixturevalue('reward_model')}")
    record = Record(monkeypatch)
    one = ConfiguredFleet(load_config(name, overrides), tmp_path, socket_dir)
    assert asyncio.run(asyncio.wait_for(one.run(), 200)) == ""

    steps = [json.loads(line) for line in one.run_dir.metrics.read_text().splitlines()]
    assert [step["policy_version"] for step in steps] == list(range(1, NUM_VERSIONS + 1))
    assert {step["loss_tokens"] for step in steps} == {TOKEN_BUDGET}
    assert all(step["grad_norm"] > 0 for step in steps), "batches hold groups whose rewards differ"
    report = audit(one.run_dir.path)
    assert report.is_clean, report.to_text()
    assert report.counts["failed"] == 0

    rework, parts = DOMAINS[name]
    num_reworked = 0
    for prompt, responses, verdicts in record.groups:
        for response, verdict in zip(responses, verdicts, strict=True):
            assert set(verdict.parts) >= parts
            expected = rework(prompt, response.text, verdict.parts)
            if expected is not None:
                num_reworked += 1
                assert verdict.reward == pytest.approx(expected, abs=1e-6), (prompt.text, response.text)
    assert num_reworked > 20
    assert any(len({verdict.reward for verdict in verdicts}) > 1 for _, _, verdicts in record.groups)


@needs_bubblewrap
@pytest.mark.slow
def test_code_runs_as_people_run_it(tmp_path: Path):
    with fleet(tmp_path, "code", *SHORT, config=ROOT / "configs" / "code.yaml") as live:
        assert live.wait_end() == 0, live.output()
    steps = live.steps()
    assert [step["loss_tokens"] for step in steps] == [TOKEN_BUDGET] * NUM_VERSIONS
    assert any(0 < rewarded < 1 for step in steps for rewarded in step["reward_by_source"].values())
    report = audit(live.run_dir.path)
    assert report.is_clean, report.to_text()
    assert report.counts["failed"] == 0


def test_every_shipped_configuration_is_run_somewhere():
    shipped = {f"configs/{path.name}" for path in (ROOT / "configs").glob("*.yaml")}
    elsewhere = {"configs/local.yaml", "configs/cluster.yaml"}  # test_main_job, test_one_architecture
    elsewhere |= {"configs/gpu_1x.yaml", "configs/gpu_2x.yaml"}  # on GPUs: benchmarks/bench_gpu_loop.py
    assert shipped == {name for name in DOMAINS if name != EXAMPLE} | elsewhere


@pytest.mark.parametrize("name", sorted(DOMAINS))
def test_sources_have_held_out_prompts_too(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    config = load_config(name)
    for source_name in config.mixture:
        source = make_source(source_name, config.sources[source_name])
        trained = {source.prompt(index).text for index in range(50)}
        assert source.held_out(0).text not in trained


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (ROOT / "configs" / "data" / name).read_text().splitlines()]


def total(question: str) -> int:
    found = re.fullmatch(r"State the final answer to the following arithmetic problem: ([\d +-]+) =", question)
    assert found is not None, question
    return sum(int(term) for term in re.findall(r"[+-]?\d+", found.group(1).replace(" ", "")))


def test_the_answers_in_the_shipped_files_are_right():
    for row in rows("sums.jsonl"):
        assert row["answer"] == str(total(row["prompt"]))
    for row in rows("gaps.jsonl"):
        value = total(row["prompt"])
        assert [test["expected"] for test in row["tests"]] == [value, value < 0, value % 2]
    forms = []
    for row in rows("preferences.jsonl"):
        right = f"<answer>{total(row['prompt'])}</answer>"
        assert row["chosen"].endswith(right)
        assert not row["rejected"].endswith(right)
        forms.append(("=" in row["chosen"], "=" in row["rejected"]))
    assert {form: forms.count(form) for form in set(forms)} == {
        (is_worked, other): 32 for is_worked in (True, False) for other in (True, False)
    }, "longer is as often better as worse"
