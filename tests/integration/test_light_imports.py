"""What a laptop's `ring-async check` must not load: in a fresh interpreter, since this one has loaded everything."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "ray", "zmq", "asyncio")


@pytest.mark.parametrize("module", ["config.load", "config.schema", "types", "errors"])
def test_importing_it_loads_no_heavy_library(module: str):
    code = f"import sys, ring_async.{module}; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == []
