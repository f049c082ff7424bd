"""Which verifier judges under each name, which did before, and whose verdicts may still be trained on.

Owns: the epoch counter, the history that a rollback goes back to, and the epoch rules that replay enforces. Pure: a
commit in, rules out. Does not own building verifiers, or when a change takes effect.
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
        """What a rollback would go back to."""
        history = self._former.get(name, ())
        return history[-1].verifier if history else None

    def commit(self, verifier: VerifierInForce, *, rescore: bool) -> EpochRules:
        """A new verifier under a known name; with `rescore`, verdicts of former epochs are not trained on any more.

        Raises:
            RefusedError: an unknown name, or an epoch that is not the next.
        """
        before = self.in_force(verifier.name)
        self._claim(verifier)
        rules = self._rules.get(verifier.name, EpochRules())
        history = (*self._former.get(verifier.name, ()), _Former(before, rules))
        self._former[verifier.name] = history[-MAX_HISTORY:]
        return self._put_in_force(verifier, EpochRules(floor=verifier.epoch) if rescore else rules)

    def roll_back(self, verifier: VerifierInForce) -> EpochRules:
        """Back to the former verifier as a new epoch; what was scored since it was left is not trained on any more.

        Raises:
            RefusedError: there is nothing to go back to, or an epoch that is not the next.
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
        """Plain data for the journal."""
        plain: dict[str, Any] = msgspec.to_builtins(
            _Snapshot(self._last_epoch, self._in_force, self._rules, self._former, self._configured)
        )
        return plain

    def restore(self, snapshot: Mapping[str, Any]) -> list[tuple[VerifierInForce | None, VerifierInForce]]:
        """Go on where a journal left off.

        A verifier that was swapped stays in force, unless the configuration names another one under its name than it
        did then. In that case the configuration's is in force, as an epoch of its own.

        Returns:
            For each verifier that the configuration changed so: the one that was in force, and the one that is now.
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
