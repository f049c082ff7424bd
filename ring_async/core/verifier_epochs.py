"""Verifier epochs: the verifier in force under each name, its predecessors, and the epochs that may be trained on.

Owns: the epoch counter, the history for rollbacks, and the epoch rules that replay enforces. Pure: a commit in, rules
out. Does not own building verifiers, or when a change takes effect.
Invariants: epochs only grow, over all verifiers together; a rollback is a new epoch, and bars the one it undoes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from ring_async.errors import RefusedError
from ring_async.types import EpochRules, GroupHeader, VerifierInForce

MAX_HISTORY = 16
"""Former verifiers kept for each name."""


ANY_EPOCH = EpochRules()


def is_admitted(header: GroupHeader, rules: Mapping[str, EpochRules]) -> bool:
    """Whether a group's verdicts may be trained on."""
    stamp = header.verifier
    return stamp is None or rules.get(stamp.name, ANY_EPOCH).admits(stamp.epoch)


class _Former(msgspec.Struct, frozen=True):
    verifier: VerifierInForce
    rules: EpochRules


class _Snapshot(msgspec.Struct, frozen=True):
    last_epoch: int
    in_force: dict[str, VerifierInForce]
    rules: dict[str, EpochRules]
    former: dict[str, tuple[_Former, ...]]
    configured: dict[str, VerifierInForce]


_snapshot_decoder = msgspec.msgpack.Decoder(_Snapshot)


class VerifierEpochs:
    """Verifiers in force, by name, and their history.

        epochs = VerifierEpochs([VerifierInForce("math", "rules:Math", {}, epoch=0)])
        epochs.commit(VerifierInForce("math", "rules:Strict", {}, epoch=1), rescore=True)    # EpochRules(floor=1)
        epochs.roll_back(VerifierInForce("math", "rules:Math", {}, epoch=2))     # EpochRules(floor=0, barred=(1,))

    Args:
        configured: verifiers of the run's configuration, in force since epoch 0.
    """

    def __init__(self, configured: Iterable[VerifierInForce]) -> None:
        self._configured = {verifier.name: verifier for verifier in configured}
        self._in_force = dict(self._configured)
        self._rules: dict[str, EpochRules] = {}
        self._former: dict[str, tuple[_Former, ...]] = {}
        self._last_epoch = 0

    @property
    def next_epoch(self) -> int:
        return self._last_epoch + 1

    @property
    def changed(self) -> tuple[VerifierInForce, ...]:
        """Verifiers in force that are not those of the configuration."""
        return tuple(verifier for verifier in self._in_force.values() if verifier.epoch)

    @property
    def rules(self) -> dict[str, EpochRules]:
        return dict(self._rules)

    def in_force(self, name: str) -> VerifierInForce:
        """
        Raises:
            RefusedError: there is no verifier of this name.
        """
        if name not in self._in_force:
            raise RefusedError(f"no verifier is called {name!r}; verifiers are {', '.join(sorted(self._in_force))}")
        return self._in_force[name]

    def former(self, name: str) -> VerifierInForce | None:
        """The verifier that a rollback would go back to."""
        history = self._former.get(name, ())
        return history[-1].verifier if history else None

    def commit(self, verifier: VerifierInForce, *, rescore: bool) -> EpochRules:
        """Put a new verifier in force under a known name; with `rescore`, bar the verdicts of former epochs from
        training.

        Raises:
            RefusedError: the name is unknown, or the epoch is not the next one.
        """
        before = self.in_force(verifier.name)
        self._claim(verifier)
        rules = self._rules.get(verifier.name, EpochRules())
        history = (*self._former.get(verifier.name, ()), _Former(before, rules))
        self._former[verifier.name] = history[-MAX_HISTORY:]
        return self._put_in_force(verifier, EpochRules(floor=verifier.epoch) if rescore else rules)

    def roll_back(self, verifier: VerifierInForce) -> EpochRules:
        """Put the former verifier in force again, as a new epoch; bar the verdicts given since it was replaced from
        training.

        Raises:
            RefusedError: there is no former verifier, or the epoch is not the next one.
        """
        undone = self.in_force(verifier.name)
        history = self._former.get(verifier.name, ())
        if not history:
            raise RefusedError(f"verifier {verifier.name!r} was never swapped: there is nothing to go back to")
        self._claim(verifier)
        self._former[verifier.name] = history[:-1]
        former, rules = history[-1].verifier, history[-1].rules
        since = range(former.epoch + 1, undone.epoch + 1)
        return self._put_in_force(verifier, EpochRules(rules.floor, (*rules.barred, *since)))

    def snapshot(self) -> dict[str, Any]:
        """The epochs as plain data, for the journal."""
        plain: dict[str, Any] = msgspec.to_builtins(
            _Snapshot(self._last_epoch, self._in_force, self._rules, self._former, self._configured)
        )
        return plain

    def restore(self, snapshot: Mapping[str, Any]) -> list[tuple[VerifierInForce | None, VerifierInForce]]:
        """Restore the epochs from a snapshot.

        A swapped verifier stays in force, unless the configuration's verifier of its name has changed since. Then the
        configuration's is in force, with a new epoch.

        Returns:
            For each name whose verifier the configuration changed: the former verifier, and the one in force now.
        """
        held = _snapshot_decoder.decode(msgspec.msgpack.encode(snapshot))
        self._last_epoch = held.last_epoch
        self._rules = dict(held.rules)
        self._former = {}
        changed = []
        for name, configured in self._configured.items():
            if held.configured.get(name) == configured:
                self._in_force[name] = held.in_force[name]
                self._former[name] = held.former.get(name, ())
            else:
                self._last_epoch += 1
                self._in_force[name] = msgspec.structs.replace(configured, epoch=self._last_epoch)
                changed.append((held.in_force.get(name), self._in_force[name]))
        return changed

    def _claim(self, verifier: VerifierInForce) -> None:
        if verifier.epoch != self.next_epoch:
            raise RefusedError(f"verifier epoch {verifier.epoch} was prepared, but the next one is {self.next_epoch}")
        self._last_epoch = verifier.epoch

    def _put_in_force(self, verifier: VerifierInForce, rules: EpochRules) -> EpochRules:
        self._in_force[verifier.name] = verifier
        if rules != EpochRules():
            self._rules[verifier.name] = rules
        return rules
