"""The errors that people may meet, by what each means for them.

Owns: the hierarchy and the process exit codes. A message says what was wrong, where, and what to do.
"""

from __future__ import annotations


class RingAsyncError(Exception):
    """Root of what this package raises on purpose. `exit_code` is the CLI's exit status for it."""

    exit_code = 1


class ConfigError(RingAsyncError):
    """A configuration that cannot run: unknown key, wrong type, contradiction, impossible placement."""

    exit_code = 2


class RunError(RingAsyncError):
    """A run that does not exist, is not in the state a command needs, or ended in failure."""


class NotARunError(RunError):
    """A folder that holds no run."""

    exit_code = 2


class ActorFailedError(RingAsyncError):
    """An actor ended, or could not go on, and the run cannot go on without it."""

    exit_code = 3


class DivergedError(ActorFailedError):
    """The model's loss, gradient or weights became non-finite."""

    exit_code = 4


class TransportError(RingAsyncError):
    """A channel could not do what was asked; the message names the peer."""


class PeerTimeoutError(TransportError):
    """A peer did not answer, acknowledge or grant credit before the deadline."""


class PeerGoneError(TransportError):
    """The peer left the fleet before it answered."""


class RefusedError(TransportError):
    """The peer understood and refused; the message says who refused what, `reason` is the peer's own words."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason or message


class PromptRefusedError(RingAsyncError):
    """The tokenizer or the engine can never take this prompt; a retry cannot help, other prompts are not concerned."""


class CodecError(TransportError):
    """Bytes from the wire are not a valid message. `cause` is the label under which they are counted."""

    def __init__(self, cause: str, detail: str = "") -> None:
        super().__init__(f"{cause}: {detail}" if detail else cause)
        self.cause = cause


class WeightsError(TransportError):
    """A weight version that could not be published, staged or verified whole."""


class StorageError(RingAsyncError):
    """A durable store that cannot be read or written; the message names the path and the need."""


class VerifierError(RingAsyncError):
    """A verifier could not judge (crash, timeout, non-finite reward): `failed(cause)`, never a reward of 0."""

    def __init__(self, cause: str, detail: str = "") -> None:
        super().__init__(f"{cause}: {detail}" if detail else cause)
        self.cause = cause


class SandboxUnavailableError(VerifierError):
    """Model-written code cannot be run safely on this machine; the message names the missing package."""

    def __init__(self, detail: str) -> None:
        super().__init__("sandbox_unavailable", detail)


def first_failure(failures: BaseExceptionGroup) -> BaseException:
    """The first error of a group, however deep the groups of task groups are nested."""
    failure: BaseException = failures
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure
