"""A shard's answers to rollouts about unfinished responses: pieces handed over, and what is held of a group.

Owns: the translation between messages and the shard's store of pieces. Does not own what becomes of a piece
(`core.replay.partials`).
"""

from __future__ import annotations

from collections.abc import Sequence

from ring_async.columns import Buffer
from ring_async.core.replay.group_bundle import bundle_partials, unbundle_partials
from ring_async.errors import RefusedError, StorageError
from ring_async.storage.replay_shard import ReplayShard
from ring_async.transport.messages.base import Message
from ring_async.transport.messages.work import HandOverPartials, PartialsAppended, PartialsRead, ReadPartials


def answer_rollout(
    shard: ReplayShard, message: HandOverPartials | ReadPartials, buffers: Sequence[Buffer]
) -> tuple[Message, list[Buffer]]:
    """Append pieces, or read what is held of a group; on the shard's thread.

    Raises:
        RefusedError: the pieces are damaged, or the store cannot be written.
    """
    try:
        match message:
            case HandOverPartials(writer):
                return PartialsAppended(tuple(shard.partials.append(unbundle_partials(buffers), writer))), []
            case ReadPartials(group_id, writer):
                return PartialsRead(group_id), bundle_partials(shard.partials.take_over(group_id, writer))
    except (ValueError, StorageError) as error:
        raise RefusedError(str(error)) from error
