"""Everything here fails today, by a fault that is known: a test that passes here is mended, and moves to its room."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

ROOT = logging.getLogger()


@pytest.fixture(autouse=True)
def root_level_restored() -> Iterator[None]:
    """Some of these files silence the root logger, when they are imported or while they run: for themselves alone."""
    level = ROOT.level
    yield
    ROOT.setLevel(level)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "known_failures" in item.path.parts:
            item.add_marker(pytest.mark.xfail(strict=True, reason="a known failure: tests/known_failures/README.md"))
    ROOT.setLevel(logging.WARNING)  # what importing these files has set
