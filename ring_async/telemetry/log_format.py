"""How a line of a log file is written: whatever a message quotes, `cat` and `less -R` on the file do no harm."""

from __future__ import annotations

import logging

from ring_async.printable import printable


class PrintableFormatter(logging.Formatter):
    """A formatter whose output, tracebacks included, is `printable`."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))
