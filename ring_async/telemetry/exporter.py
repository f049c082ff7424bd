"""`/metrics` of one process, for Prometheus to read.

Owns: one HTTP server in one thread. Binds to loopback unless told otherwise: the figures name verifiers and sources.
Invariants: after `close` neither thread, socket nor port is left. The answer is Prometheus' plain text, uncompressed,
whatever is asked for: OpenMetrics costs twice the processor time for the same figures, and Prometheus reads both.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable, Iterator
from socketserver import ThreadingMixIn
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Metric, make_wsgi_app

from ring_async.telemetry.metrics import REGISTRY

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

_EVERYWHERE = ("ring_actor_", "ring_transport_", "process_")


class RoleView(CollectorRegistry):
    """The part of a registry that concerns one role, so that a learner doesn't export a rollout's zeros."""

    def __init__(self, registry: CollectorRegistry, role: str) -> None:
        super().__init__(auto_describe=False)
        self._registry = registry
        self._prefixes = (f"ring_{role}_", *_EVERYWHERE)

    def collect(self) -> Iterator[Metric]:
        # By the names of the collectors, which the registry has no public list of: collecting all families, to drop
        # those of other roles, was half of a scrape's cost.
        # A collector that does not say its names, like that of the process's own figures, is asked all the same.
        for collector, names in list(self._registry._collector_to_names.items()):
            if not names or any(name.startswith(self._prefixes) for name in names):
                yield from (family for family in collector.collect() if family.name.startswith(self._prefixes))


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base class
        """A scrape is no news."""


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
        answer = make_wsgi_app(RoleView(registry, role) if role else registry, disable_compression=True)

        def plain(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            environ.pop("HTTP_ACCEPT", None)
            content: Iterable[bytes] = answer(environ, start_response)
            return content

        kind = _Server6 if ":" in host else _Server
        self._server = make_server(host, port, plain, server_class=kind, handler_class=_Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()
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
