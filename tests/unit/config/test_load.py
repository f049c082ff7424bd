"""Files, inheritance and overrides: where a value comes from, and who is named when it is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from ring_async.config.load import differing_keys, dump_config, load_config
from ring_async.errors import ConfigError
from ring_async.testing.builders import make_config, make_config_mapping


@pytest.fixture
def local(tmp_path: Path) -> Path:
    path = tmp_path / "local.yaml"
    path.write_text(yaml.safe_dump(make_config_mapping()))
    return path


def refused(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides)
    return str(error.value).splitlines()


def test_overrides_are_yaml_and_the_last_one_wins(local: Path):
    words = ["seed=3", "learner.adam_betas=[0.8, 0.9]", "stop.wall_s=null", "seed=4", "rollout.engine_options={a: 1}"]
    config = load_config(local, words)
    assert config.seed == 4
    assert config.learner.adam_betas == (0.8, 0.9)
    assert config.stop.wall_s is None
    assert config.rollout.engine_options == {"a": 1}


@pytest.mark.parametrize("written", ["1e-6", "1.0e-6", "0.000001", "1E-6"])
def test_small_numbers_are_numbers_also_where_no_type_is_known(local: Path, written: str):
    config = load_config(local, [f"learner.learning_rate={written}", f"rollout.engine_options.x={written}"])
    assert config.learner.learning_rate == config.rollout.engine_options["x"] == 1e-6


def test_a_value_may_hold_an_equals_sign(local: Path):
    assert load_config(local, ["verifiers.exact.use=a=b"]).verifiers["exact"].use == "a=b"


def test_an_error_names_who_gave_the_value(local: Path):
    assert refused(local, "learner.token_capacity=10") == [
        "command line: learner.token_capacity: 10 is smaller than rollout.max_tokens 16; "
        "a packed row must hold a prompt and its response"
    ]
    local.write_text(yaml.safe_dump(make_config_mapping(learner__token_capacity=10)))
    assert refused(local)[0].startswith(f"{local}: learner.token_capacity: 10 is smaller")
    assert refused(local, "rollout={num: x}") == [
        "command line: rollout.num: 'x' is not a whole number; leave it out for 1, or give a whole number"
    ]


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("seed", "command line: 'seed' is not key=value; write for example `stop.policy_versions=50`"),
        ("=3", "command line: '=3' is not key=value"),
        ("rollout..num=3", "command line: 'rollout..num=3' is not key=value"),
        ("run.name.first=x", "command line: run.name.first: run.name is a value, not a section"),
        ("seed=[1", "command line: seed: not YAML"),
        ("seeds=3", "command line: seeds: unknown key; did you mean seed?"),
    ],
)
def test_a_bad_override_is_told_in_one_line(local: Path, word: str, line: str):
    (said,) = refused(local, word)
    assert said.startswith(line)


def test_a_file_inherits_from_its_base(local: Path, tmp_path: Path):
    folder = tmp_path / "more"
    folder.mkdir()
    child = folder / "child.yaml"
    child.write_text("base: ../local.yaml\nrun: {name: child}\nrollout: {num: 3}\n")
    config = load_config(child)
    assert (config.run.name, config.rollout.num, config.rollout.group_size) == ("child", 3, 2)
    child.write_text("base: ../local.yaml\nlearner: {token_capacity: 10}\nrollout: {max_tokens: 16}\n")
    assert refused(child)[0].startswith(f"{child}: learner.token_capacity")
    child.write_text("base: ../local.yaml\nrollout: {max_tokens: 99}\n")
    assert [line.partition(": ")[0] for line in refused(child)] == [f"{folder}/../local.yaml"] * 2


def test_null_removes_what_is_inherited_by_name(local: Path, tmp_path: Path):
    child = tmp_path / "child.yaml"
    child.write_text(
        "base: local.yaml\n"
        "sources: {sums: null, letters: {task: letter_counting, verifier: exact}}\n"
        "mixture: {sums: null, letters: 1}\n"
    )
    config = load_config(child)
    assert list(config.sources) == list(config.mixture) == ["letters"]
    both = load_config(local, ["sources.b={task: x, verifier: exact}", "mixture.b=1", "mixture.sums=null"])
    assert dict(both.mixture) == {"b": 1.0}


def test_a_circle_of_bases_is_refused(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    (said,) = refused(tmp_path / "a.yaml")
    assert "in a circle" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: 1\nseed: 2\n", "line 2: not YAML: the key 'seed' is given twice"),
        ("run: {name: x\nseed: 3\n", "not YAML"),
        ("- a\n- b\n", "holds a list, not sections"),
        ("", "holds nothing, not sections"),
        ("base: 3\n", "base: 3 is not a file name"),
        ("run: !!python/object/apply:os.getcwd []\n", "not YAML"),
        ("base: none.yaml\n", "none.yaml: no such file; a base is sought beside"),
    ],
)
def test_a_file_that_is_no_configuration_is_told_in_one_line(tmp_path: Path, text: str, said: str):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    (line,) = refused(path)
    assert said in line
    assert str(tmp_path) in line


def test_a_missing_file_suggests_the_nearest(local: Path):
    (line,) = refused(local.with_name("lokal.yaml"))
    assert line == f"{local.with_name('lokal.yaml')}: no such file; did you mean {local}?"


def test_a_folder_is_not_a_file(tmp_path: Path):
    (line,) = refused(tmp_path)
    assert "cannot be read" in line


def test_what_is_dumped_loads_again_and_is_complete(local: Path, tmp_path: Path):
    config = load_config(local, ["learner.learning_rate=1e-6"])
    resolved = tmp_path / "config.json"
    resolved.write_text(dump_config(config))
    assert load_config(resolved) == config
    assert json.loads(resolved.read_text())["replay"]["max_staleness"] == 4


def test_differing_keys_are_dotted_with_both_values():
    before, after = make_config(), make_config(rollout__num=2, sources__b={"task": "x", "verifier": "exact"})
    differing = differing_keys(before, after)
    assert differing["rollout.num"] == (1, 2)
    assert differing["sources.b.task"] == (None, "x")
    assert differing_keys(before, before) == {}


def test_an_anchor_shared_by_two_sections_is_changed_in_one(local: Path):
    values = make_config_mapping()
    text = yaml.safe_dump(values) + "\nreward: {num: 1}\n"
    text = text.replace(
        "sources:\n", "sources:\n  other: &o {task: a, verifier: exact, options: {x: 1}}\n  third: *o\n"
    )
    local.write_text(text)
    config = load_config(local, ["sources.third.options.x=2"])
    assert config.sources["third"].options == {"x": 2}
    assert config.sources["other"].options == {"x": 1}
