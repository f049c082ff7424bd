"""The list of members as all members know it, and what has changed in it.

Owns: the list, the number of each change, and the differences between two moments. Does not own who is a member
(`membership`), nor when a member hears of it (`member_links`).
Invariant: whoever had the list of a mark, and applies the difference since that mark, has the list of now.
Rejected: the whole list to all at each change. With 4,000 members that is 838 KB, to each of them.
"""

from __future__ import annotations

from collections.abc import Iterable

from ring_async.transport.messages.fleet import Member, MembersChanged, MembersMark


class MemberList:
    """The members that others may send work to.

        members = MemberList(incarnation=0)
        members.update([one, other])
        mark = members.mark
        members.update([one])
        members.since(mark)        # MembersChanged((), gone=(other.actor_id,), since=mark, mark=…)
        members.since(None)        # all of them

    Args:
        incarnation: of the controller. Each counts its changes from the beginning.
    """

    def __init__(self, incarnation: int) -> None:
        self.mark = MembersMark(incarnation, 0)
        self._listed: dict[str, Member] = {}
        self._changed_at: dict[str, int] = {}
        """The number of the newest change of every id that was ever listed, in the order of these numbers."""

    def update(self, members: Iterable[Member]) -> None:
        """Make these the members."""
        before, self._listed = self._listed, {member.actor_id: member for member in members}
        joined = [actor_id for actor_id, member in self._listed.items() if before.get(actor_id) != member]
        for actor_id in (*joined, *(before.keys() - self._listed.keys())):
            self.mark = MembersMark(self.mark.incarnation, self.mark.number + 1)
            self._changed_at.pop(actor_id, None)
            self._changed_at[actor_id] = self.mark.number

    def since(self, mark: MembersMark | None) -> MembersChanged:
        """What has changed since a mark of this controller; None: the whole list."""
        if mark is None:
            return MembersChanged(tuple(self._listed.values()), mark=self.mark)
        changed = []
        for actor_id, number in reversed(self._changed_at.items()):
            if number <= mark.number:
                break
            changed.append(actor_id)
        joined = tuple(self._listed[actor_id] for actor_id in changed if actor_id in self._listed)
        gone = tuple(actor_id for actor_id in changed if actor_id not in self._listed)
        return MembersChanged(joined, gone=gone, since=mark, mark=self.mark)
