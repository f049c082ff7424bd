"""The handover of unfinished responses: what a rollout has generated outlives it, but for the last seconds.

    engine ──sampled beyond what is held──▶ pieces ──every rollout.handover_s──▶ the replay shard of their group
    a group that another rollout began ──▶ `take_over` ──▶ what the shard holds of it, to go on from

Owns: how many tokens of each response the shards hold, and when more are handed over. Does not own responses (the
engine, the rollout), nor the pieces that were handed over (`storage.partial_store`).
Invariants: the pieces of a response follow each other without gap; its last token waits for the next piece, so that the
piece that says how it ended is never empty.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from dataclasses import dataclass

from ring_async.actors.base import REQUEST_TIMEOUT_S, Actor
from ring_async.actors.replay.planner import shard_of
from ring_async.actors.waits import ask_until_answered
from ring_async.core.ids import split_id
from ring_async.core.replay.group_bundle import bundle_partials, unbundle_partials
from ring_async.core.replay.partials import AppendOutcome, PartialResponse, piece_of
from ring_async.core.roster import Role
from ring_async.engines.base import RolloutEngine
from ring_async.errors import RefusedError, TransportError
from ring_async.transport.messages.work import HandOverPartials, PartialsAppended, PartialsRead, ReadPartials
from ring_async.types import Generation

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Followed:
    """A response that is handed over: the tokens held by its shard, and the whole of it once it has ended."""

    num_held: int
    ended: Generation | None = None


class PartialHandover:
    """Hands a rollout's unfinished responses over, and takes over those of others.

    Args:
        actor: the rollout, through whose links pieces go.
        engine: samples the responses.
        interval_s: time between two handovers; 0: there are none (`run` is not called).

    Example:
        `begin("g7/0")`; `run` hands tokens [0, 40) over, then [40, 75). The rollout dies. Another one is granted `g7`
        again: its `take_over("g7")` returns one response of 75 tokens, and `begin("g7/0", 75)` goes on from there.
    """

    def __init__(self, actor: Actor, engine: RolloutEngine, interval_s: float) -> None:
        self._actor = actor
        self._engine = engine
        self._interval_s = interval_s
        self._writer = f"{actor.actor_id}.{actor.incarnation}"
        self._followed: dict[str, _Followed] = {}
        self._troubles: dict[str, str] = {}
        """Of each shard, why it did not take the last handover."""

    async def take_over(self, group_id: str) -> dict[int, PartialResponse]:
        """What is held of a group that was granted before, by the index of each response; from now on this rollout
        alone may hand over pieces of it.
        """
        if not self._interval_s:
            return {}
        actor, shard = self._actor, shard_of(group_id, self._actor.config.replay.num)
        await actor.registered(Role.REPLAY, shard)
        try:
            held = await self._ask(shard, group_id)
        except (RefusedError, ValueError) as refusal:  # its store is full or damaged: the group is sampled anew
            log.warning("%s: nothing of %s could be taken over: %s", actor.actor_id, group_id, refusal)
            return {}
        if num_tokens := sum(piece.header.num_tokens for piece in held.values()):
            log.info("%s: %s goes on from %d tokens of others", actor.actor_id, group_id, num_tokens)
        return held

    async def _ask(self, shard: str, group_id: str) -> dict[int, PartialResponse]:
        actor, ask = self._actor, ReadPartials(group_id, self._writer)
        async with actor.waits.on(f"what {shard} holds of {group_id}"):
            answer = await ask_until_answered(lambda: actor.data_link(shard).request(ask, timeout_s=REQUEST_TIMEOUT_S))
        assert isinstance(answer.message, PartialsRead)
        return {split_id(piece.header.trajectory_id)[1]: piece for piece in unbundle_partials(answer.buffers)}

    def begin(self, trajectory_id: str, num_held: int = 0) -> None:
        """Follow a response that begins, or goes on from the tokens that its shard holds."""
        self._followed[trajectory_id] = _Followed(num_held)

    def ended(self, trajectory_id: str, generation: Generation) -> None:
        """A response has ended; its group is not committed yet."""
        if (followed := self._followed.get(trajectory_id)) is not None:
            followed.ended = generation

    def forget(self, trajectory_ids: list[str]) -> None:
        """Stop following responses: replay has them, or their group was handed back."""
        for trajectory_id in trajectory_ids:
            self._followed.pop(trajectory_id, None)

    async def run(self) -> None:
        """Consumes what is sampled / produces pieces / waits for time / freed by it. A shard that is away or full gets
        later what it misses now.
        """
        while True:
            await asyncio.sleep(self._interval_s)
            await self.hand_over()

    async def hand_over(self) -> None:
        """Hand over what the shards do not hold yet.

        Raises:
            ActorFailedError: the engine is gone.
        """
        by_shard: defaultdict[str, list[PartialResponse]] = defaultdict(list)
        for piece in await self._pieces():
            group_id, _ = split_id(piece.header.trajectory_id)
            by_shard[shard_of(group_id, self._actor.config.replay.num)].append(piece)
        await asyncio.gather(*(self._send(shard, pieces) for shard, pieces in by_shard.items()))

    # -- parts

    async def _pieces(self) -> list[PartialResponse]:
        under_way = {key: followed.num_held for key, followed in self._followed.items() if followed.ended is None}
        sampled = await self._engine.sampled(under_way)
        pieces = [piece.first(piece.header.num_tokens - 1) for piece in sampled if piece.header.num_tokens > 1]
        for trajectory_id, followed in self._followed.items():
            whole = None if trajectory_id in under_way else followed.ended
            if whole is not None and followed.num_held < whole.response_ids.size:
                end = int(whole.response_ids.size)
                pieces.append(piece_of(trajectory_id, whole, followed.num_held, end, whole.finish_reason))
        return pieces

    async def _send(self, shard: str, pieces: list[PartialResponse]) -> None:
        if shard not in self._actor.members:
            return
        message, buffers = HandOverPartials(self._writer), bundle_partials(pieces)
        try:
            answer = await self._actor.data_link(shard).request(message, buffers, timeout_s=REQUEST_TIMEOUT_S)
        except TransportError as error:
            if self._troubles.get(shard) != str(error):
                log.warning("%s: %s took no unfinished responses: %s", self._actor.actor_id, shard, error)
            self._troubles[shard] = str(error)
            return
        self._troubles.pop(shard, None)
        assert isinstance(answer.message, PartialsAppended)
        for one in answer.message.answers:
            if one.outcome in (AppendOutcome.NOT_WRITER, AppendOutcome.ENDED):
                self._followed.pop(one.trajectory_id, None)
            elif (followed := self._followed.get(one.trajectory_id)) is not None:
                followed.num_held = one.num_held
