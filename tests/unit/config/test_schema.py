"""A table of bad configurations: each is refused with one line that names the key and says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ring_async.config.load import config_from_mapping, load_config
from ring_async.config.schema import Config
from ring_async.errors import ConfigError
from ring_async.testing.builders import make_config, make_config_mapping

SHIPPED = sorted((Path(__file__).parents[3] / "configs").glob("*.yaml"))

BAD = {
    # unknown keys
    "typo in a key": (
        {"budget__token_budgte": 64},
        "budget.token_budgte: unknown key; did you mean budget.token_budget?",
    ),
    "typo in a section": ({"rolout": {}}, "rolout: unknown key; did you mean rollout?"),
    "key of another section": (
        {"token_capacity": 9},
        "token_capacity: unknown key; did you mean learner.token_capacity?",
    ),
    "typo inside a named section": (
        {"sources__sums__taks": "x"},
        "sources.sums.taks: unknown key; did you mean sources.sums.task?",
    ),
    "key like no other": ({"control__zzz": 1}, "control.zzz: unknown key; control has host, insecure, max_body_bytes"),
    "section of an earlier release": ({"eval__num_problems": 9}, "eval: now part of `evaluation`: write evaluation.c"),
    # wrong types
    "text for a number": ({"rollout__num": "two"}, "rollout.num: 'two' is not a whole number"),
    "fraction for a count": ({"learner__parallel__data": 1.5}, "learner.parallel.data: 1.5 is not a whole number"),
    "text for a fraction": ({"learner__learning_rate": "fast"}, "learner.learning_rate: 'fast' is not a number"),
    "number for text": ({"run__name": 7}, "run.name: 7 is not text"),
    "text for a switch": ({"monitoring__trace": "perhaps"}, "monitoring.trace: 'perhaps' is not true or false"),
    "null for a number": ({"seed": None}, "seed: null is not a whole number"),
    "value for a section": ({"rollout": 3}, "rollout: 3 is not a section of keys"),
    "value for a mapping": ({"mixture": "sums"}, "mixture: 'sums' is not a section of keys"),
    "value for a list": ({"learner__adam_betas": 0.9}, "learner.adam_betas: 0.9 is not a list"),
    # out of bounds
    "none of the choices": (
        {"rollout__engine": "sglag"},
        "rollout.engine: 'sglag' is none of 'embedded' or 'sglang'; did you mean sglang?",
    ),
    "zero of something": ({"rollout__num": 0}, "rollout.num: 0 must be above 0"),
    "negative staleness": ({"replay__max_staleness": -1}, "replay.max_staleness: -1 must be at least 0"),
    "group of one": ({"rollout__group_size": 1}, "rollout.group_size: 1 must be at least 2"),
    "port out of range": ({"control__port": 70_000}, "control.port: 70000 must be at most 65535"),
    "negative weight": ({"mixture__sums": -1.0}, "mixture.sums: -1.0 must be at least 0"),
    "name that is no folder": ({"run__name": "../up"}, "run.name: '../up' does not fit the pattern"),
    "run without a name": ({"run": {}}, "run.name: missing, and has no default; give it a value"),
    "no budget": ({"budget": {}}, "budget.token_budget: missing, and has no default"),
    "source without verifier": ({"sources__sums": {"task": "x"}}, "sources.sums.verifier: missing"),
    # contradictions
    "hosts without a way between them": (
        {"placement__hosts": {"replay": ["10.0.0.2"]}},
        "placement.hosts: transport.kind=ipc reaches one host only; set transport.kind=tcp",
    ),
    "hosts without a way for weights": (
        {"placement__hosts": {"replay": ["10.0.0.2"]}, "transport__kind": "tcp"},
        "placement.hosts: weights.channel=shm reaches one host only; set weights.channel=zmq",
    ),
    "controller elsewhere": (
        {"placement__hosts": {"controller": ["10.0.0.2"]}},
        "placement.hosts.controller: 'controller': runs on the host of `up`; leave it out",
    ),
    "GPU for a role without use for it": (
        {"placement__gpus": {"replay": 1}},
        "placement.gpus.replay: 'replay': uses no GPU; rollout, learner, reward, evaluator can",
    ),
    "share of an unknown role": (
        {"placement__cpus": {"rollouts": 1}},
        "placement.cpus.rollouts: 'rollouts' is none of 'controller', 'replay', 'learner', 'evaluator', 'reward' or "
        "'rollout'; did you mean rollout?",
    ),
    "no host for a role": (
        {"placement__hosts": {"rollout": []}},
        "placement.hosts.rollout:",
    ),
    "budget below a response": (
        {"budget__token_budget": 8},
        "budget.token_budget: 8 is smaller than rollout.max_tokens 16; one response must fit into a batch",
    ),
    "row below a response": (
        {"learner__token_capacity": 10},
        "learner.token_capacity: 10 is smaller than rollout.max_tokens 16",
    ),
    "minibatches that don't divide": (
        {"budget__minibatches_per_batch": 7},
        "budget.minibatches_per_batch: 7 does not divide budget.token_budget 64",
    ),
    "weight of an unknown source": ({"mixture__sum": 1.0}, "mixture.sum: no such source; sources are sums"),
    "mixture of nothing": ({"mixture": {"sums": 0.0}}, "mixture: every weight is 0"),
    "unknown verifier": (
        {"sources__sums__verifier": "exat"},
        "sources.sums.verifier: no verifier is called 'exat'; verifiers are exact",
    ),
    "more actors than CPUs": (
        {"placement__num_cpus": 2, "rollout__num": 8},
        "placement.num_cpus: 2 is smaller than the 5 CPUs that the actors of placement.cpus need together",
    ),
}


@pytest.mark.parametrize(("overrides", "line"), BAD.values(), ids=BAD.keys())
def test_a_bad_configuration_is_refused_in_one_line(overrides, line):
    with pytest.raises(ConfigError) as refused:
        config_from_mapping(make_config_mapping(**overrides), "configs/bad.yaml")
    (said,) = str(refused.value).splitlines()
    assert said.startswith(f"configs/bad.yaml: {line}")
    assert "pydantic" not in said
    assert refused.value.exit_code == 2
    assert refused.value.__suppress_context__


def test_every_problem_is_told_at_once():
    with pytest.raises(ConfigError) as refused:
        make_config(rollout__num="two", budget__oder="fifo", seed=None)
    assert len(str(refused.value).splitlines()) == 3


def test_contradictions_are_told_at_once_too():
    with pytest.raises(ConfigError) as refused:
        make_config(budget__token_budget=8, learner__token_capacity=8, mixture__x=1.0)
    assert len(str(refused.value).splitlines()) == 3


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_configuration_loads(path):
    assert load_config(path).run.name


def test_configurations_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        make_config().rollout.num = 3


def test_a_budget_per_rank_counts_every_rank():
    assert make_config(learner__parallel__shard=4).global_token_budget == 64
    assert make_config(learner__parallel__shard=4, budget__scope="per_rank").global_token_budget == 256


def test_synchronous_training_admits_no_staleness():
    assert make_config(mode="async").max_staleness == 4
    assert make_config(mode="sync").max_staleness == 0


def test_required_cpus_count_every_actor():
    config = make_config(rollout__num=2, placement__cpus={"controller": 0.5, "rollout": 2, "learner": 1})
    assert config.required_cpus == 5.5


def test_the_schema_describes_itself_as_yaml_people_can_read():
    assert yaml.safe_load(yaml.safe_dump(make_config().model_dump(mode="json"))) == make_config().model_dump(
        mode="json"
    )
    assert Config.model_json_schema()["properties"]["budget"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "head.cluster"])
def test_other_addresses_than_loopback_demand_a_certificate_or_a_word(host: str):
    with pytest.raises(ConfigError) as refused:
        make_config(control__host=host)
    assert len(str(refused.value).splitlines()) == 1
    assert f"control.host: {host}" in str(refused.value)
    assert make_config(control__host=host, control__insecure=True).control.insecure
    assert make_config(control__host=host, control__tls_cert="c.pem", control__tls_key="k.pem").control.tls_cert


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_demands_nothing(host: str):
    assert make_config(control__host=host).control.host == host


def test_half_a_pair_is_refused():
    with pytest.raises(ConfigError, match=r"control\.tls_key"):
        make_config(control__tls_cert="c.pem")


def test_auto_is_loopback_until_a_host_says_its_address():
    config = make_config()
    assert config.transport.host == "auto"
    assert config.transport.address == "127.0.0.1"
    assert config.at("10.0.0.2").transport.address == "10.0.0.2"
    assert config.transport.address == "127.0.0.1", "frozen"
    assert make_config(transport__host="10.0.0.7").at("10.0.0.2").transport.address == "10.0.0.7"


def test_weights_whose_sum_is_no_number_are_refused():
    with pytest.raises(ConfigError, match=r"mixture\.sums: 1e\+308 must be at most"):
        make_config(mixture={"sums": 1e308, "letters": 1e308})
