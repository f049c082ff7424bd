"""What one actor knows of the other members: the controller's list at some moment, kept up by differences.

Owns: that list and its moment. Does not own the links to these members, nor the messages' way (`actors.base`).
Invariant: the list is never older than one that was known before.
"""

from __future__ import annotations

from collections.abc import Iterable

from ring_async.transport.messages.fleet import Member, MembersChanged, MembersMark


class KnownMembers:
    """The members by id, as they were at `mark`.

    known.registered([one, other], mark)
    known.follow(MembersChanged((), gone=(other.actor_id,), since=mark, mark=later))      # True
    known.by_id                                                                           # {one.actor_id: one}
    """

    def __init__(self) -> None:
        self.by_id: dict[str, Member] = {}
        self.mark = MembersMark()

    def registered(self, members: Iterable[Member], mark: MembersMark) -> None:
        """Take in the list that answers a registration, unless newer news of the list was faster than this answer.

        Members that it lacks are kept: a controller that restarted does not know everybody yet; it tells all once it
        does.
        """
        if mark >= self.mark:
            self.mark, self.by_id = mark, self._with(members)

    def follow(self, news: MembersChanged) -> bool:
        """Take in news of the list. Returns False if changes before these are not known here."""
        if news.mark < self.mark:
            return True
        if news.since is None:
            members = {member.actor_id: member for member in news.members}
        elif news.since.incarnation == self.mark.incarnation and news.since <= self.mark:
            members = self._with(news.members)
            for actor_id in news.gone:
                members.pop(actor_id, None)
        else:
            return False
        self.mark, self.by_id = news.mark, members
        return True

    def _with(self, members: Iterable[Member]) -> dict[str, Member]:
        return self.by_id | {member.actor_id: member for member in members}
