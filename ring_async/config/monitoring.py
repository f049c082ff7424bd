"""The configuration of what people watch a run with: metrics, Prometheus, Grafana, and services that log figures.

Owns: the keys under `monitoring`. Does not own the services (`monitoring.prometheus`, `monitoring.grafana`,
`telemetry.sinks`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ring_async.config.section import PositiveFloat, Section
from ring_async.errors import ConfigError

TOKEN_VARIABLE = "GRAFANA_TOKEN"  # noqa: S105 - the name of a variable


class GrafanaSection(Section):
    """Where boards and annotations go. Without `url` and `managed` nothing is sent."""

    url: Annotated[str, Field(pattern=r"^(https?://[^\s]+)?$")] = Field(
        "", description="Of a Grafana to push to; its token is in token_file or $GRAFANA_TOKEN."
    )
    token_file: str = Field("", description="File with a service account's token (role Editor; Admin for the source).")
    folder: str = Field("ring-async", description="Grafana's folder for the boards.")
    prometheus_url: str = Field("", description="Prometheus as Grafana reaches it; empty: the managed one, if any.")
    managed: bool = Field(False, description="Start the grafana-server found on PATH, and stop it with the run.")

    @property
    def is_wanted(self) -> bool:
        return bool(self.url) or self.managed

    def token(self) -> str:
        """The token for `url`: from `token_file`, else from the environment; empty if there is neither.

        Raises:
            ConfigError: the file cannot be read.
        """
        if not self.token_file:
            return os.environ.get(TOKEN_VARIABLE, "")
        try:
            return Path(self.token_file).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"monitoring.grafana.token_file: {error}; or set ${TOKEN_VARIABLE}") from error


class MonitoringSection(Section):
    prometheus: bool | Literal["managed"] = Field(
        True, description="Serve /metrics from every actor; managed: also start the Prometheus found on PATH."
    )
    scrape_s: PositiveFloat = Field(10.0, description="Time between two scrapes, in the run's prometheus.yml.")
    grafana: GrafanaSection = GrafanaSection()
    tensorboard: bool = Field(False, description="Write figures for TensorBoard into the run's folder.")
    wandb: str = Field("", description="Project of Weights & Biases; empty: none. WANDB_MODE=offline keeps it here.")
    heartbeat_s: PositiveFloat = 1.0
    heartbeat_timeout_s: PositiveFloat = Field(30.0, description="Silent for longer: the actor counts as dead.")
    trace: bool = Field(True, description="Write trace.json (Perfetto).")

    def problems(self) -> Iterator[str]:
        """Problems between the keys of this section, one line each."""
        if self.grafana.url and self.grafana.managed:
            yield "monitoring.grafana: url and managed exclude each other: push to a Grafana, or start one"
        elif self.prometheus is False and self.grafana.is_wanted:
            yield "monitoring.prometheus: false, so the boards of monitoring.grafana would be empty; set it to true"
        if self.heartbeat_timeout_s <= self.heartbeat_s:
            yield (
                f"monitoring.heartbeat_timeout_s: {self.heartbeat_timeout_s:g} is not above monitoring.heartbeat_s "
                f"{self.heartbeat_s:g}; every actor would count as dead"
            )
