"""Commands that need no fleet: what they print, for people and for scripts, and what they say when they cannot."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from control_operations import TOKEN, Recorded
from ring_async.actors.replay.replay import advantage_rules, buffer_rules
from ring_async.cli import app as cli
from ring_async.cli import doctor
from ring_async.config.load import dump_config, load_config
from ring_async.config.schema import Config, ControlSection
from ring_async.control.api import make_app, serve
from ring_async.engines.tokenizer import load_tokenizer
from ring_async.models import resolve_model_path
from ring_async.storage.replay_shard import ReplayShard
from ring_async.storage.replay_store import ReplayStore
from ring_async.storage.run_dir import RunDir
from ring_async.testing.builders import make_config, make_group, make_prompt
from ring_async.training.checkpoint import CheckpointStore
from ring_async.types import Group, PolicyVersion

LOCAL = str(Path(__file__).resolve().parents[2] / "configs" / "local.yaml")
TINY = resolve_model_path("builtin:tiny")


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, output, errors."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(words))
    shown = capsys.readouterr()
    return int(stopped.value.code or 0), shown.out, shown.err


def call_json(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    code, out, err = call(capsys, *words, "--json")
    assert code == 0, err
    return json.loads(out)


def make_run(runs: Path, name: str = "mine") -> RunDir:
    run_dir = RunDir(runs / name)
    run_dir.create()
    run_dir.config.write_text(dump_config(make_config(run__name=name)))
    run_dir.point_latest()
    return run_dir


# -- samples


def answered(group_id: str, texts: Sequence[str], rewards: Sequence[float], source: str) -> Group:
    """A scored group whose responses say something."""
    tokenizer = load_tokenizer(TINY)
    ids = [np.array(tokenizer.encode(text), np.int32) for text in texts]
    prompt = make_prompt(f"{source}/{group_id}", source=source, text=f"What is [bold]{group_id}?")
    group = make_group(group_id, rewards=rewards, lengths=[len(one) for one in ids], source=source, prompt=prompt)
    return Group(group.header, group.prompt_ids, np.concatenate(ids), group.behavior_logprobs, group.loss_mask)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A run that keeps three groups, the newest of them `g2`."""
    run_dir, config = make_run(tmp_path), make_config()
    store = ReplayStore(run_dir.replay / "replay-0", 16 << 20)
    shard = ReplayShard(store, buffer_rules(config), advantage_rules(config))
    shard.put([answered("g0", ["12", "13"], [0.0, 1.0], "sums")])
    shard.put([answered("g1", ["7 + 5 = 12", "1"], [1.0, 0.5], "sums")])
    shard.put([answered("g2", ["4", "[red]9"], [0.0, 0.25], "legs")])
    shard.close()
    return tmp_path


def test_samples_shows_the_newest_groups_whole(stored: Path, capsys: pytest.CaptureFixture[str]):
    groups = call_json(capsys, "samples", "--runs", str(stored), "-n", "2")
    assert [group["group_id"] for group in groups] == ["g2", "g1"]
    newest, older = groups
    assert newest["prompt"] == "What is [bold]g2?"
    assert newest["verifier"] == {"name": "exact", "version": "0" * 16, "epoch": 0}
    assert [one["response"] for one in older["responses"]] == ["7 + 5 = 12", "1"]
    assert [one["reward"] for one in older["responses"]] == [1.0, 0.5]
    assert older["responses"][0]["advantage"] > 0 > older["responses"][1]["advantage"]
    assert {one["state"] for group in groups for one in group["responses"]} == {"buffered"}


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        (["--source", "sums"], ["g1", "g0"]),
        (["--max-reward", "0.3"], ["g2"]),
        (["--min-reward", "0.4", "--max-reward", "0.6"], ["g0"]),
        (["--group", "g0"], ["g0"]),
        (["--source", "none"], []),
    ],
)
def test_samples_can_be_chosen(stored: Path, words: list[str], chosen: list[str], capsys: pytest.CaptureFixture[str]):
    groups = call_json(capsys, "samples", "mine", "--runs", str(stored), *words)
    assert [group["group_id"] for group in groups] == chosen


def test_samples_prints_text_as_it_is(stored: Path, capsys: pytest.CaptureFixture[str]):
    _, out, _ = call(capsys, "samples", "--runs", str(stored))
    for words in ("What is [bold]g2?", "[red]9", "0.250", "advantage", "version 0.0", "legs", "exact"):
        assert words in out


