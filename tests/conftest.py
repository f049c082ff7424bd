"""What holds for every test: nothing it started may outlive it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import pytest

from ring_async.testing.leaks import leaks_since, take_census

hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.register_profile("search", deadline=None, max_examples=2_000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
"""A change is judged on the same examples every time; `make fuzz` searches for new ones."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "may_leak(reason): something outlives this test on purpose; the reason says what and why"
    )


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a process, thread, file descriptor or shared-memory segment.

    Fixtures of a wider scope exist before the first census, and are nobody's leak.
    """
    marker = request.node.get_closest_marker("may_leak")
    if marker is not None:
        assert marker.args or marker.kwargs, "may_leak needs a reason"
        yield
        return
    before = take_census()
    yield
    leaks = leaks_since(before)
    if leaks:
        pytest.fail("left behind:\n  " + "\n  ".join(leaks), pytrace=False)
