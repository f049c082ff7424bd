"""The command line's manners: a bad configuration is exit code 2 and one clear screen, never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from ring_async.cli import app as cli

LOCAL = str(Path(__file__).resolve().parents[2] / "configs" / "local.yaml")
BAD = {
    "unknown key": (["rollout.nmu=2"], "rollout.nmu", "rollout.num"),
    "unknown section": (["rolout.num=2"], "rolout", "rollout"),
    "wrong type": (["stop.policy_versions=many"], "stop.policy_versions", "whole number"),
    "out of bounds": (["rollout.temperature=-1"], "rollout.temperature", "above 0"),
    "Φ smaller than a response": (["budget.token_budget=40"], "budget.token_budget", "rollout.max_tokens"),
    "a row too short": (["learner.token_capacity=20"], "learner.token_capacity", "rollout.max_tokens"),
    "no such source": (["mixture.poems=1"], "mixture.poems", "chain_sum"),
    "a window without a prompt": (["difficulty.chain_sum={by: num_terms, low: 7}"], "chain_sum", "go from 3 to 4"),
    "bounds the wrong way round": (["difficulty.chain_sum={low: 7, high: 3}"], "difficulty.chain_sum", "above high"),
    "no such verifier": (["verifiers.logic.use=nowhere:Nothing"], "verifiers.logic", "nowhere"),
    "no such model": (["model.path=/no/such/model"], "model.path", "/no/such/model"),
    "no such task": (["sources.chain_sum.task=chain_smu"], "sources.chain_sum", "chain_smu"),
    "impossible placement": (["rollout.num=500"], "placement.cpus", "rollout 250"),
    "not key=value": (["seed"], "seed", "key=value"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_configuration_is_one_clear_screen(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    overrides, where, hint = BAD[case]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["up", LOCAL, f"run.dir={tmp_path}", *overrides])
    shown = capsys.readouterr()
    assert stopped.value.code == 2
    assert where in shown.err
    assert hint in shown.err
    assert "Traceback" not in shown.err + shown.out
    assert len(shown.err.splitlines()) <= 12
    assert not (tmp_path / "local").exists(), "nothing is left behind by a run that never began"


def test_a_missing_file_names_its_neighbours(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["check", LOCAL.replace("local", "locale")])
    assert stopped.value.code == 2
    assert "local.yaml" in capsys.readouterr().err


def test_check_shows_a_good_configuration(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["check", LOCAL])
    assert stopped.value.code == 0
    assert "4,096 loss tokens" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize("words", [["status"], ["down"], ["pause"], ["report"], ["audit"], ["logs"]])
def test_commands_without_a_run_say_how_to_start_one(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as stopped:
        cli.main([*words, "--runs", str(tmp_path)])
    assert stopped.value.code == 1
    assert "ring-async up" in capsys.readouterr().err


def command_names() -> list[list[str]]:
    """All commands, those of groups too, as they are typed."""
    apps = [([], cli.app)] + [([group.name], group.typer_instance) for group in cli.app.registered_groups]
    return [
        [*above, command.name or command.callback.__name__]
        for above, app in apps
        for command in app.registered_commands
    ]


@pytest.mark.parametrize("words", command_names(), ids=" ".join)
def test_every_command_has_help_with_examples(words: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        cli.main([*words, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert "Usage" in shown
    assert "Examples" in shown
    assert f"ring-async {' '.join(words)}" in shown
