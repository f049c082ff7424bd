"""The boards and rules as files: for Grafana's and Prometheus' own provisioning, and for the repository.

Owns: the names of the files. Does not own their content (`grafana.build`, `rules.yaml`).
Invariant: the same release writes the same bytes, so that a difference means that a file was edited or is behind.
"""

from __future__ import annotations

from pathlib import Path

from ring_async.monitoring.grafana.boards import BOARDS
from ring_async.monitoring.grafana.build import board_json
from ring_async.monitoring.prometheus import rules_text


def exported_files() -> dict[str, str]:
    """Contents by path, relative to the folder of the export."""
    return {"rules.yaml": rules_text()} | {f"dashboards/{board.uid}.json": board_json(board) for board in BOARDS}


def export(folder: Path) -> list[Path]:
    """Write all files; returns their paths."""
    written = []
    for name, content in exported_files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        written.append(path)
    return written


def differing(folder: Path) -> list[str]:
    """The files of an export that are missing or differ from what this release would write."""
    return [
        name
        for name, content in exported_files().items()
        if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != content
    ]
