"""The protocol of rollout engines: PyTorch in this process, or SGLang beside it.

Owns: the protocol. An engine samples tokens, knows exactly which weights sampled each, and swaps weights while requests
are in flight. It knows nothing of groups, rewards, or the network between actors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from ring_async.config.schema import Config
from ring_async.core.replay.partials import PartialResponse
from ring_async.telemetry.trace import Tracer
from ring_async.types import Generation, Int32, PolicyVersion, SamplingParams

OnUpdate = Literal["keep", "reprefill", "abort"]


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One response to sample.

    Attributes:
        request_id: the trajectory's id.
        prompt_ids: int32 `[P]`.
        seed: of this response's own random stream; the same seed, weights and prompt give the same response,
            whatever else is in the batch.
        prefix: tokens already sampled (an aborted generation to go on with), or None.
    """

    request_id: str
    prompt_ids: Int32
    sampling: SamplingParams
    seed: int
    prefix: Generation | None = None


class GenerationAborted(Exception):  # noqa: N818 - an outcome, not an error
    """The request was aborted; `partial` is what had been sampled, exact and resumable as a `prefix`."""

    def __init__(self, partial: Generation | None) -> None:
        super().__init__("generation aborted")
        self.partial = partial


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """How busy an engine is. `capacity` is how many requests it runs at once."""

    num_running: int
    num_waiting: int
    capacity: int
    generated_tokens: int
    """Since start."""
    busy_s: float
    """Time spent computing, since start."""


@dataclass(frozen=True, slots=True)
class SwapReport:
    """`pause_s` is how long no token was sampled because of the swap."""

    policy_version: PolicyVersion
    pause_s: float
    num_in_flight: int


class RolloutEngine(Protocol):
    """Generates responses, many at once, and swaps weights between two tokens."""

    engine_id: str

    @property
    def policy_version(self) -> PolicyVersion | None:
        """The version that the engine samples from; None until weights were loaded, and no request is served before."""
        ...

    async def start(self) -> None: ...

    async def generate(self, request: GenerationRequest) -> Generation:
        """Sample one response; requests are admitted into the running batch as slots free up.

        Raises:
            GenerationAborted: `abort` was called; carries the partial response.
            ValueError: this engine can never serve the request, because of its prompt or its length.
            ActorFailedError: the engine is gone.
        """
        ...

    async def sampled(self, since: Mapping[str, int]) -> list[PartialResponse]:
        """What requests under way have sampled beyond a position, for whoever keeps it in case this engine dies.

        Args:
            since: the position of each request, by its id.

        Returns:
            A piece, from that position on, for each of these requests that is under way and has sampled more. Its
            tokens are final: `generate` returns with them, or aborts with them.

        Raises:
            ActorFailedError: the engine is gone.
        """
        ...

    async def abort(self, request_ids: tuple[str, ...] | None = None) -> None:
        """Abort these requests (None: all); their `generate` calls raise `GenerationAborted`."""
        ...

    async def swap_weights(
        self, policy_version: PolicyVersion, tensors: Mapping[str, Any], on_update: OnUpdate
    ) -> SwapReport:
        """Swap staged tensors (by Hugging Face name) in between two tokens.

        The caller drops the tensors when this returns: an engine keeps those that it samples from, or has copied them.
        `keep`: requests in flight go on over their old KV cache. `reprefill`: their caches are computed again under
        the new weights first. `abort`: they are aborted with their prefix. Tokens sampled afterwards carry
        `policy_version`.
        """
        ...

    def load(self) -> EngineLoad: ...

    async def close(self) -> None: ...


class EngineEntry(Protocol):
    """How the registry knows one engine. An entry imports the engine itself inside `make`."""

    def make(self, config: Config, engine_id: str, tracer: Tracer, log_dir: Path) -> RolloutEngine:
        """Build the engine; its `start` loads the model, and what other programs print goes into `log_dir`."""
        ...

    def check(self, config: Config) -> list[str]:
        """The reasons why the engine cannot work here, each with a remedy (`config.registry.Entry`)."""
        ...

    def check_host(self, config: Config) -> list[str]:
        """What this host lacks to run the engine, each with a remedy; asked on every host that a rollout may run on."""
        ...