def test_samples_says_why_there_is_none(stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code, _, err = call(capsys, "samples", "--group", "g99", "--runs", str(stored))
    assert (code, "no group 'g99'" in err) == (1, True)
    make_run(tmp_path, "empty")
    assert call_json(capsys, "samples", "empty", "--runs", str(tmp_path)) == []
    assert "no group is kept" in call(capsys, "samples", "empty", "--runs", str(tmp_path))[1]


# -- data inspect


def test_data_inspect_shows_prompts_and_what_judges_them(capsys: pytest.CaptureFixture[str]):
    prompts = call_json(capsys, "data", "inspect", LOCAL, "-n", "2", "--from", "7")
    assert [(one["source"], one["index"]) for one in prompts] == [
        ("chain_sum", 7), ("chain_sum", 8), ("leg_counting", 7), ("leg_counting", 8),
    ]  # fmt: skip
    assert {one["verifier"] for one in prompts} == {"logic"}
    assert all(one["prompt"] and one["metadata"]["entry"]["answer"] for one in prompts)
    (held_out,) = call_json(capsys, "data", "inspect", LOCAL, "chain_sum", "-n", "1", "--held-out")
    assert held_out["prompt_id"] == "chain_sum/held-out/0"
    assert "judged by logic" in call(capsys, "data", "inspect", LOCAL, "chain_sum")[1]


def test_data_inspect_knows_the_sources(capsys: pytest.CaptureFixture[str]):
    code, _, err = call(capsys, "data", "inspect", LOCAL, "poems")
    assert code == 2
    assert "sources are chain_sum, leg_counting" in err.replace("\n", " ")


# -- init


def test_init_writes_a_configuration_that_runs_and_lists_every_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "deep" / "first run.yaml"
    assert call(capsys, "init", str(path))[0] == 0
    started = load_config(path)
    assert (started.run.name, started.stop.policy_versions) == ("first-run", 60)
    text = path.read_text()
    bare = re.sub(r"^( *)# (?= *[a-z_]+:)", r"\1", text, flags=re.MULTILINE)
    assert load_config_text(tmp_path, bare) == started, "a default in the file is not the default in force"
    keys = yaml.safe_load(bare)
    assert keys.keys() == Config.model_fields.keys()
    for name, values in Config.model_json_schema()["properties"].items():
        section = values.get("$ref", "").rpartition("/")[2]
        if section:
            assert keys[name].keys() == Config.model_json_schema()["$defs"][section]["properties"].keys()


def load_config_text(folder: Path, text: str) -> Config:
    (folder / "bare.yaml").write_text(text)
    return load_config(folder / "bare.yaml")


def test_init_writes_over_nothing_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 3\n")
    code, _, err = call(capsys, "init", str(path))
    assert (code, "--force" in err, path.read_text()) == (2, True, "seed: 3\n")
    assert call(capsys, "init", str(path), "--force")[0] == 0


# -- export


def write_checkpoint(run_dir: RunDir, number: int) -> Path:
    def write(folder: Path) -> None:
        for path in TINY.iterdir():
            shutil.copyfile(path, folder / path.name)
        (folder / "optimizer.safetensors").write_bytes(b"moments")
        (folder / "trainer_state.json").write_text("{}")

    return CheckpointStore(run_dir.checkpoints).save(PolicyVersion(0, number), number, write)


def test_export_is_a_hugging_face_directory_of_the_newest_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    run_dir = make_run(tmp_path)
    older, _ = write_checkpoint(run_dir, 5), write_checkpoint(run_dir, 10)
    runs = ("--runs", str(tmp_path))
    done = call_json(capsys, "export", "latest", str(tmp_path / "newest"), *runs)
    assert done["policy_version"] == "0.10"
    assert {path.name for path in (tmp_path / "newest").iterdir()} == {path.name for path in TINY.iterdir()}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "newest", local_files_only=True)
    assert model.num_parameters() > 1_000_000
    assert load_tokenizer(tmp_path / "newest").encode("7 + 5") == load_tokenizer(TINY).encode("7 + 5")
    assert call_json(capsys, "export", str(older), str(tmp_path / "older"), *runs)["policy_version"] == "0.5"
    assert "version 0.10" in call(capsys, "export", "mine", str(tmp_path / "named"), *runs)[1]


