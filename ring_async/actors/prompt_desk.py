"""Where the next group comes from: mixture, cursor, prompt, seed.

Owns: the prompt sources of a run, one cursor each, and the mixture. Does not own leases or admission.
Invariants: a group's id, prompt and seed follow from (run seed, source, cursor), so a run that is resumed goes on with
the prompts it would have had; a cursor moves once for every new group, whatever becomes of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from ring_async.config.schema import Config, SourceSection
from ring_async.core.mixture import Mixture, check_weights
from ring_async.data.base import PromptSource
from ring_async.errors import ConfigError, RingAsyncError
from ring_async.types import Reservation, SamplingParams

MakeSource = Callable[[str, SourceSection], PromptSource]


class PromptDesk:
    """Makes reservations, one after another, steered by the mixture."""

    def __init__(self, config: Config, make_source: MakeSource) -> None:
        self._config = config
        self._make_source = make_source
        self._sections = dict(config.sources)
        self._sources = {name: make_source(name, config.sources[name]) for name in config.mixture}
        self._sampling = SamplingParams(config.rollout.temperature, config.rollout.max_tokens)
        self.cursors = dict.fromkeys(self._sources, 0)
        self.mixture = Mixture(config.mixture)

    def next(self) -> Reservation:
        """A reservation for a prompt never issued before in this run."""
        source = self.mixture.choose()
        index = self.cursors[source]
        self.cursors[source] = index + 1
        rollout = self._config.rollout
        return Reservation(
            group_id=f"{source}-{index:08d}",
            prompt=self._sources[source].prompt(index),
            group_size=rollout.group_size,
            seed=group_seed(self._config.seed, source, index),
            sampling=self._sampling,
            mixture_epoch=self.mixture.epoch,
            lease_s=rollout.lease_s,
        )

    # -- changes while the run goes on

    def tune(self, config: Config) -> None:
        """Sample the next groups by this configuration."""
        self._sampling = SamplingParams(config.rollout.temperature, config.rollout.max_tokens)

    def add_source(self, name: str, section: SourceSection) -> None:
        """Know a further source; it is used once the mixture gives it a weight.

        Raises:
            ConfigError: it cannot be made.
        """
        try:
            self._sources[name] = self._make_source(name, section)
        except RingAsyncError:
            raise
        except Exception as error:  # a library's own complaint about its settings
            raise ConfigError(f"sources.{name}: cannot be made: {type(error).__name__}: {error}") from error
        self._sections[name] = section
        self.cursors.setdefault(name, 0)

    def set_mixture(self, weights: Mapping[str, float]) -> None:
        """Put new weights in force from the next reservation on.

        Raises:
            ConfigError: an unknown source, or weights that are none.
        """
        for name in weights:
            if name not in self._sections:
                raise ConfigError(f"mixture.{name}: no such source; sources are {', '.join(sorted(self._sections))}")
        try:
            check_weights(weights)
        except ValueError as error:
            raise ConfigError(f"mixture: {error}") from error
        for name in weights:
            if name not in self._sources:
                self.add_source(name, self._sections[name])
        self.mixture.set_weights(weights, epoch=self.mixture.epoch + 1)

    def sources_of(self, verifier: str) -> list[str]:
        """Sources of the present mixture that this verifier judges."""
        return [name for name in self.mixture.shares if self._sections[name].verifier == verifier]

    # -- what survives

    def snapshot(self) -> dict[str, Any]:
        """Plain data for the journal."""
        return {
            "cursors": dict(self.cursors),
            "mixture": self.mixture.snapshot(),
            "configured": dict(self._config.mixture),
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go on where a journal left off; sources that are new start at their beginning.

        A mixture changed live stays so, unless the configuration's has been changed since.
        """
        for source, cursor in snapshot["cursors"].items():
            self.cursors[source] = max(self.cursors.get(source, 0), int(cursor))
        held = snapshot["mixture"]
        if held["epoch"] and snapshot["configured"] == self._config.mixture:
            for name in held["shares"]:
                if name not in self._sources and name in self._sections:
                    self.add_source(name, self._sections[name])
            if held["shares"].keys() <= self._sources.keys():
                self.mixture.set_weights(held["shares"], epoch=int(held["epoch"]))
        self.mixture.restore(held)

    def skip_past(self, group_id: str) -> None:
        """A journal shows that this group was issued: never issue it as new."""
        source, _, index = group_id.rpartition("-")
        if source in self.cursors:
            self.cursors[source] = max(self.cursors[source], int(index) + 1)


def group_seed(run_seed: int, source: str, index: int) -> int:
    """A seed below 2⁴⁸ for one group, independent of every other group's."""
    digest = hashlib.blake2b(f"{run_seed}/{source}/{index}".encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big")
