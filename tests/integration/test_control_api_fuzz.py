"""The control API of a fleet at work, called with whatever its own schema allows and forbids: never a 5xx.

The fleet is the real controller and the real actors in one process (scripted engines), the API is served over HTTP. All
that is kept from callers is the end of the run.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from one_process_run import EVEN_TOTAL
from ring_async.config.schema import ControlSection
from ring_async.control.api import make_app, serve
from ring_async.testing.builders import make_config
from ring_async.testing.one_process import OneProcessFleet

TOKEN = "fuzz" * 10
NUM_EXAMPLES = 20
"""Calls of each route with data that its schema allows, and as many with data that it forbids."""
CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance]


class ServedFleet:
    """A fleet that trains in a thread of its own until `end`, its API at `url`."""

    def __init__(self, runs: Path) -> None:
        config = make_config(
            stop__policy_versions=1_000_000,
            verifiers={"exact": {"use": EVEN_TOTAL, "options": {"delay_s": 0.01}}},
            replay__map_size_bytes=64 << 20,
        )
        self.fleet = OneProcessFleet(config, runs, token_s=0.02)
        self.ends_asked: list[float] = []
        self._url: Future[str] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()), name="fleet")
        self._thread.start()
        self.url = self._url.result(30)

    async def _live(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        running = asyncio.create_task(self.fleet.run())
        while "controller-0" not in self.fleet.actors:
            await asyncio.sleep(0.01)
        controller = self.fleet.controller
        shut_down, controller.shut_down = controller.shut_down, lambda _, deadline_s: self.ends_asked.append(deadline_s)
        scale = controller.changes.scale  # a fleet of 100,000 is a valid wish, but not one for this process
        controller.changes.scale = lambda role, num, author: scale(role, min(num, 3), author=author)
        limits = ControlSection(max_requests_per_s=10_000)
        async with serve(make_app(controller, TOKEN, "fuzz", limits), limits) as url:
            self._url.set_result(url)
            ended = asyncio.create_task(self._ended.wait())
            await asyncio.wait([ended, running], return_when=asyncio.FIRST_COMPLETED)
            controller.shut_down = shut_down
            controller.shut_down("fuzzed enough", 5.0)
            assert await running == ""
            ended.cancel()

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ServedFleet]:
    fleet = ServedFleet(tmp_path)
    yield fleet
    fleet.end()


def test_no_call_is_answered_with_5xx(served: ServedFleet):
    owner = {"authorization": f"Bearer {TOKEN}"}
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json", headers=owner)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) >= 7
    answered: set[int] = set()
    for operation in operations:
        for mode in schemathesis.GenerationMode:
            if mode.is_negative and not _has_parameters(operation):
                continue

            @hypothesis.settings(
                max_examples=NUM_EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
            )
            @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
            def call(case: schemathesis.Case) -> None:
                response = case.call(headers=owner)
                case.validate_response(response, checks=CHECKS)
                answered.add(response.status_code)

            call()
    assert {200, 422} <= answered <= {200, 400, 409, 422}
    assert served.ends_asked, "no valid call of `down` was made"
    assert all(0 < deadline_s <= 3600 for deadline_s in served.ends_asked)
    assert served.fleet.controller.status().plain()["state"] in {"running", "paused"}


def _has_parameters(operation: Any) -> bool:
    return bool(operation.body or operation.query)