def test_export_refuses_what_would_be_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run_dir, runs = make_run(tmp_path), ("--runs", str(tmp_path))
    code, _, err = call(capsys, "export", "mine", str(tmp_path / "out"), *runs)
    assert (code, "no complete checkpoint" in err) == (1, True)
    checkpoint = write_checkpoint(run_dir, 5)
    code, _, err = call(capsys, "export", "mine", str(checkpoint), *runs)
    assert (code, "not empty" in err) == (2, True)
    (checkpoint / "optimizer.safetensors").write_bytes(b"memento")
    code, _, err = call(capsys, "export", str(checkpoint), str(tmp_path / "out"), *runs)
    assert (code, "checksum" in err) == (1, True)
    assert not (tmp_path / "out").exists()


# -- doctor


def test_doctor_looks_at_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code, out, _ = call(capsys, "doctor", "--runs", str(tmp_path), "--json")
    findings = {one["name"]: one for one in json.loads(out)}
    assert findings.keys() >= {"python", "disk", "ports", "sandbox", "torch", "gpu", "ray", "memory"}
    assert code == int(not all(one["is_ok"] for one in findings.values()))
    assert findings["torch"]["is_ok"]
    assert str(tmp_path) in findings["disk"]["detail"]


def test_doctor_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def broken(name: str) -> doctor.Finding:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(doctor, "_filesystem", lambda path: "nfs4")
    monkeypatch.setattr(doctor, "_package", broken)
    code, out, _ = call(capsys, "doctor", "--runs", str(tmp_path / "not" / "yet"))
    shown = " ".join(out.split())
    assert code == 1
    for words in ("apt-get install bubblewrap", "local disk", "apt-get install gcc", "could not be examined"):
        assert words in shown
    findings = doctor.examine(tmp_path)
    assert all(one.remedy for one in findings if not one.is_ok)


# -- commands of a run that is up


class Obedient(Recorded):
    """Operations whose run is down as soon as it is asked for."""

    def __init__(self, run_dir: RunDir) -> None:
        super().__init__()
        self._run_dir = run_dir

    def shut_down(self, reason: str, deadline_s: float) -> None:
        outcome = {"reason": reason, "failure": "", "killed": [], "policy_version": 7, "checkpoint": None}
        self._run_dir.outcome.write_text(json.dumps(outcome))
        self._run_dir.endpoints.unlink()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Path]:
    """A run whose control API answers, without a fleet behind it."""
    run_dir, control = make_run(tmp_path), ControlSection()
    is_up, end = threading.Event(), threading.Event()

    async def live() -> None:
        async with serve(make_app(Obedient(run_dir), TOKEN, "mine"), control) as url:
            run_dir.endpoints.write_text(json.dumps({"api": url, "token": TOKEN}))
            is_up.set()
            await asyncio.to_thread(end.wait)

    thread = threading.Thread(target=lambda: asyncio.run(live()))
    thread.start()
    assert is_up.wait(10)
    yield tmp_path
    end.set()
    thread.join(10)


def test_commands_of_a_run_answer_people_and_scripts(served: Path, capsys: pytest.CaptureFixture[str]):
    runs = ("--runs", str(served))
    status = call_json(capsys, "status", *runs)
    assert (status["state"], status["last_step"]["entropy"]) == ("running", None)
    assert call_json(capsys, "pause", *runs) == {"state": "paused"}
    assert "ring-async resume" in call(capsys, "pause", *runs)[1]
    assert call_json(capsys, "resume", *runs) == {"state": "running"}
    assert call_json(capsys, "checkpoint", *runs) == {"path": "/somewhere"}
    assert call(capsys, "checkpoint", *runs)[1] == "/somewhere\n"
    assert call_json(capsys, "down", *runs)["policy_version"] == 7


# -- completion


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("ring-async sam", {"samples"}),
        ("ring-async data in", {"inspect"}),
        ("ring-async report m", {"mine"}),
        ("ring-async status --run o", {"other"}),
        ("ring-async logs rol", {"rollout-0", "rollout-1"}),
    ],
)
def test_the_shell_completes_commands_runs_and_actors(
    words: str, offered: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    make_run(tmp_path, "other")
    for actor in ("rollout-0", "rollout-1", "learner-0"):
        (make_run(tmp_path).logs / f"{actor}.log").touch()
    monkeypatch.setenv("RING_ASYNC_RUNS", str(tmp_path))
    monkeypatch.setenv("_RING_ASYNC_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    with pytest.raises(SystemExit):
        cli.app(prog_name="ring-async")
    assert set(capsys.readouterr().out.split()) == offered
