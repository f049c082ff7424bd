"""A registry: it finds the part that a name in the configuration means, and imports the part only then.

Owns: the lookup, and the sentence for an unknown name. Does not own the parts: engines, trainers and weight channels
have a registry each, whose entries implement the protocol in that folder's `base.py`.

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
    """What every registry entry has beside its makers. An entry imports its part inside the makers."""

    def check(self, config: Config) -> list[str]:
        """The reasons why this part cannot work here with this configuration, each with a remedy; empty if it can.

        Looks at packages, devices and settings; neither loads nor starts anything.
        """
        ...


_E = TypeVar("_E", bound=Entry)


class Registry(Generic[_E]):
    """The parts that a key of the configuration may name.

    Args:
        key: the dotted key, for messages.
        entries: `package.module:Class` of each entry, by name; the class is called without arguments.
    """

    def __init__(self, key: str, entries: Mapping[str, str]) -> None:
        self.key = key
        self._entries = entries

    def find(self, name: str) -> _E:
        """The entry of this name.

        Raises:
            ConfigError: there is no entry of this name; the message lists the names.
        """
        if name not in self._entries:
            raise ConfigError(self.line(name, self._unknown()))
        module, _, class_name = self._entries[name].partition(":")
        return cast(_E, getattr(importlib.import_module(module), class_name)())

    def problems(self, name: str, config: Config) -> list[str]:
        """The reasons why the part of this name cannot work here, one line each: key, name, reason, remedy. Empty: it
        can.
        """
        reasons = self.find(name).check(config) if name in self._entries else [self._unknown()]
        return [self.line(name, reason) for reason in reasons]

    def line(self, name: str, reason: str) -> str:
        """The line that says why the part of this name cannot work."""
        return f"{self.key}: {name}: not here, because {reason}"

    def _unknown(self) -> str:
        return f"this release does not have it; choose {' or '.join(sorted(self._entries))}"
