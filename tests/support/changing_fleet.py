"""A fleet in one process whose mixture, settings and size tests change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from one_process_run import make_live_fleet
from ring_async.testing.one_process import OneProcessFleet

TOKEN_BUDGET = 512
MAX_STALENESS = 4
SOURCES = {name: {"task": "chain_sum", "verifier": "exact"} for name in ("sums", "letters", "poems")}


def make_fleet(runs: Path, **overrides: Any) -> OneProcessFleet:
    settings: dict[str, Any] = {
        "stop__policy_versions": 40,
        "budget__token_budget": TOKEN_BUDGET,
        "sources": SOURCES,
        "replay__max_staleness": MAX_STALENESS,
    }
    return make_live_fleet(runs, **(settings | overrides))
