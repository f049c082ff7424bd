"""Routes of the control API that change a run at work: verifiers, mixture, settings, size.

Owns: the routes and the shapes of their requests. Does not own what a call does (`Changes`), or who may call (`guard`).
Whoever holds the run's token may name any code as a verifier, so the token gives the power of the run's user account.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from ring_async.config.schema import DifficultyWindow, SourceSection
from ring_async.config.tunable import TUNABLE

MAX_WAIT_S = 30.0
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Author = Annotated[str, Field(max_length=64, description="Whom the event log names.")]


class Changes(Protocol):
    """The operations that these routes need of the controller."""

    def status(self) -> dict[str, Any]: ...

    def swap_verifier(
        self, name: str, use: str, options: Mapping[str, Any], *, shadow: int, rescore: bool, hold: bool, author: str
    ) -> dict[str, Any]: ...

    def roll_back_verifier(self, name: str, *, author: str) -> dict[str, Any]: ...

    def decide(self, swap_id: str, *, commit: bool) -> dict[str, Any]: ...

    async def follow_swap(self, swap_id: str, wait_s: float) -> dict[str, Any]: ...

    async def set_mixture(
        self,
        weights: Mapping[str, float],
        sources: Mapping[str, SourceSection],
        difficulty: Mapping[str, DifficultyWindow | None],
        *,
        author: str,
    ) -> dict[str, Any]: ...

    async def set_knobs(self, knobs: Mapping[str, Any], *, author: str) -> dict[str, Any]: ...

    def scale(self, role: str, num: int, *, author: str) -> dict[str, Any]: ...


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")
    author: Author = "api"


class SwapRequest(_Request):
    """A request to replace the verifier of a name."""

    use: Annotated[str, Field(min_length=1, max_length=4096)]
    options: dict[str, Any] = {}
    shadow: Annotated[int, Field(ge=0, le=1_000_000, description="Trajectories both judge before the commit.")] = 0
    rescore: Annotated[bool, Field(description="Judge again what is buffered and untrained.")] = False
    hold: Annotated[bool, Field(description="After the shadow, wait for `commit` or `abort`.")] = False


class RollbackRequest(_Request):
    """A request to go back to the former verifier of a name."""


class MixtureRequest(_Request):
    """A request for new weights; a source that is left out gets none. Without weights only the given windows change."""

    mixture: dict[Name, Annotated[FiniteFloat, Field(ge=0)]] = {}
    sources: dict[Name, SourceSection] = {}
    difficulty: Annotated[
        dict[Name, DifficultyWindow | None], Field(description="Windows by source; null lifts one, others stay.")
    ] = {}


class KnobsRequest(_Request):
    """A request to change settings, by dotted name."""

    knobs: Annotated[dict[str, Any], Field(min_length=1)]


class ScaleRequest(_Request):
    """A request for a number of actors of a role."""

    role: Name
    num: Annotated[int, Field(ge=1, le=100_000)]


def changes_router(changes: Changes) -> APIRouter:
    """Build the routes, all under `/v1`."""
    router = APIRouter(prefix="/v1")

    @router.post("/verifiers/{name}/swap")
    async def swap(name: str, request: SwapRequest) -> dict[str, Any]:
        """Begin a swap; follow it by its id."""
        return changes.swap_verifier(
            name, request.use, request.options, shadow=request.shadow, rescore=request.rescore, hold=request.hold,
            author=request.author,
        )  # fmt: skip

    @router.post("/verifiers/{name}/rollback")
    async def rollback(name: str, request: RollbackRequest) -> dict[str, Any]:
        return changes.roll_back_verifier(name, author=request.author)

    @router.get("/swaps/{swap_id}")
    async def follow(swap_id: str, wait_s: Annotated[float, Query(ge=0, le=MAX_WAIT_S)] = 0.0) -> dict[str, Any]:
        """The state of a swap; waits up to `wait_s` for its end."""
        return await changes.follow_swap(swap_id, wait_s)

    @router.post("/swaps/{swap_id}/commit")
    async def commit(swap_id: str) -> dict[str, Any]:
        return changes.decide(swap_id, commit=True)

    @router.post("/swaps/{swap_id}/abort")
    async def abort(swap_id: str) -> dict[str, Any]:
        return changes.decide(swap_id, commit=False)

    @router.post("/mixture")
    async def mixture(request: MixtureRequest) -> dict[str, Any]:
        return await changes.set_mixture(request.mixture, request.sources, request.difficulty, author=request.author)

    @router.get("/knobs")
    async def tunable() -> dict[str, Any]:
        """The settings that can change while the run goes on, when each takes effect, and those that were changed."""
        return {"tunable": {name: when for name, (_, when) in TUNABLE.items()}, "set": changes.status()["knobs"]}

    @router.post("/knobs")
    async def knobs(request: KnobsRequest) -> dict[str, Any]:
        return await changes.set_knobs(request.knobs, author=request.author)

    @router.post("/scale")
    async def scale(request: ScaleRequest) -> dict[str, Any]:
        return changes.scale(request.role, request.num, author=request.author)

    return router
