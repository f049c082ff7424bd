"""`ring-async check`, called in this process by the same path as from a shell, with what it prints."""

from __future__ import annotations

import io
from pathlib import Path

from ring_async.cli import options
from ring_async.cli.app import main


def check(path: Path, *overrides: str, command: str = "check") -> tuple[object, str]:
    """The exit code, and all that was printed on both streams. An exception that gets out is one of ours to see."""
    printed = io.StringIO()
    consoles = (options.out, options.err)
    before = [console.file for console in consoles]
    for console in consoles:
        console.file = printed
    try:
        main([command, str(path), *overrides])
        return 0, printed.getvalue()
    except SystemExit as ended:
        return ended.code or 0, printed.getvalue()
    finally:
        for console, file in zip(consoles, before, strict=True):
            console.file = file
