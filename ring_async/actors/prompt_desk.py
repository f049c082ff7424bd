"""Where the next group comes from: mixture, cursor, prompt, seed.

Owns: the prompt sources of a run, one cursor each, and the mixture. Does not own leases or admission.
Invariants: a group's id, prompt and seed follow from (run seed, source, cursor), so a run that is resumed goes on with
the prompts it would have had; a cursor moves once for every new group, whatever becomes of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from ring_async.config.schema import Config
from ring_async.core.mixture import Mixture
from ring_async.data.base import PromptSource
from ring_async.types import Reservation, SamplingParams


class PromptDesk:
    """Makes reservations, one after another, steered by the mixture."""

    def __init__(self, config: Config, sources: Mapping[str, PromptSource]) -> None:
        self._config = config
        self._sources = dict(sources)
        self._sampling = SamplingParams(config.rollout.temperature, config.rollout.max_tokens)
        self.cursors = dict.fromkeys(sources, 0)
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

    def snapshot(self) -> dict[str, Any]:
        """Plain data for the journal."""
        return {"cursors": dict(self.cursors), "mixture": self.mixture.snapshot()}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go on where a journal left off; sources that are new start at their beginning."""
        for source, cursor in snapshot["cursors"].items():
            if source in self.cursors:
                self.cursors[source] = max(self.cursors[source], int(cursor))
        self.mixture.restore(snapshot["mixture"])

    def skip_past(self, group_id: str) -> None:
        """A journal shows that this group was issued: never issue it as new."""
        source, _, index = group_id.rpartition("-")
        if source in self.cursors:
            self.cursors[source] = max(self.cursors[source], int(index) + 1)


def group_seed(run_seed: int, source: str, index: int) -> int:
    """A seed below 2⁴⁸ for one group, independent of every other group's."""
    digest = hashlib.blake2b(f"{run_seed}/{source}/{index}".encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big")
