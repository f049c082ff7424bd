"""The mutation fuzzer, as long as CI can afford; `make fuzz` runs twenty times as many frames."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("seed", [20_250_614])
def test_fifty_thousand_mutated_frames_harm_nothing(seed: int) -> None:
    fuzzer = _load_fuzzer()
    logging.disable(logging.WARNING)
    try:
        report = asyncio.run(fuzzer.fuzz(50_000, seed))
    finally:
        logging.disable(logging.NOTSET)
    assert report.frames >= 50_000
    assert report.accepted > 100, "mutations that never get in test only the door"
    expected = {"truncated", "malformed", "invalid", "unknown_type", "wrong_version", "nesting", "too_many_frames"}
    assert expected <= set(report.causes)
    assert {"frame_too_large", "header_too_large"} & set(report.causes)


def _load_fuzzer():  # type: ignore[no-untyped-def]
    """`tests` is no package: the fuzzer is loaded from where it lies."""
    path = Path(__file__).parents[1] / "support" / "fuzz_transport.py"
    spec = importlib.util.spec_from_file_location("fuzz_transport", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
