"""Prometheus' HTTP API, as tests ask it."""

from __future__ import annotations

import math
from typing import Any

import httpx


class PrometheusApi:
    """Answers of one Prometheus."""

    def __init__(self, url: str) -> None:
        self._url = url

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The vector that an expression gives now.

        Raises:
            AssertionError: it does not parse, or cannot be evaluated.
        """
        found: list[dict[str, Any]] = self._get("/api/v1/query", query=expression)["result"]
        return found

    def series(self, expression: str, start_s: float, end_s: float, step_s: float) -> list[dict[str, Any]]:
        """The matrix that an expression gives over a time."""
        found: list[dict[str, Any]] = self._get(
            "/api/v1/query_range", query=expression, start=start_s, end=end_s, step=step_s
        )["result"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        """All rules, with their health."""
        return [rule for group in self._get("/api/v1/rules")["groups"] for rule in group["rules"]]

    def has_data(self, expression: str) -> bool:
        """Whether an expression gives a number now."""
        return any(math.isfinite(float(one["value"][1])) for one in self.query(expression))

    def _get(self, path: str, **parameters: Any) -> Any:
        answer = httpx.get(self._url + path, params=parameters, timeout=10.0, trust_env=False).json()
        assert answer["status"] == "success", f"{parameters}: {answer.get('error')}"
        return answer["data"]
