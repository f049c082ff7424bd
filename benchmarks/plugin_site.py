"""Lets SGLang find our plugin where ring-async is on the path, but not installed: hosts without a package index."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path

from ring_async.engines.sglang.plugin import NAME

GROUP = "sglang.srt.plugins"


def make_plugin_found(folder: Path) -> None:
    """Put a description of the package into a folder on the path of this process and of those it starts, if needed."""
    if NAME in {point.name for point in importlib.metadata.entry_points(group=GROUP)}:
        return
    description = folder / "ring_async-0.dist-info"
    description.mkdir(parents=True, exist_ok=True)
    (description / "METADATA").write_text("Metadata-Version: 2.1\nName: ring-async\nVersion: 0\n")
    (description / "entry_points.txt").write_text(f"[{GROUP}]\n{NAME} = ring_async.engines.sglang.plugin:register\n")
    sys.path.append(str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), str(folder)]))
