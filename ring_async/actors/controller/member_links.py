"""The controller's links to the members: commands with deadlines, and news of which only the newest is delivered.

Owns: one outbox per member's control inbox, the task that keeps the member up to date, and what each member knows of
the list of members. News is state, not a log: a member that was busy or away gets the newest weights, and one
difference to the newest list of members, never a queue of old ones.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from ring_async.actors.controller.member_list import MemberList
from ring_async.errors import PeerTimeoutError, RefusedError
from ring_async.transport.base import Outbox, Transport
from ring_async.transport.messages.base import Message
from ring_async.transport.messages.fleet import Member, MembersMark, MembersMissed

log = logging.getLogger(__name__)

NEWS_TIMEOUT_S = 5.0


@dataclass(slots=True)
class _MemberLink:
    member: Member
    outbox: Outbox
    known_members: MembersMark | None
    """What the member knows of the list of members; None: it needs the whole list."""
    is_list_due: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    pending: dict[str, Message] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None


class MemberLinks:
    """Links to all registered members.

    links.open(member, None)
    links.tell_members()                                        # the member gets what it does not know of the list
    links.tell(actor_id, UseWeights(…))                         # version 7, then 8 before 7 was delivered: 8 arrives
    await links.command(LEARNER_ID, Pause(), timeout_s=5.0)     # the answer
    """

    def __init__(self, transport: Transport, members: MemberList) -> None:
        self._transport = transport
        self._members = members
        self._links: dict[str, _MemberLink] = {}

    def open(self, member: Member, known_members: MembersMark | None) -> None:
        """Open the link to a member that registered, in place of the link to an earlier process of the same id.

        `known_members`: what the answer to its registration tells it of the list of members.
        """
        self.drop(member.actor_id)
        outbox = self._transport.connect(member.control_endpoint, peer=member.actor_id)
        link = _MemberLink(member, outbox, known_members)
        link.task = asyncio.create_task(self._keep_informed(link), name=f"news-{member.actor_id}")
        self._links[member.actor_id] = link

    def drop(self, actor_id: str) -> None:
        """Close the link to a member that is gone; its undelivered news is lost."""
        link = self._links.pop(actor_id, None)
        if link is not None and link.task is not None:
            link.task.cancel()

    def tell(self, actor_id: str, news: Message) -> None:
        """Send news to a member, in place of undelivered news of the same type."""
        link = self._links.get(actor_id)
        if link is not None:
            link.pending[type(news).__name__] = news
            link.changed.set()

    def tell_members(self) -> None:
        """Send each member what it does not know of the list of members."""
        for link in self._links.values():
            link.is_list_due = True
            link.changed.set()

    async def command(self, actor_id: str, message: Message, *, timeout_s: float) -> Message:
        """Send one command and wait for the answer.

        Raises:
            PeerTimeoutError: no answer came in time, or there is no such member.
            RefusedError: the member refused.
        """
        link = self._links.get(actor_id)
        if link is None:
            raise PeerTimeoutError(f"{actor_id} is not registered")
        return (await link.outbox.request(message, timeout_s=timeout_s)).message

    async def close(self) -> None:
        for actor_id in list(self._links):
            self.drop(actor_id)

    async def _keep_informed(self, link: _MemberLink) -> None:
        """Consumes news / produces deliveries / waits for news / freed by `tell`, or by `drop`."""
        try:
            while True:
                await link.changed.wait()
                link.changed.clear()
                await self._deliver_members(link)
                for kind, news in list(link.pending.items()):
                    if await self._deliver(link, news) and link.pending.get(kind) is news:
                        del link.pending[kind]
        finally:
            await link.outbox.close()

    async def _deliver_members(self, link: _MemberLink) -> None:
        while link.is_list_due and link.known_members != (mark := self._members.mark):
            try:
                answer = await link.outbox.request(self._members.since(link.known_members), timeout_s=NEWS_TIMEOUT_S)
            except PeerTimeoutError:
                link.changed.set()
                return
            except RefusedError as refusal:
                log.warning("%s refused the list of members: %s", link.member.actor_id, refusal)
                return
            link.known_members = None if isinstance(answer.message, MembersMissed) else mark

    async def _deliver(self, link: _MemberLink, news: Message) -> bool:
        try:
            await link.outbox.request(news, timeout_s=NEWS_TIMEOUT_S)
        except PeerTimeoutError:
            link.changed.set()  # the member is busy, or dead and about to be dropped: try the newest again
            return False
        except RefusedError as refusal:
            log.warning("%s refused %s: %s", link.member.actor_id, type(news).__name__, refusal)
        return True
