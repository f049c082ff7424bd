"""What is taken over of a group that another rollout began."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np

from ring_async.actors.handover import PartialHandover
from ring_async.actors.waits import Waits
from ring_async.core.replay.group_bundle import bundle_partials
from ring_async.core.replay.partials import piece_of
from ring_async.errors import RefusedError
from ring_async.testing.builders import make_config, make_segments
from ring_async.transport.messages.work import PartialsRead, ReadPartials
from ring_async.types import Generation


class Shard:
    """Its outbox: answers with pieces, or refuses."""

    def __init__(self, *pieces: Any, refusal: str = "") -> None:
        self._pieces = pieces
        self._refusal = refusal
        self.asked: list[ReadPartials] = []

    async def request(self, message: ReadPartials, *, timeout_s: float) -> Any:
        self.asked.append(message)
        if self._refusal:
            raise RefusedError(self._refusal)
        return SimpleNamespace(message=PartialsRead(message.group_id), buffers=bundle_partials(self._pieces))


def taken_over(shard: Shard, **settings: float) -> dict[int, Any]:
    async def registered(*_: Any) -> None: ...

    config = make_config()
    actor = SimpleNamespace(
        actor_id="rollout-1", incarnation=2, config=config, waits=Waits("rollout-1"), registered=registered,
        data_link=lambda _: shard,
    )  # fmt: skip
    handover = PartialHandover(actor, SimpleNamespace(), settings.get("interval_s", 5.0))  # type: ignore[arg-type]
    return asyncio.run(handover.take_over("g7"))


def test_each_response_is_found_by_its_index():
    size = 5
    ids = np.arange(size, dtype=np.int32)
    whole = Generation(ids, -ids.astype(np.float32), make_segments(size, 3), "stop")
    shard = Shard(piece_of("g7/0", whole, 0, 4), piece_of("g7/3", whole, 0, 5, "stop"))
    held = taken_over(shard)
    assert {index: (piece.header.num_tokens, piece.header.finish_reason) for index, piece in held.items()} == {
        0: (4, None),
        3: (5, "stop"),
    }
    assert shard.asked == [ReadPartials("g7", "rollout-1.2")]


def test_a_shard_that_refuses_costs_only_what_it_holds():
    assert taken_over(Shard(refusal="unfinished responses cannot be kept: no room")) == {}


def test_without_handovers_nobody_is_asked():
    shard = Shard()
    assert taken_over(shard, interval_s=0.0) == {}
    assert shard.asked == []
