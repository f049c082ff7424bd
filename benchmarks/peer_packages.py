"""Packages of peers, kept apart from ours.

TransferQueue needs hydra-core, which needs an older antlr4 runtime than our own environment has. Its packages go to
`build/bench/peers`, and only the processes that measure it see them, in front of ours: nothing of ours is replaced.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "build" / "bench" / "peers"
PACKAGES = (
    "TransferQueue==0.1.11",
    "tensordict==0.15.3",
    "hydra-core==1.3.8",
    "omegaconf==2.3.1",
    "antlr4-python3-runtime==4.9.3",
    "pyvers==0.2.3",
    "cloudpickle==3.1.2",
    "orjson",
    "importlib_metadata",
)
"""Without their dependencies: ray, torch and numpy are those of our environment."""


def peer_environment() -> dict[str, str]:
    """Environment variables for a process that may import the peers, installed on first use.

    Raises:
        SystemExit: pip could not install them; with its words.
    """
    marker = FOLDER / "installed.txt"
    wanted = "\n".join(PACKAGES)
    if not marker.exists() or marker.read_text() != wanted:
        pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--upgrade"]
        done = subprocess.run(
            [*pip, "--no-deps", "--target", str(FOLDER), *PACKAGES], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"the peers' packages could not be installed:\n{done.stderr}")
        marker.write_text(wanted)
    path = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{FOLDER}{os.pathsep}{path}" if path else str(FOLDER)}
