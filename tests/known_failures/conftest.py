"""Everything here fails today, by a fault that is known: a test that passes here is mended, and moves to its room."""

from __future__ import annotations

import logging

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "known_failures" in item.path.parts:
            item.add_marker(pytest.mark.xfail(strict=True, reason="a known failure: tests/known_failures/README.md"))
    logging.getLogger().setLevel(logging.WARNING)  # these files silence the root logger when they are imported
