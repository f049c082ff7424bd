"""Messages about changes of a run at work: settings, verifiers, sources."""

from __future__ import annotations

from typing import Any

from ring_async.core.verifier_swap import ShadowCounts
from ring_async.transport.messages.base import Message
from ring_async.types import (
    EpochRules,
    VerifierInForce,
)


class ReadVerifierFile(Message, frozen=True):
    """An actor asks for a file of a verifier that its own host lacks; `name` is its path below `verifiers/`."""

    name: str


class VerifierFile(Message, frozen=True):
    content: bytes


class VerifierFailing(Message, frozen=True):
    """A verifier fails too often to go on; its sources are paused, the others train on."""

    verifier: str
    version: str
    epoch: int
    reason: str


class TuneKnobs(Message, frozen=True):
    """Runtime-tunable settings by dotted name, to take effect at the next boundary."""

    knobs: dict[str, Any]


class PrepareVerifier(Message, frozen=True):
    """Build this verifier beside the one in force, and check it on its golden cases.

    With `is_shadow` it judges along from then on, without effect.
    """

    verifier: VerifierInForce
    is_shadow: bool = False


class VerifierPrepared(Message, frozen=True):
    version: str
    num_cases: int
    """Number of golden cases that the verifier passed."""
    seconds: float


class ReportShadow(Message, frozen=True):
    epoch: int


class ShadowReported(Message, frozen=True):
    """The shadow counts of one reward actor so far."""

    counts: ShadowCounts


class CommitVerifier(Message, frozen=True):
    """Judge with this verifier from the next group on."""

    verifier: VerifierInForce


class DropPrepared(Message, frozen=True):
    """Close a prepared verifier, which will not be used."""

    epoch: int


class ApplyEpochRules(Message, frozen=True):
    """Train on admitted epochs alone from now on; unused groups scored by barred epochs are judged again."""

    rules: dict[str, EpochRules]


class UseSources(Message, frozen=True):
    """The verifiers of sources that were added to the mixture."""

    source_verifiers: dict[str, str]
