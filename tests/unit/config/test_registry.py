"""Names of parts: found and imported late, or refused with the reason."""

from __future__ import annotations

import pytest

from ring_async.config.registry import Registry
from ring_async.config.schema import Config
from ring_async.engines.registry import engine_problems
from ring_async.errors import ConfigError
from ring_async.testing.builders import make_config
from ring_async.training.registry import trainer_problems
from ring_async.transport.weights.registry import channel_problems


class Picky:
    """An entry that says what it lacks."""

    def check(self, config: Config) -> list[str]:
        return ["the package abacus is missing: pip install abacus", f"it does not like seed {config.seed}"]


def test_an_entry_s_reasons_become_lines_with_key_and_name():
    parts: Registry[Picky] = Registry("rollout.engine", {"picky": f"{__name__}:Picky"})
    assert parts.problems("picky", make_config(seed=3)) == [
        "rollout.engine: picky: not here, because the package abacus is missing: pip install abacus",
        "rollout.engine: picky: not here, because it does not like seed 3",
    ]


def test_an_unknown_name_is_refused_with_those_there_are_and_nothing_is_imported():
    parts: Registry[Picky] = Registry("learner.engine", {"b": "no.such.module:B", "a": "no.such.module:A"})
    with pytest.raises(ConfigError, match=r"learner\.engine: c: not here, because .* choose a or b"):
        parts.find("c")
    assert parts.problems("c", make_config()) == [
        "learner.engine: c: not here, because this release does not have it; choose a or b"
    ]


def test_the_default_parts_work_here():
    config = make_config()
    assert engine_problems(config) + trainer_problems(config) + channel_problems(config) == []


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ({"learner__parallel__tensor": 2}, "learner.engine: hf: not here, because it does not split matrix products"),
        ({"learner__engine_options": {"x": 1}}, "learner.engine: hf: not here, because it takes no"),
        (
            {"learner__engine": "megatron", "learner__parallel__tensor": 3},
            "learner.engine: megatron: not here, because the model has 512 rows of its feed-forward parts",
        ),
        (
            {"learner__engine": "megatron", "learner__parallel__expert": 2, "learner__parallel__data": 2},
            "learner.engine: megatron: not here, because the model has no experts",
        ),
        (
            {"learner__engine": "megatron", "learner__parallel__shard": 2},
            "learner.engine: megatron: not here, because it splits the optimizer over data-parallel ranks by itself",
        ),
        ({"rollout__engine_options": {"x": 1}}, "rollout.engine: embedded: not here, because it takes no"),
    ],
)
def test_settings_that_a_part_cannot_follow_are_said_beforehand(overrides: dict[str, object], line: str):
    config = make_config(**overrides)
    (said,) = engine_problems(config) + trainer_problems(config)
    assert said.startswith(line)


def test_nccl_asks_for_its_package_and_a_gpu_for_every_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = channel_problems(make_config(weights__channel="nccl", placement__gpus={"learner": 1, "rollout": 0.5}))
    assert said == [
        "weights.channel: nccl: not here, because the package cupy is missing: pip install ring-async[gpu], or use shm "
        "or zmq",
        "weights.channel: nccl: not here, because each rollout needs a GPU of its own; placement.gpus.rollout is 0.5, "
        "set it to 1, or use shm or zmq",
    ]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert channel_problems(make_config(weights__channel="nccl", placement__gpus={"learner": 1, "rollout": 1})) == []
