"""The mixture: the choice of the source of the next prompt.

Owns: the weights, their epoch, and the account of completed tokens per source. Steered on *completed* tokens, not
on issued prompts: short answers come back sooner and would otherwise flood an asynchronous buffer.
Invariant: over any window in which every source keeps completing, shares of completed tokens converge to the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any


class Mixture:
    """Chooses the source whose share of completed and expected tokens is furthest below its weight.

        mixture = Mixture({"math": 3.0, "code": 1.0})
        mixture.choose()                  # "math", with one group under way
        mixture.completed("math", 900)    # the group ended with 900 response tokens
        mixture.choose()                  # "code": its share is behind

    A source's debt is `weight_share · total − own`, in tokens, where tokens of groups under way count at the source's
    running mean. The choice is deterministic. A change of weights starts a new account, so that the past is not
    paid back; nor is what a source missed while it could not be chosen (paused, or no prompt within its window): it
    comes back level with the source that was chosen instead.
    """

    def __init__(self, weights: Mapping[str, float], *, epoch: int = 0) -> None:
        self._mean_tokens: dict[str, float] = {}
        self._completed: dict[str, float] = {}
        self._in_flight: dict[str, int] = {}
        self.paused: set[str] = set()
        """Sources that are not chosen now, whatever their weight, because no verifier can judge them."""
        self.set_weights(weights, epoch=epoch)

    def set_weights(self, weights: Mapping[str, float], *, epoch: int) -> None:
        """Set new weights and start a new account.

        Raises:
            ValueError: no weight is above 0, or one is negative.
        """
        check_weights(weights)
        total = sum(weights.values())
        self.epoch = epoch
        self.shares = {source: weight / total for source, weight in weights.items()}
        self._completed = dict.fromkeys(weights, 0.0)

    @property
    def candidates(self) -> list[str]:
        """The sources that have a share and are not paused."""
        return [source for source, share in self.shares.items() if share > 0 and source not in self.paused]

    def pause(self, sources: Iterable[str]) -> bool:
        """Stop choosing these sources until `resume`; returns whether any source is left."""
        self.paused.update(sources)
        return bool(self.candidates)

    def resume(self, sources: Iterable[str]) -> set[str]:
        """Choose these sources again; returns the ones that were paused."""
        resumed = self.paused & set(sources)
        self.paused -= resumed
        return resumed

    def choose(self, is_ready: Callable[[str], bool] = lambda source: True) -> str | None:
        """Choose the source of the next group among those that are ready, and count the group as under way; None: none
        is.

        Raises:
            ValueError: every source is paused.
        """
        candidates = self.candidates
        if not candidates:
            raise ValueError("every source of the mixture is paused")
        expected = {source: self._account(source) for source in self.shares}
        total = sum(expected.values()) + 1.0
        by_debt = sorted(
            candidates,
            key=lambda source: (self.shares[source] * total - expected[source], source),
            reverse=True,
        )
        source = next(filter(is_ready, by_debt), None)
        if source is None:
            return None
        self._forgive(self.shares[source] * total - expected[source], expected, total, by_debt[: by_debt.index(source)])
        self._in_flight[source] = self._in_flight.get(source, 0) + 1
        return source

    def resumed(self, source: str) -> None:
        """Count a group of this source as under way that was chosen before a restart."""
        self._in_flight[source] = self._in_flight.get(source, 0) + 1

    def completed(self, source: str, num_tokens: int) -> None:
        """Note that a group of this source ended with so many response tokens (0: it failed)."""
        self._in_flight[source] = max(0, self._in_flight.get(source, 0) - 1)
        if num_tokens:
            mean = self._mean_tokens.get(source)
            self._mean_tokens[source] = num_tokens if mean is None else mean + 0.05 * (num_tokens - mean)
            if source in self._completed:
                self._completed[source] += num_tokens

    def snapshot(self) -> dict[str, Any]:
        """The account as plain data, for the journal; groups under way are left out, for they are issued again."""
        return {"epoch": self.epoch, "shares": self.shares, "mean": self._mean_tokens, "completed": self._completed}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Restore the accounts from a snapshot, for sources that still exist. Weights stay the configured ones."""
        self.epoch = max(self.epoch, int(snapshot["epoch"]))
        for source, value in snapshot["mean"].items():
            self._mean_tokens[source] = float(value)
        if snapshot["shares"] == self.shares:
            self._completed |= {s: float(v) for s, v in snapshot["completed"].items() if s in self._completed}

    def _forgive(self, debt: float, expected: Mapping[str, float], total: float, not_ready: Iterable[str]) -> None:
        """Lower the debts of sources that could not be chosen to the debt of the one that was."""
        for source in (*not_ready, *self.paused):
            if source in self._completed:
                self._completed[source] += max(0.0, self.shares[source] * total - expected[source] - debt)

    def _account(self, source: str) -> float:
        known = self._mean_tokens.values()
        typical = sum(known) / len(self._mean_tokens) if known else 1.0
        mean = self._mean_tokens.get(source, typical)
        return self._completed.get(source, 0.0) + self._in_flight.get(source, 0) * mean


MAX_WEIGHT = 1e9
"""Weights are relative, so larger ones say nothing more; sums of much larger ones are no numbers."""
MIN_WEIGHT = 1e-9


def check_weights(weights: Mapping[str, float]) -> None:
    """
    Raises:
        ValueError: no weight is above 0, or one is negative, not finite, or of a size beyond use.
    """
    if not all(weight == 0 or MIN_WEIGHT <= weight <= MAX_WEIGHT for weight in weights.values()) or not any(
        weights.values()
    ):
        raise ValueError(
            f"weights must be finite, 0 or more (between {MIN_WEIGHT:g} and {MAX_WEIGHT:g}, for only their ratios "
            "count), and at least one above 0"
        )
