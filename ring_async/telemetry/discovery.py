"""Where Prometheus finds the fleet: HTTP service discovery, and the scrape configuration that reads it.

Owns: the two documents. The controller serves the first from its member list, so an actor that joins or moves is
scraped without anybody editing a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import yaml


class Scraped(Protocol):
    """What discovery needs of a member (`transport.messages.fleet.Member` fits)."""

    @property
    def actor_id(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def metrics_endpoint(self) -> str: ...


def scrape_targets(members: Iterable[Scraped], *, run: str) -> list[dict[str, Any]]:
    """Prometheus `http_sd` JSON: one entry for each member that serves metrics, in the order of their ids.

    The incarnation is no label, because every restart would then end all series.
    """
    return [
        {
            "targets": [member.metrics_endpoint],
            "labels": {"run": run, "role": member.role, "actor": member.actor_id},
        }
        for member in sorted(members, key=lambda member: member.actor_id)
        if member.metrics_endpoint
    ]


def prometheus_config(
    discovery_url: str,
    *,
    token_file: str = "",
    scrape_interval_s: float = 10.0,
    rule_files: Sequence[str] = (),
    ca_file: str = "",
) -> str:
    """A `prometheus.yml` that scrapes whatever the controller lists.

    Args:
        discovery_url: of the controller's service discovery.
        token_file: path of the control token, as Prometheus sees it; empty: no authorization.
        scrape_interval_s: also how soon a new member is found.
        rule_files: with recording and alert rules, relative to the configuration.
        ca_file: of the controller's certificate, where its API speaks HTTPS.
    """
    discovery: dict[str, Any] = {"url": discovery_url, "refresh_interval": f"{scrape_interval_s:g}s"}
    if token_file:
        discovery["authorization"] = {"type": "Bearer", "credentials_file": token_file}
    if ca_file:
        discovery["tls_config"] = {"ca_file": ca_file}
    interval = f"{scrape_interval_s:g}s"
    document: dict[str, Any] = {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        **({"rule_files": list(rule_files)} if rule_files else {}),
        "scrape_configs": [
            {
                "job_name": "ring-async",
                "http_sd_configs": [discovery],
                # One name for an actor over all its restarts, though its port changes.
                "relabel_configs": [{"source_labels": ["actor"], "target_label": "instance"}],
            }
        ],
    }
    text: str = yaml.safe_dump(document, sort_keys=False)
    return text
