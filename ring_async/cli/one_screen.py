"""A long message cut to what one screen holds, so that its beginning is still there to be read.

Owns: the cut. Does not own the message, nor how it is printed (`console`).
"""

from __future__ import annotations

from rich.cells import cell_len

ROWS, COLUMNS = 22, 100
"""Two rows less than the smallest usual terminal has: for the command above, and the prompt below."""

_LONGEST = 4 * COLUMNS
"""Of one line. The end is kept, where the remedy stands; what is cut is the middle of a list."""


def one_screen(message: str) -> str:
    """The message's first lines, as many as fit, and the number of those left out."""
    kept: list[str] = []
    lines = list(dict.fromkeys(message.splitlines()))
    rows = 1
    for line in lines:
        shown = line if len(line) <= _LONGEST else f"{line[: _LONGEST * 3 // 4]} … {line[-_LONGEST // 4 :]}"
        rows += -(-(cell_len(shown) + len("error: ")) // COLUMNS)
        if kept and rows > ROWS:
            break
        kept.append(shown)
    left_out = len(lines) - len(kept)
    return "\n".join(kept + ([f"… and {left_out} more; mend these first"] if left_out else []))
