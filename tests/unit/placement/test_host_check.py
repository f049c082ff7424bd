"""What keeps actors from running on a host."""

from __future__ import annotations

from ring_async.config.load import dump_config
from ring_async.core.roster import Role
from ring_async.placement.host_check import fingerprint, host_problems
from ring_async.testing.builders import make_config

ALL = frozenset(Role)


def test_a_host_with_all_that_is_needed_has_no_problems(tmp_path):
    run = tmp_path / "runs" / "test"
    assert host_problems(dump_config(make_config()), str(run), str(tmp_path), fingerprint(), ALL) == []
    assert (run / "logs").is_dir()


def test_a_model_that_is_not_there_is_named_with_its_folder(tmp_path):
    config = dump_config(make_config(model__path="models/start"))
    (problem,) = host_problems(config, str(tmp_path / "run"), str(tmp_path), fingerprint(), ALL)
    assert problem.startswith(f"model.path: models/start: {tmp_path}/models/start holds no config.json")
    (tmp_path / "models/start").mkdir(parents=True)
    (tmp_path / "models/start/config.json").write_text("{}")
    assert host_problems(config, str(tmp_path / "run"), str(tmp_path), fingerprint(), ALL) == []


def test_another_version_of_the_package_is_refused_before_anything_else(tmp_path):
    (problem,) = host_problems("{}", str(tmp_path / "run"), str(tmp_path), "0" * 16, ALL)
    assert "install the same on every host" in problem


def test_a_run_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "runs").write_text("a file")
    config = dump_config(make_config())
    (problem,) = host_problems(config, str(tmp_path / "runs" / "test"), str(tmp_path), fingerprint(), ALL)
    assert problem == f"{tmp_path}/runs/test: cannot be made: Not a directory; choose another run.dir"


def test_the_engine_is_asked_for_where_rollouts_run_and_nowhere_else(tmp_path):
    config = dump_config(
        make_config(rollout__engine="sglang", placement__gpus={"rollout": 1.0}, rollout__on_update="reprefill")
    )
    here = (config, str(tmp_path / "run"), str(tmp_path), fingerprint())
    assert host_problems(*here, {Role.REPLAY, Role.LEARNER}) == []
    (problem,) = host_problems(*here, {Role.REPLAY, Role.ROLLOUT})
    assert problem.startswith("rollout.engine: sglang: not here, because the package sglang is missing: install")
