"""The rescorer: it has groups judged again whose verdicts may no longer be trained on.

    replay ──GroupGenerated (rescore)──▶ reward ──GroupScored, by the epoch in force──▶ replay: replaces the old verdict

Owns: which groups are being judged again, and by which actor. Does not own which groups need it (`ReplayBuffer`), nor
what becomes of the new verdict (`ReplayShard.put`).
Invariant: a group is asked for until it is judged by an epoch that may be trained on, or dropped.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable

from ring_async.actors.base import Actor
from ring_async.core.roster import Role
from ring_async.errors import RefusedError, StorageError
from ring_async.storage.replay_shard import ReplayShard
from ring_async.transport.messages.work import GroupGenerated
from ring_async.types import Group

log = logging.getLogger(__name__)

MAX_UNDER_WAY = 16
"""Most groups that are being judged again at once."""

MAX_TRIES = 3
"""How often one group is asked for: a verifier that times out once may judge it the next time."""


class Rescorer:
    """Has groups judged again. Args: `actor` is the replay actor, `shard` its shard; `on_news` is called after a group
    was
    dropped.
    """

    def __init__(self, actor: Actor, shard: ReplayShard, on_news: Callable[[], Awaitable[None]]) -> None:
        self._actor = actor
        self._shard = shard
        self._on_news = on_news
        self._due = asyncio.Event()
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self.num_sent = 0
        """Groups sent to be judged again, repeats counted."""

    def look_again(self) -> None:
        """Look again for groups that must be judged again, because epoch rules or groups have changed."""
        if self._shard.buffer.epoch_rules:
            self._due.set()

    async def run(self) -> None:
        """Consumes barred groups / produces new verdicts / waits for reward actors / freed by their answers."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._due.wait()
                self._due.clear()
                for group_id in await self._actor.on_compute(self._shard.barred, 2 * MAX_UNDER_WAY):
                    if len(self._under_way) >= MAX_UNDER_WAY:
                        break  # each task looks again when it ends
                    if group_id not in self._under_way:
                        self._under_way[group_id] = tasks.create_task(self._rescore(group_id), name=f"again {group_id}")

    async def _rescore(self, group_id: str) -> None:
        try:
            for num_tries in itertools.count(1):
                group = await self._actor.on_compute(self._shard.barred_group, group_id)
                if group is None:
                    break
                await self._ask(group, is_last=num_tries >= MAX_TRIES)
        except StorageError as error:  # a full disk, or a damaged payload: the group stays as it is for now
            log.error("%s: group %s cannot be judged again now: %s", self._actor.actor_id, group_id, error)
            await self._actor.waits.for_space(error)
        finally:
            del self._under_way[group_id]
            self._due.set()

    async def _ask(self, group: Group, *, is_last: bool) -> None:
        """Have one reward actor judge the group; the actor answers once the new verdict is durable in this shard.

        A group that could not be judged at the last try is dropped.
        """
        actor, group_id = self._actor, group.header.group_id
        self.num_sent += 1
        try:
            await actor.deliver(
                Role.REWARD, GroupGenerated(group.header, is_rescore=True), group.buffers,
                message_id=f"{group_id}@{actor.incarnation}.{self.num_sent}",
                what="to judge again",
            )  # fmt: skip
        except RefusedError as refusal:
            if not is_last:
                log.warning("%s: group %s is asked for again: %s", actor.actor_id, group_id, refusal)
                return
            log.warning("%s: group %s is dropped: %s", actor.actor_id, group_id, refusal)
            await actor.on_compute(self._shard.give_up, group_id)
            await self._on_news()
