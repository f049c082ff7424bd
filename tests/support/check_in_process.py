"""`ring-async check`, called in this process by the same path as from a shell, with what it prints."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from ring_async.cli.app import main


def check(path: Path, *overrides: str, command: str = "check") -> tuple[object, str]:
    """The exit code, and all that was printed on both streams. An exception that gets out is one of ours to see."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            main([command, str(path), *overrides])
        except SystemExit as ended:
            return ended.code or 0, printed.getvalue()
    return 0, printed.getvalue()
