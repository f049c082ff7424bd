"""Places on an existing cluster: a Ray placement group for each actor, reserved before the first one starts.

    controller, replay, learner, evaluator ──▶ the launcher's host, or the one that placement.hosts names
    rollouts, rewards                      ──▶ the host with most room
    a host is lost ─┬▶ the groups of actors bound to it wait for that host ─┬▶ `place` says what each waits for
                    └▶ Ray moves the other groups, or they wait for room ───┘

Owns: the groups, the host that an actor is bound to, what an actor without a place waits for, and the check of each
host. Does not own processes, nor which roles are bound to a host (`core.roster`).
Invariants: an actor that keeps state on a disk never starts on another host than before; a place stays an actor's from
its start to its last restart. Rejected: one group for all actors. Ray moves the bundles of a lost host together or
not at all, so one actor without room would keep all others waiting; and a group cannot grow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol

from ring_async.clock import monotonic_s
from ring_async.config.load import dump_config
from ring_async.config.schema import Config
from ring_async.core.roster import RESIDENCE, Residence, Role, ordinal_of
from ring_async.errors import ConfigError
from ring_async.placement.host_check import fingerprint, host_problems
from ring_async.placement.ray_cluster import Place

HOSTS_MAX_AGE_S = 1.0
POLL_S = 0.1
MIN_SHARE = 0.001
"""Smallest amount of a resource: a placement group must ask for something."""


class Places(Protocol):
    """Assigns places, where actors may start."""

    async def reserve(self, run_dir: Path) -> None:
        """Reserve a place for every actor of the configuration, on hosts that can run them.

        Raises:
            ConfigError: an actor has no place within `placement.start_timeout_s`, or a host lacks what actors need.
        """
        ...

    def place(self, actor_id: str, role: Role) -> Place | str:
        """The place where this actor may start now, or what it waits for."""
        ...

    def keep(self, actor_ids: Collection[str]) -> None:
        """Release the places of all actors but these."""
        ...

    def is_lost(self, place: Place, *, max_age_s: float = 0.0) -> bool:
        """Whether the host of a place is gone; the answer is at most `max_age_s` old."""
        ...


class OneMachine:
    """All actors run on this machine: every place is here, at once, and cannot be lost."""

    async def reserve(self, run_dir: Path) -> None: ...

    def place(self, actor_id: str, role: Role) -> Place | str:
        return Place()

    def keep(self, actor_ids: Collection[str]) -> None: ...

    def is_lost(self, place: Place, *, max_age_s: float = 0.0) -> bool:
        return False


class ClusterPlaces:
    """A Ray placement group for each actor of one run: one bundle, or one on each of the learner's hosts. Make it once
    Ray is joined.

    Example, a rollout on a cluster of two hosts:
        `reserve` asks Ray for `{CPU: 4}` for `rollout-1`, anywhere; Ray gives it room on 10.0.0.2.
        `place("rollout-1", Role.ROLLOUT)` → `Place("10.0.0.2", …)`.
        10.0.0.2 goes: `is_lost(place)` → True; `place` → `"room for CPU 4 on any host; gone: 10.0.0.2"`.
        Ray finds room on 10.0.0.1: `place` → `Place("10.0.0.1", …)`, and the next incarnation starts there.
    """

    def __init__(self, config: Config) -> None:
        import ray

        self._config = config
        self._groups: dict[str, Any] = {}
        self._hosts: dict[str, str] = {}
        """Addresses of the living hosts, by Ray's node id."""
        self._hosts_s = float("-inf")
        self._known: set[str] = set()
        """Addresses of all hosts that were ever part of the cluster."""
        self._own_node = ray.get_runtime_context().get_node_id()
        self._own_address = self._look()[self._own_node]

    async def reserve(self, run_dir: Path) -> None:
        self._check_hosts()
        # Actors that may run anywhere come last: they must not take the room of those bound to one host.
        wanted = dict(sorted(self._config.roster.actors(), key=lambda item: not self._bound_to(*item)))
        timeout_s = self._config.placement.start_timeout_s
        deadline_s = monotonic_s() + timeout_s
        roles: dict[tuple[str, str], set[Role]] = {}  # of each host: node id and address
        while wanted:
            for actor_id, role in list(wanted.items()):
                if isinstance(place := self.place(actor_id, role), Place):
                    roles.setdefault((place.node_id, place.address), set()).add(role)
                    del wanted[actor_id]
            if wanted and monotonic_s() > deadline_s:
                raise ConfigError(self._no_room(wanted, timeout_s))
            await asyncio.sleep(POLL_S)
        problems = await asyncio.to_thread(self._examine, roles, run_dir, timeout_s)
        if problems:
            raise ConfigError("\n".join(problems))

    def place(self, actor_id: str, role: Role) -> Place | str:
        from ray.util import placement_group_table
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        group = self._groups.get(actor_id)
        if group is None:
            bundles = bundles_of(self._config, role, self._bound_to(actor_id, role))
            group = self._groups[actor_id] = placement_group(bundles, strategy="STRICT_SPREAD")
        table = placement_group_table(group)
        node_id = table["bundles_to_node_id"].get(0, "")
        if (
            table["state"] != "CREATED"
            or not set(table["bundles_to_node_id"].values()) <= self._look(HOSTS_MAX_AGE_S).keys()
        ):
            return self._waits_for(actor_id, role)
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
        options = {"scheduling_strategy": strategy}
        return Place(self._hosts[node_id], node_id, node_id == self._own_node, options)

    def keep(self, actor_ids: Collection[str]) -> None:
        from ray.util import remove_placement_group

        for actor_id in self._groups.keys() - set(actor_ids):
            remove_placement_group(self._groups.pop(actor_id))

    def is_lost(self, place: Place, *, max_age_s: float = 0.0) -> bool:
        return place.node_id not in self._look(max_age_s)

    # -- parts

    def _look(self, max_age_s: float = 0.0) -> dict[str, str]:
        """The living hosts of the cluster; the list is at most `max_age_s` old."""
        import ray

        now_s = monotonic_s()
        if now_s - self._hosts_s > max_age_s:
            self._hosts = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
            self._hosts_s = now_s
            self._known |= set(self._hosts.values())
        return self._hosts

    def _bound_to(self, actor_id: str, role: Role) -> str:
        return bound_to(self._config, actor_id, role, self._own_address)

    def _waits_for(self, actor_id: str, role: Role) -> str:
        address = self._bound_to(actor_id, role)
        room = " ".join(f"{name} {amount:g}" for name, amount in needs_of(self._config, role).items()) or "a process"
        gone = sorted(self._known - set(self._hosts.values()))
        if address in gone:
            return f"host {address}, which is gone" + (
                "; what it keeps lies there" if RESIDENCE[role] is Residence.WITH_ITS_STATE else ""
            )
        lost = f"; gone: {', '.join(gone)}" if gone else ""
        return f"room for {room} on {address or 'any host'}{lost}"

    def _check_hosts(self) -> None:
        addresses = sorted(set(self._look().values()))
        if len(addresses) > 1 and (one_host := one_host_only(self._config)):
            raise ConfigError(f"{one_host}: the cluster has {len(addresses)} hosts ({', '.join(addresses)})")
        for role, chosen in self._config.placement.hosts.items():
            if strangers := sorted(set(chosen) - set(addresses)):
                raise ConfigError(
                    f"placement.hosts.{role}: {', '.join(strangers)} is no host of the cluster; "
                    f"it has {', '.join(addresses)} (addresses as Ray knows them)"
                )

    def _no_room(self, missing: dict[str, Role], timeout_s: float) -> str:
        import ray

        parts = ", ".join(f"{actor_id} ({self._waits_for(actor_id, role)})" for actor_id, role in missing.items())
        hosts = "; ".join(
            f"{node['NodeManagerAddress']}: "
            + ", ".join(f"{name} {node['Resources'].get(name, 0):g}" for name in ("CPU", "GPU"))
            for node in ray.nodes()
            if node["Alive"]
        )
        return (
            f"placement: no place within {timeout_s:.0f} s for {parts}. The hosts have, for all who use them: {hosts}. "
            "Lower rollout.num, reward.num, placement.cpus or placement.gpus, change placement.hosts, or add machines"
        )

    def _examine(self, roles: dict[tuple[str, str], set[Role]], run_dir: Path, timeout_s: float) -> list[str]:
        """The problems of these hosts (node id and address), one line each, where actors of these roles have places."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        look = ray.remote(num_cpus=0, max_retries=0)(host_problems)
        asked = {
            address: look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)).remote(
                dump_config(self._config), str(run_dir), str(Path.cwd()), fingerprint(), here
            )
            for (node_id, address), here in roles.items()
        }
        found = []
        for address, answer in asked.items():
            try:
                problems = ray.get(answer, timeout=timeout_s)
            except ray.exceptions.GetTimeoutError:
                problems = [f"no process could be started there within {timeout_s:.0f} s"]
            except ray.exceptions.RayError as error:
                problems = [f"ring-async does not start there: {str(error).strip().splitlines()[-1]}"]
            found += [f"host {address}: {problem}" for problem in problems]
        return found


def bound_to(config: Config, actor_id: str, role: Role, own_address: str) -> str:
    """The address of the one host that an actor may run on (`own_address` is the launcher's); empty: any host."""
    if chosen := config.placement.hosts.get(role):
        return chosen[ordinal_of(actor_id) % len(chosen)]
    return "" if RESIDENCE[role] is Residence.ANYWHERE and not one_host_only(config) else own_address


def one_host_only(config: Config) -> str:
    """The setting of a configuration that keeps the fleet on one host; empty: none."""
    if config.transport.host != "auto":
        return f"transport.host={config.transport.host} is the address of one host only; set transport.host=auto"
    return config.bound_to_one_host


def needs_of(config: Config, role: Role) -> dict[str, float]:
    """The resources that Ray reserves for an actor of this role, by Ray's names."""
    placement = config.placement
    needs = {"CPU": placement.cpus.get(role, 0.0), "GPU": placement.gpus.get(role, 0.0)}
    return {name: amount for name, amount in needs.items() if amount}


def bundle_of(config: Config, role: Role, address: str) -> dict[str, float]:
    """The bundle that a group asks Ray for: the needs of a role, on the host of this address if it is not empty."""
    return (needs_of(config, role) | ({f"node:{address}": MIN_SHARE} if address else {})) or {"CPU": MIN_SHARE}


def bundles_of(config: Config, role: Role, address: str) -> list[dict[str, float]]:
    """The bundles of an actor, each on a host of its own: one, but for a learner of several hosts.

    Args:
        config: of the run.
        role: of the actor.
        address: of the host that the first bundle is bound to; empty: any.
    """
    if role is not Role.LEARNER:
        return [bundle_of(config, role, address)]
    chosen = config.placement.hosts.get(role, ())
    others = [chosen[index % len(chosen)] if chosen else "" for index in range(1, config.learner.parallel.hosts)]
    return [bundle_of(config, role, one) for one in (address, *others)]


def check_state_stays(before: Config, now: Config) -> None:
    """Refuse to resume a run if its stores or checkpoints lie on other hosts than the configuration names.

    Raises:
        ConfigError: names the role and its hosts.
    """
    for role in (role for role, residence in RESIDENCE.items() if residence is Residence.WITH_ITS_STATE):
        was, will_be = (config.placement.hosts.get(role, ()) for config in (before, now))
        if was != will_be:
            raise ConfigError(
                f"placement.hosts.{role}: {', '.join(will_be) or 'the host of `up`'} holds nothing of this run; what "
                f"it keeps lies on {', '.join(was) or 'the host of `up`'}. Set it as before, or begin a new run"
            )
