"""Messages about changes of a run that goes on: knobs, verifiers, sources."""

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
    """Golden cases it passed."""
    seconds: float


class ReportShadow(Message, frozen=True):
    epoch: int


class ShadowReported(Message, frozen=True):
    """What one reward actor counted until now."""

    counts: ShadowCounts


class CommitVerifier(Message, frozen=True):
    """Judge with this verifier from the next group on."""

    verifier: VerifierInForce


class DropPrepared(Message, frozen=True):
    """A prepared verifier will not be used."""

    epoch: int


class ApplyEpochRules(Message, frozen=True):
    """Replay trains on no other epochs from now on; what they scored and no batch used is judged again."""

    rules: dict[str, EpochRules]


class UseSources(Message, frozen=True):
    """Who judges sources that were added."""

    source_verifiers: dict[str, str]
