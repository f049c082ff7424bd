"""What may change while a run goes on, checked as a new configuration would be."""

import pytest

from ring_async.config.tunable import TUNABLE, knobs_of, retention_under, roles_that_hear, tuned
from ring_async.core.roster import Role
from ring_async.errors import ConfigError
from ring_async.testing.builders import make_config


def test_every_tunable_setting_is_one_of_the_configuration():
    config = make_config()
    for name in TUNABLE:
        section, _, field = name.partition(".")
        assert hasattr(getattr(config, section), field), name


def test_a_change_gives_the_configuration_that_results():
    changed = tuned(make_config(), {"learner.learning_rate": 2e-4, "correction.rule": "cispo"})
    assert changed.learner.learning_rate == 2e-4
    assert changed.correction.rule == "cispo"
    assert changed.rollout == make_config().rollout


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"learner.learning_rat": 1}, r"cannot change while the run goes on; did you mean learner\.learning_rate\?"),
        ({"rollout.num": 4}, "use: ring-async scale rollout N"),
        ({"mixture.sums": 1}, "use: ring-async mixture"),
        ({"verifiers.exact.use": "math"}, "use: ring-async swap verifier"),
        ({"seed": 1}, "tunable are .*replay.max_staleness"),
        ({"rollout.temperature": -1}, r"set: rollout\.temperature"),
        ({"budget.token_budget": 1}, r"budget\.token_budget: 1 is smaller than rollout\.max_tokens"),
    ],
)
def test_what_cannot_be_set_is_refused_with_advice(knobs, message):
    with pytest.raises(ConfigError, match=message):
        tuned(make_config(), knobs)


def test_each_role_hears_its_own():
    knobs = {"learner.learning_rate": 1e-4, "replay.max_reuse": 2, "rollout.temperature": 0.7, "mixture": {"sums": 1}}
    assert knobs_of("learner", knobs) == {"learner.learning_rate": 1e-4}
    assert knobs_of("replay", knobs) == {"replay.max_reuse": 2}


@pytest.mark.parametrize("value", [2**63, -(10**30)])
def test_a_number_that_no_message_can_hold_is_refused(value: int):
    with pytest.raises(ConfigError, match=r"budget\.token_budget"):
        tuned(make_config(), {"budget.token_budget": value})


def test_rollouts_hear_of_the_bound_on_staleness():
    assert roles_that_hear({"replay.max_staleness": 8}) == (Role.REPLAY, Role.ROLLOUT)
    assert roles_that_hear({"learner.learning_rate": 1e-4}) == (Role.LEARNER,)
    assert roles_that_hear({"rollout.temperature": 0.7}) == ()
    config = make_config(replay__max_staleness=2)
    assert retention_under(config, {"replay.max_staleness": 8, "mixture": {"sums": 1.0}}) == 8
    assert retention_under(config, {}) == 2
