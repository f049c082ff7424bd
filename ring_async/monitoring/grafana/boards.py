"""All boards, in the order in which people read them."""

from __future__ import annotations

from ring_async.monitoring.grafana.data import DATA
from ring_async.monitoring.grafana.fleet import FLEET
from ring_async.monitoring.grafana.learning import LEARNING
from ring_async.monitoring.grafana.panels import Board

BOARDS: tuple[Board, ...] = (FLEET, LEARNING, DATA)
