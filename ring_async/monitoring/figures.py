"""Figures as people read them on a terminal.

Owns: how shares, numbers and times are written. An unknown figure is written as a dash.
"""

from __future__ import annotations

from typing import Any

from rich.text import Text

BAR_WIDTH = 20
"""Characters."""


def bar(share: float) -> Text:
    """A bar of `BAR_WIDTH` characters, of which `share` (0 to 1) are filled."""
    filled = round(min(1.0, share) * BAR_WIDTH)
    return Text().append("━" * filled, style="cyan").append("━" * (BAR_WIDTH - filled), style="bright_black")


def number(value: Any, form: str = ",.0f") -> str:
    """A number in a format of `format`; a dash for anything else."""
    return format(value, form) if isinstance(value, int | float) else "–"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 100 else f"{minutes / 60:.1f} h"
