"""From a name in the configuration to the part that it means, imported only when it is asked for.

Owns: looking the name up, and the sentence for a name that means nothing here. Does not own the parts: engines,
trainers and weight channels have a registry each, whose entries keep that room's protocol (`base.py` there).

    ENGINES = Registry("rollout.engine", {"embedded": "ring_async.engines.embedded.entry:EmbeddedEntry"})
    ENGINES.problems("embedded", config)  →  []
    ENGINES.problems("sglang", config)    →  ["rollout.engine: sglang: not here, because …"]
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Generic, Protocol, TypeVar, cast

from ring_async.config.schema import Config
from ring_async.errors import ConfigError


class Entry(Protocol):
    """What every registered part has beside its makers. An entry imports the part itself inside them."""

    def check(self, config: Config) -> list[str]:
        """Why this part cannot work here with this configuration: reasons, each with what to do. Empty: it can.

        Looks at packages, devices and settings without loading the part, and starts nothing.
        """
        ...


_E = TypeVar("_E", bound=Entry)


class Registry(Generic[_E]):
    """Names that a key of the configuration takes.

    Args:
        key: dotted, for messages.
        entries: by name, `package.module:Class`; the class is called without arguments.
    """

    def __init__(self, key: str, entries: Mapping[str, str]) -> None:
        self.key = key
        self._entries = entries

    def find(self, name: str) -> _E:
        """The entry of this name.

        Raises:
            ConfigError: this release has none; says which there are.
        """
        if name not in self._entries:
            raise ConfigError(self._line(name, self._unknown()))
        module, _, class_name = self._entries[name].partition(":")
        return cast(_E, getattr(importlib.import_module(module), class_name)())

    def problems(self, name: str, config: Config) -> list[str]:
        """Why the part of this name cannot work here, one line each: key, name, reason, remedy. Empty: it can."""
        reasons = self.find(name).check(config) if name in self._entries else [self._unknown()]
        return [self._line(name, reason) for reason in reasons]

    def _unknown(self) -> str:
        return f"this release does not have it; choose {' or '.join(sorted(self._entries))}"

    def _line(self, name: str, reason: str) -> str:
        return f"{self.key}: {name}: not here, because {reason}"
