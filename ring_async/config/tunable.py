"""Settings that may change while a run goes on.

Owns: the list of these settings, the roles that must hear of a change, and the resulting configuration. A change is
checked like the configuration of a new run, so nothing can be set that `up` would refuse.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from ring_async.config.learning import CorrectionSection, LossSection
from ring_async.config.load import config_from_mapping
from ring_async.config.schema import Config
from ring_async.core.roster import Role
from ring_async.errors import ConfigError

TUNABLE: Mapping[str, tuple[Role, str]] = {
    "learner.learning_rate": (Role.LEARNER, "from the next step on"),
    **{f"correction.{name}": (Role.LEARNER, "from the next step on") for name in CorrectionSection.model_fields},
    **{f"loss.{name}": (Role.LEARNER, "from the next step on") for name in LossSection.model_fields},
    "rollout.temperature": (Role.CONTROLLER, "from the next reservation on"),
    "rollout.max_tokens": (Role.CONTROLLER, "from the next reservation on"),
    "budget.token_budget": (Role.REPLAY, "from the next plan on"),
    "budget.order": (Role.REPLAY, "from the next plan on"),
    "replay.max_staleness": (Role.REPLAY, "from the next plan on"),
    "replay.max_reuse": (Role.REPLAY, "from the next plan on"),
    "replay.max_buffer_tokens": (Role.REPLAY, "from the next plan on"),
}
"""The role whose actors put a setting into effect, and when. Limits of admission follow those of replay."""


_STALENESS = "replay.max_staleness"
"""Rollouts hear of it, too: it bounds how long they carry unfinished responses on."""


def roles_that_hear(knobs: Mapping[str, Any]) -> tuple[Role, ...]:
    """The roles whose actors must be told that these settings changed."""
    roles = [role for role in (Role.LEARNER, Role.REPLAY) if knobs_of(role, knobs)]
    return (*roles, Role.ROLLOUT) if _STALENESS in knobs else tuple(roles)


def retention_under(config: Config, knobs: Mapping[str, Any]) -> int | None:
    """`Config.retention_versions` where these settings were changed."""
    own = {name: value for name, value in knobs.items() if name == _STALENESS}
    return tuned(config, own).retention_versions


def tuned(config: Config, knobs: Mapping[str, Any]) -> Config:
    """The configuration with these settings changed.

    Raises:
        ConfigError: a setting is not tunable (the message lists those that are), has a bad value, or contradicts
            others.
    """
    for name in knobs:
        if name not in TUNABLE:
            raise ConfigError(f"{name}: cannot change while the run goes on{_advice(name)}")
    values = config.model_dump(mode="json")
    for name, value in knobs.items():
        section, _, field = name.partition(".")
        values[section][field] = value
    return config_from_mapping(values, "set")


def knobs_of(role: Role, knobs: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among `knobs` that actors of this role apply."""
    return {name: value for name, value in knobs.items() if name in TUNABLE and TUNABLE[name][0] == role}


def _advice(name: str) -> str:
    if name == "rollout.num":
        return "; use: ring-async scale rollout N"
    if name.startswith("mixture"):
        return "; use: ring-async mixture SOURCE=WEIGHT …"
    if name.startswith("verifiers"):
        return "; use: ring-async swap verifier NAME=USE"
    close = get_close_matches(name, TUNABLE, n=1)
    return f"; did you mean {close[0]}?" if close else f"; tunable are {', '.join(sorted(TUNABLE))}"
