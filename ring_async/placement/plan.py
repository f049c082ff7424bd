"""Who would run where on a cluster that is only described: hosts of one kind, so many CPUs and GPUs each.

    plan_fleet(config, 32, Room(cpus=96, gpus=8))
        hosts 0–7: controller-0, replay-0 … 7, learner ranks 0–63, …    hosts 8–31: 8 rollouts each

Owns: the plan that `ring-async check --hosts` prints. Does not own what happens: on a real cluster Ray places each
actor (`places`), by the same rules: actors that are bound to a host go there, the learner's ranks fill hosts in order
from that of `up`, and everybody else goes to the host with most room.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from ring_async.config.schema import Config
from ring_async.core.roster import Role
from ring_async.errors import ConfigError
from ring_async.placement.places import bound_to, needs_of

_FIRST = "host of up"
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Room:
    """What one host has for actors."""

    cpus: float
    gpus: float


@dataclass(slots=True)
class PlannedHost:
    """One host of a plan.

    Attributes:
        index: 0 is the host of `up`.
        free: room that is left.
        ranks: of the learner.
        actors: how many actors of each role.
    """

    index: int
    free: Room
    ranks: range = range(0)
    actors: Counter[Role] = field(default_factory=Counter)

    def takes(self, needs: dict[str, float]) -> bool:
        """Whether there is room for an actor of these needs."""
        return (
            needs.get("CPU", 0.0) <= self.free.cpus + _ROUNDING and needs.get("GPU", 0.0) <= self.free.gpus + _ROUNDING
        )

    def take(self, role: Role, needs: dict[str, float]) -> None:
        self.free = Room(self.free.cpus - needs.get("CPU", 0.0), self.free.gpus - needs.get("GPU", 0.0))
        self.actors[role] += 1


def plan_fleet(config: Config, num_hosts: int, room: Room) -> list[PlannedHost]:
    """Place every actor of a configuration.

    Raises:
        ConfigError: an actor finds no room; says which, and what is free.
    """
    hosts = [PlannedHost(index, room) for index in range(num_hosts)]
    parallel = config.learner.parallel
    if parallel.hosts > num_hosts:
        raise ConfigError(f"learner.parallel.hosts: {parallel.hosts} of {num_hosts} hosts; lower it, or add hosts")
    for host in hosts[: parallel.hosts]:
        _place(config, Role.LEARNER, [host])
        first = host.index * parallel.ranks_per_host
        host.ranks = range(first, first + parallel.ranks_per_host)
    others = [(actor_id, role) for actor_id, role in config.roster.actors() if role is not Role.LEARNER]
    for actor_id, role in sorted(others, key=lambda one: not bound_to(config, one[0], one[1], _FIRST)):
        is_bound = bound_to(config, actor_id, role, _FIRST) == _FIRST
        _place(config, role, hosts[:1] if is_bound else hosts)
    return hosts


def _place(config: Config, role: Role, hosts: list[PlannedHost]) -> None:
    needs = needs_of(config, role)
    able = [host for host in hosts if host.takes(needs)]
    if not able:
        room = ", ".join(f"{name} {amount:g}" for name, amount in needs.items())
        where = f"host {hosts[0].index}" if len(hosts) == 1 else "any host"
        free = max(hosts, key=lambda host: (host.free.gpus, host.free.cpus)).free
        raise ConfigError(
            f"placement: no room for one more {role} ({room}) on {where}: most room is CPU {free.cpus:g}, GPU "
            f"{free.gpus:g}; lower rollout.num, reward.num or placement.cpus, or add hosts"
        )
    max(able, key=lambda host: (host.free.gpus, host.free.cpus, -host.index)).take(role, needs)


def lines_of(hosts: list[PlannedHost], room: Room) -> Iterator[str]:
    """The plan for people, one line for each run of hosts that hold the same."""
    start = 0
    for end in range(1, len(hosts) + 1):
        if end < len(hosts) and _holds(hosts[end]) == _holds(hosts[start]):
            continue
        alike = hosts[start:end]
        yield f"{_numbers('host', start, end - 1)}: {_content(alike)}; {_used(alike[0], room)}"
        start = end


def _holds(host: PlannedHost) -> tuple[int, dict[Role, int]]:
    return len(host.ranks), dict(host.actors)


def _content(alike: list[PlannedHost]) -> str:
    first, last = alike[0], alike[-1]
    counts = ", ".join(f"{num} {role}" for role, num in first.actors.items() if role is not Role.LEARNER)
    parts = [f"{counts} each" if len(alike) > 1 else counts] if counts else []
    if first.ranks:
        parts.insert(0, f"learner {_numbers('rank', first.ranks.start, last.ranks.stop - 1)}")
    return ", ".join(parts) or "nothing"


def _numbers(noun: str, first: int, last: int) -> str:
    return f"{noun} {first}" if first == last else f"{noun}s {first}–{last}"


def _used(host: PlannedHost, room: Room) -> str:
    return (
        f"{room.gpus - host.free.gpus:g} of {room.gpus:g} GPUs and {room.cpus - host.free.cpus:g} of {room.cpus:g} "
        "CPUs of a host"
    )
