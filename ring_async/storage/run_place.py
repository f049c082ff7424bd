"""Whether a run's folder can be made where the configuration wants it.

Owns: the trial, and the sentence about its failure. Leaves nothing behind. Does not own the folder's layout
(`run_dir`).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from ring_async.errors import ConfigError


def check_run_place(folder: Path) -> None:
    """Make and remove a folder in the nearest folder above that exists.

    Permissions alone would say little to root, on a read-only disk or in /proc.

    Args:
        folder: `<run.dir>/<run.name>`.

    Raises:
        ConfigError: the folder cannot be made or written to.
    """
    folder = folder.absolute()
    above = folder
    try:
        while not _exists(above):
            above = above.parent
        with tempfile.TemporaryDirectory(prefix=".ring-async-", dir=above):
            pass
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise ConfigError(f"run.dir: {folder} cannot be made in {above}: {reason}; choose another run.dir") from None


def _exists(place: Path) -> bool:
    """Whether something is there, a dangling link too.

    Raises:
        OSError: a name is too long, or links lead in a circle: nothing can be made there.
    """
    try:
        place.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
