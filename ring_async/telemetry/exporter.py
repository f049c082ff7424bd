"""`/metrics` of one process, for Prometheus to read.

Owns: one HTTP server in one thread. Binds to loopback unless told otherwise: the figures name verifiers and sources.
Invariants: after `close` neither thread, socket nor port is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry, Metric, start_http_server

from ring_async.telemetry.metrics import REGISTRY

_EVERYWHERE = ("ring_actor_", "ring_transport_", "process_")


class RoleView(CollectorRegistry):
    """The part of a registry that concerns one role, so that a learner doesn't export a rollout's zeros."""

    def __init__(self, registry: CollectorRegistry, role: str) -> None:
        super().__init__(auto_describe=False)
        self._registry = registry
        self._prefixes = (f"ring_{role}_", *_EVERYWHERE)

    def collect(self) -> Iterator[Metric]:
        return (family for family in self._registry.collect() if family.name.startswith(self._prefixes))


class Exporter:
    """Serves a registry until closed.

    Args:
        role: the actor whose metrics are served; empty: all.
        host: address to bind; loopback is the default because the endpoint has no password.
        port: 0 takes a free one.

    Raises:
        OSError: the address cannot be bound.
    """

    def __init__(
        self, role: str = "", *, host: str = "127.0.0.1", port: int = 0, registry: CollectorRegistry = REGISTRY
    ) -> None:
        view = RoleView(registry, role) if role else registry
        self._server, self._thread = start_http_server(port, addr=host, registry=view)
        self.host = host
        self.port = int(self._server.server_port)

    @property
    def endpoint(self) -> str:
        """`host:port`, as a scrape target is written."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def close(self) -> None:
        """Stop serving. Idempotent."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
