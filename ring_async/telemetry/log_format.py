"""The log file of a process, printable: whatever a message quotes, `cat` and `less -R` on the file do no harm."""

from __future__ import annotations

import logging
import logging.handlers
from pathlib import Path

from ring_async.printable import printable


class PrintableFormatter(logging.Formatter):
    """A formatter whose output, tracebacks included, is `printable`."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def log_to_file(path: Path) -> None:
    """Send all that this process logs, warnings included, to one file, which is rotated."""
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=16 << 20, backupCount=3)
    handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
