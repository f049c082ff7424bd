"""Epochs only grow; a rollback bars what it undoes; a journal brings everything back but what was reconfigured."""

from __future__ import annotations

import msgspec
import pytest

from ring_async.core.verifier_epochs import VerifierEpochs
from ring_async.errors import RefusedError
from ring_async.types import EpochRules, VerifierInForce

CONFIGURED = (VerifierInForce("math", "math", {}, 0), VerifierInForce("code", "code", {}, 0))


def commit(epochs: VerifierEpochs, name: str, use: str, *, rescore: bool = False) -> EpochRules:
    return epochs.commit(VerifierInForce(name, use, {}, epochs.next_epoch, version=use), rescore=rescore)


def roll_back(epochs: VerifierEpochs, name: str) -> EpochRules:
    former = epochs.former(name)
    assert former is not None
    return epochs.roll_back(msgspec.structs.replace(former, epoch=epochs.next_epoch))


def test_epochs_count_over_all_verifiers():
    epochs = VerifierEpochs(CONFIGURED)
    commit(epochs, "math", "strict")
    commit(epochs, "code", "fast")
    assert [(one.name, one.use, one.epoch) for one in epochs.changed] == [("math", "strict", 1), ("code", "fast", 2)]


def test_a_plain_commit_admits_all_that_was_admitted():
    epochs = VerifierEpochs(CONFIGURED)
    rules = commit(epochs, "math", "strict")
    assert rules.admits(0)
    assert rules.admits(1)
    assert epochs.rules == {}


def test_with_rescore_only_the_new_epoch_is_admitted():
    epochs = VerifierEpochs(CONFIGURED)
    commit(epochs, "math", "strict")
    rules = commit(epochs, "math", "stricter", rescore=True)
    assert [rules.admits(epoch) for epoch in range(4)] == [False, False, True, True]


def test_a_rollback_bars_what_it_undoes_and_nothing_else():
    epochs = VerifierEpochs(CONFIGURED)
    commit(epochs, "math", "strict", rescore=True)
    commit(epochs, "math", "wrong", rescore=True)
    rules = roll_back(epochs, "math")
    assert epochs.in_force("math").use == "strict"
    assert epochs.in_force("math").epoch == 3
    assert [rules.admits(epoch) for epoch in range(4)] == [False, True, False, True]
    rules = roll_back(epochs, "math")
    assert epochs.in_force("math").use == "math"
    assert [rules.admits(epoch) for epoch in range(5)] == [True, False, False, False, True]
    with pytest.raises(RefusedError, match="never swapped"):
        epochs.roll_back(VerifierInForce("math", "math", {}, epochs.next_epoch))


def test_what_is_unknown_or_out_of_turn_is_refused():
    epochs = VerifierEpochs(CONFIGURED)
    with pytest.raises(RefusedError, match="no verifier is called 'stem'; verifiers are code, math"):
        commit(epochs, "stem", "stem")
    with pytest.raises(RefusedError, match="epoch 5 was prepared, but the next one is 1"):
        epochs.commit(VerifierInForce("math", "strict", {}, 5), rescore=False)


def test_a_journal_brings_it_back_but_not_what_was_configured_anew():
    epochs = VerifierEpochs(CONFIGURED)
    commit(epochs, "math", "strict", rescore=True)
    commit(epochs, "code", "fast")
    again = VerifierEpochs((CONFIGURED[0], VerifierInForce("code", "other", {}, 0)))
    changed = again.restore(epochs.snapshot())
    assert changed == [(epochs.in_force("code"), again.in_force("code"))]
    assert again.in_force("math").use == "strict"
    assert again.former("math") == CONFIGURED[0]
    assert again.in_force("code").use == "other"
    assert again.in_force("code").epoch == 3
    assert again.rules == epochs.rules
