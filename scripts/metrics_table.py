"""Put the table of all metrics between its markers in docs/monitoring.md. `--check` refuses a table that is behind."""

from __future__ import annotations

import sys
from pathlib import Path

from ring_async.telemetry.metrics import declarations

DOCUMENT = Path(__file__).parents[1] / "docs" / "monitoring.md"
BEGIN, END = "<!-- metrics: begin -->\n", "<!-- metrics: end -->"


def table() -> str:
    """One line for each declared metric."""
    lines = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{one.name}` | {one.kind} | {', '.join(one.labels) or '–'} | {one.meaning} |" for one in declarations()
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    text = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    written = before + BEGIN + table() + END + rest.partition(END)[2]
    if "--check" in sys.argv[1:]:
        if written != text:
            print(f"{DOCUMENT.name} is behind the metrics; run: python scripts/metrics_table.py", file=sys.stderr)  # noqa: T201
        return int(written != text)
    DOCUMENT.write_text(written, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
