"""What betrays that somebody unpickles a file: unpickled, it makes a folder."""

from __future__ import annotations

import os
from pathlib import Path


class Touch:
    """Args: `path` of the folder that is made."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)
