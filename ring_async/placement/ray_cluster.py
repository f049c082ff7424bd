"""Ray: a cluster of the run's own on this machine, or the one that RAY_ADDRESS names; one Ray actor for each of ours.

Owns: joining or starting Ray, starting a process at a place, and the cause of its end. Does not own the choice of the
place (`places`), nor restarts: Ray's own are off.
Invariant: Ray carries launches and exits, no data of the run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ring_async.config.schema import Config
from ring_async.core.roster import ActorSpec
from ring_async.errors import ConfigError
from ring_async.placement.actor_process import ActorLaunch, live_actor

KNOCK_TIMEOUT_S = 5.0

OBJECT_STORE_BYTES = 80 << 20
"""Size of the object store of a cluster that the run starts; ring-async puts nothing there."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place where a process may start. The default is this machine.

    Attributes:
        address: of the host, as the cluster knows it; empty: the one machine.
        node_id: Ray's name for the host.
        is_launchers: whether the host is the launcher's own.
        options: what Ray is told when the process starts.
    """

    address: str = ""
    node_id: str = ""
    is_launchers: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Process:
    """One actor's process, alive or not."""

    spec: ActorSpec
    place: Place
    _handle: Any
    _result: Any

    def end_cause(self, *, timeout_s: float = 0.0) -> str | None:
        """Why the process ended; None while it lives."""
        import ray

        done, _ = ray.wait([self._result], timeout=timeout_s)
        if not done:
            return None
        try:
            ray.get(self._result)
        except ray.exceptions.RayTaskError as error:
            return str(error.cause or error).strip().splitlines()[-1]
        except ray.exceptions.RayError:
            return "its process was killed"
        return "returned"

    def kill(self) -> None:
        import ray

        ray.kill(self._handle)


def start_process(launch: ActorLaunch, place: Place, config: Config) -> Process:
    """Start one actor; returns at once."""
    options = {
        "num_cpus": config.placement.cpus.get(launch.spec.role, 0.0),
        "num_gpus": config.placement.gpus.get(launch.spec.role, 0.0),
        "max_restarts": 0,
    }
    handle = _host_class().options(**options, **place.options).remote()  # type: ignore[attr-defined]
    return Process(launch.spec, place, handle, handle.live.remote(launch))


def has_cluster() -> bool:
    """Whether the run joins an existing cluster instead of starting one on this machine."""
    return "RAY_ADDRESS" in os.environ


def num_cpus(config: Config) -> int:
    """CPUs of a cluster of the run's own."""
    return config.placement.num_cpus or os.cpu_count() or 1


def num_gpus() -> int:
    """GPUs of this machine that a process started here may use."""
    import torch

    return torch.cuda.device_count()


def placement_problems(config: Config, there: Mapping[str, float], where: str) -> list[str]:
    """The reasons why a fleet can never be placed, one line each: what is needed, by which actors, and what there is.

    Args:
        config: of the run, with the resources of each role.
        there: the resources that exist, by Ray's names (`CPU`, `GPU`); a name that is missing is not checked.
        where: the machine or cluster that has them, for the message.
    """
    problems = []
    placement = config.placement
    for key, ray_name, share in (("cpus", "CPU", placement.cpus), ("gpus", "GPU", placement.gpus)):
        needs = config.needs(share)
        needed = sum(needs.values())
        if needed > there.get(ray_name, float("inf")) + 1e-6:
            parts = ", ".join(f"{role} {amount:g}" for role, amount in needs.items() if amount)
            problems.append(
                f"placement.{key}: the fleet needs {needed:g} ({parts}), {where} has {there[ray_name]:g}; "
                f"lower rollout.num, reward.num, learner.parallel or placement.{key}, or add machines"
            )
    return problems


def problems_here(config: Config) -> list[str]:
    """The reasons why the fleet cannot be placed that show before Ray is joined, one line each.

    The hosts and resources of an existing cluster are checked after it is joined.
    """
    if has_cluster():
        return []
    there = {"CPU": float(num_cpus(config))}
    if config.placement.gpus:
        there["GPU"] = float(num_gpus())
    problems = placement_problems(config, there, "this machine")
    if config.learner.parallel.hosts > 1:
        problems.append("learner.parallel.hosts: needs a Ray cluster; say where it is with RAY_ADDRESS")
    if config.placement.hosts:
        problems.append("placement.hosts: names hosts of a Ray cluster; say where it is with RAY_ADDRESS")
    return problems


@contextlib.contextmanager
def ray_cluster(config: Config) -> Iterator[dict[str, float]]:
    """Join the cluster that RAY_ADDRESS names, or run one on this machine alone that ends with the block.

    Yields:
        The resources of all its hosts together, by Ray's names.

    Raises:
        ConfigError: there is no such cluster, or this host is not part of it.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 would let any other process starve the fleet
    if not has_cluster():
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray's one switch for a node at 127.0.0.1, on Linux too
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    elif os.environ["RAY_ADDRESS"].startswith("ray://"):
        raise ConfigError(
            "RAY_ADDRESS: ray:// is for remote clients; run `up` on a host of the cluster, with host:port"
        )
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": config.run.name}
    if not has_cluster():
        options |= {
            "num_cpus": num_cpus(config), "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES,
            "address": "local",  # whatever other Ray runs here, or has left its address behind
        }  # fmt: skip
    try:
        if has_cluster():
            _knock(os.environ["RAY_ADDRESS"])
        ray.init(**options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        why = str(error).strip().partition("\n")[0]
        if not has_cluster():
            raise ConfigError(f"Ray cannot be started on this machine: {why}; its logs are in /tmp/ray") from error
        raise ConfigError(
            f"RAY_ADDRESS: no cluster to join at {os.environ['RAY_ADDRESS']}: {why}; "
            "start it with `ray start`, on this host too (docs/cluster.md)"
        ) from error
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Find out within seconds whether anybody listens at `host:port`: Ray itself would try for minutes.

    Raises:
        OSError: nobody does.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():  # not `auto`
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_TIMEOUT_S).close()


def _host_class() -> Any:
    """The class of the Ray actor that hosts one of our actors; made late, since importing Ray takes time."""
    import ray

    class Host:
        """One process. Ray's own restarts are off: the controller decides."""

        def live(self, launch: ActorLaunch) -> None:
            live_actor(launch)

    return ray.remote(Host)
