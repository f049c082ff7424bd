"""What `up --resume` finds out before it starts anything."""

import json
from pathlib import Path

import pytest

from ring_async.cli.app import main
from ring_async.config.load import load_config
from ring_async.storage.run_dir import RunDir, write_json


@pytest.fixture
def begun(tmp_path: Path, monkeypatch) -> Path:
    """The folder of a run that began with other rows than those that its file holds now."""
    monkeypatch.setattr("ring_async.cli.up.check_parts", lambda config: None)
    monkeypatch.setattr("ring_async.cli.up._bring_up", lambda config, run_dir, resume: 0)
    config = load_config(Path("configs/math.yaml"), [f"run.dir={tmp_path}"])
    run_dir = RunDir(tmp_path / "math")
    run_dir.create()
    run_dir.config.write_text(config.model_dump_json())
    write_json(run_dir.data, {"math": "the hash of other rows"})
    return tmp_path


def resumed(runs: Path, *overrides: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["up", "configs/math.yaml", f"run.dir={runs}", "--resume", *overrides])
    return int(end.value.code or 0)


def test_other_rows_are_refused_with_the_remedy(begun: Path, capsys) -> None:
    assert resumed(begun) == 2
    assert "sources.math.when_changed=accept" in capsys.readouterr().err


def test_other_rows_are_accepted_in_sight(begun: Path, capsys) -> None:
    assert resumed(begun, "sources.math.when_changed=accept") == 0
    assert "changed since: the files of sources.math" in capsys.readouterr().out


def test_the_same_rows_are_no_news(begun: Path, capsys) -> None:
    from ring_async.data.unchanged import data_digests

    (begun / "math" / "data.json").write_text(json.dumps(data_digests(load_config(Path("configs/math.yaml"), []))))
    assert resumed(begun) == 0
    assert "changed since" not in capsys.readouterr().out
