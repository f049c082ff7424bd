"""Who works on which group, and until when.

Owns: the leases of reserved groups. Does not own the clock (`now_s` comes in) nor the groups' states (`ledger`).
Invariant: a group has at most one owner; a lease ends by completion, failure, expiry or death of its owner.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Lease:
    owner: str
    until_s: float


@dataclass(slots=True)
class Leases:
    """Leases by group id."""

    _leases: dict[str, _Lease] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._leases)

    def grant(self, group_id: str, owner: str, now_s: float, lease_s: float) -> None:
        """Give a group to `owner`, also if another had it."""
        self._leases[group_id] = _Lease(owner, now_s + lease_s)

    def renew(self, group_ids: Iterable[str], owner: str, now_s: float, lease_s: float) -> tuple[str, ...]:
        """Extend what `owner` still holds; returns the ids that it has lost."""
        lost = []
        for group_id in group_ids:
            lease = self._leases.get(group_id)
            if lease is None or lease.owner != owner:
                lost.append(group_id)
            else:
                lease.until_s = now_s + lease_s
        return tuple(lost)

    def end(self, group_id: str) -> str | None:
        """The group is finished or given back; returns who held it."""
        lease = self._leases.pop(group_id, None)
        return lease.owner if lease else None

    def expired(self, now_s: float) -> tuple[str, ...]:
        """Groups whose lease has run out. They keep their owner until granted again or ended."""
        return tuple(group_id for group_id, lease in self._leases.items() if lease.until_s < now_s)

    def held_by(self, owner: str) -> tuple[str, ...]:
        """Groups of one owner, to take back when it dies."""
        return tuple(group_id for group_id, lease in self._leases.items() if lease.owner == owner)
