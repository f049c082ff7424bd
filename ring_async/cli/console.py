"""The console of the command line: whatever is printed, no text reaches the terminal as a command.

Owns: the last step before the terminal. Rich's own colours and cursor moves pass; characters of text that a terminal
would obey are replaced (`printable`), in tables, panels, live displays and errors alike.
Rejected: replacing at each place that prints; one is forgotten, and texts of people and models come from everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from ring_async.printable import printable


class SafeConsole(Console):
    r"""A rich console whose texts are `printable` and never read as markup: style a `Text` instead.

    out = SafeConsole()
    out.print("\\x1b]52;c;aGk=\\x07 [link=x]")     # shows ␛]52;c;aGk=␇ [link=x]; the clipboard stays as it was
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of a renderable. Rich calls this for each part of a table or panel, before widths are fixed."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)

    def print_plain(self, plain: Any) -> None:
        """Print plain data as JSON for scripts: exactly the data, with every character beyond ASCII escaped."""
        self.print_json(json.dumps(plain, default=str), ensure_ascii=True)
