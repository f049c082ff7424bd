"""What a verifier is: something that judges a response, says which version of itself judged, and can check itself.

Owns: the protocol. A verifier that cannot judge raises `VerifierError`; it never answers 0 for its own failure.

Beyond `Verifier` a class may offer, found by name:

* `isolation`: where its code runs, see `Isolation`.
* `score_within(prompt, response, timeout_s)`: an async `score` that keeps the deadline itself, because its time starts
  when a worker or sandbox is free rather than when it is called.
* `score_group_within(prompt, responses, timeout_s)`: an async judgement of a whole group, for verifiers made of others.
* `check_prompt(prompt)`: raises `VerifierError` if no response to this prompt could be judged; `check` calls it.
* `score_batch(prompt, responses)`: judges a group in one call (a model on a GPU).
* `distributions`: names of installed packages whose versions can change its judgement; they enter `version`.
* `from_options(options, make)`: a constructor that builds further verifiers, for composites.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from ring_async.types import FinishReason, Prompt, Verdict

Isolation = Literal["thread", "process", "guarded"]
"""Where a verifier's code runs.

* `thread`: in the reward actor. A call that never returns can be given up, but not stopped.
* `process`: in worker processes, killed and replaced at the deadline.
* `guarded`: as `process`, and a worker may neither write files, nor open sockets, nor start programs: for libraries
  that evaluate what a model wrote.
"""

MakeVerifier = Callable[[str, Mapping[str, Any]], "Verifier"]
"""`(name, {"use": …, "options": …}) -> verifier`, given to `from_options`."""


@dataclass(frozen=True, slots=True)
class Response:
    """What the model answered, decoded."""

    text: str
    num_tokens: int = 0
    finish_reason: FinishReason = "stop"


@dataclass(frozen=True, slots=True)
class GoldenCase:
    """A case whose reward is known, for the self-check before a verifier goes into service."""

    prompt: Prompt
    response: Response
    reward: float
    tolerance: float = 1e-6


class Verifier(Protocol):
    """Judges responses. `score` may be sync (called in a worker thread) or async."""

    name: str
    version: str
    """Content hash of code and settings: two verifiers that could judge differently never share it."""

    def score(self, prompt: Prompt, response: Response) -> Verdict | Awaitable[Verdict]:
        """Judge one response.

        Raises:
            VerifierError: it could not judge; the cause is counted, the response is not trained.
        """
        ...

    def golden_cases(self) -> Sequence[GoldenCase]: ...

    def close(self) -> None: ...


@runtime_checkable
class DeadlineVerifier(Protocol):
    """A verifier that keeps deadlines itself: waiting for a free worker does not count."""

    async def score_within(self, prompt: Prompt, response: Response, timeout_s: float) -> Verdict: ...


@runtime_checkable
class GroupVerifier(Protocol):
    """A verifier that judges a group through other verifiers: `timeout_s` is for one verdict of one of them."""

    async def score_group_within(
        self, prompt: Prompt, responses: Sequence[Response], timeout_s: float
    ) -> list[Verdict]: ...


@runtime_checkable
class BatchVerifier(Protocol):
    """A verifier that judges a group at once: one verdict per response, in order."""

    def score_batch(
        self, prompt: Prompt, responses: Sequence[Response]
    ) -> Sequence[Verdict] | Awaitable[Sequence[Verdict]]: ...


@runtime_checkable
class PromptChecker(Protocol):
    """A verifier that can say beforehand whether a prompt carries what it needs to judge a response."""

    def check_prompt(self, prompt: Prompt) -> None:
        """Raises:
        VerifierError: `bad_prompt`, what is missing or wrong.
        """
        ...


class VerifierBase:
    """Defaults for what most verifiers need not write; `make_verifier` sets name and version. Optional."""

    name: str = ""
    version: str = ""
    isolation: Isolation = "thread"
    distributions: tuple[str, ...] = ()

    def golden_cases(self) -> Sequence[GoldenCase]:
        return ()

    def close(self) -> None:
        """Release workers and models; the default has none."""
