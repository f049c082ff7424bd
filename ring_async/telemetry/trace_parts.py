"""What processes recorded of a run, read back: joined into one timeline, and measured.

    trace/<actor>.jsonl, one for each process ──merge_traces──▶ trace.json
                                              └─busy_overlap──▶ how much two kinds of work went on at once

Owns: reading the files that `trace.Tracer` writes. Does not own where they lie (`storage.run_dir`).
Invariant: a torn or odd line costs that line alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec


def read_events(parts: Path) -> Iterator[dict[str, Any]]:
    """All events of the files in a folder, part by part, oldest file first; torn lines are left out.

    Events carry `part`, the actor whose file they were read from.
    """
    for part in sorted(parts.glob("*.jsonl")):
        for path in (part.with_name(f"{part.name}.1"), part):
            if not path.exists():
                continue
            with path.open("rb") as stream:
                for line in stream:
                    try:
                        event = msgspec.json.decode(line)
                    except (msgspec.DecodeError, UnicodeDecodeError):
                        continue
                    if isinstance(event, dict):
                        event["part"] = part.stem
                        yield event


def merge_traces(parts: Path, target: Path) -> None:
    """Join all parts into one file, which https://ui.perfetto.dev opens. Written whole or not at all.

    Processes are numbered anew, since those of two hosts may share a pid; times begin at 0.
    """
    numbers: dict[tuple[str, int], int] = {}
    start_us = min((event["ts"] for event in read_events(parts) if "ts" in event), default=0.0)
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    with fresh.open("wb") as stream:
        stream.write(b'{"displayTimeUnit":"ms","traceEvents":[')
        for index, event in enumerate(read_events(parts)):
            process = (event.pop("part"), event.get("pid", 0))
            event["pid"] = numbers.setdefault(process, len(numbers) + 1)
            if "ts" in event:
                event["ts"] = round(event["ts"] - start_us, 3)
            if "id" in event:
                event["id"] = f"{event['pid']}/{event['id']}"
            stream.write(b",\n" if index else b"\n")
            stream.write(msgspec.json.encode(event))
        stream.write(b"\n]}\n")
    fresh.replace(target)


Interval = tuple[float, float]


def busy_intervals(parts: Path, name: str) -> list[Interval]:
    """When at least one span called `name` was open anywhere: disjoint intervals in seconds since the epoch, in order.

    A span whose end was lost (a killed process) counts until its process's last event.
    """
    intervals: list[Interval] = []
    opened: dict[tuple[str, int, str], float] = {}
    last_us: dict[tuple[str, int], float] = {}
    for event in read_events(parts):
        process = (event["part"], event.get("pid", 0))
        if "ts" in event:
            last_us[process] = max(last_us.get(process, 0.0), event["ts"] + event.get("dur", 0.0))
        if event.get("name") != name:
            continue
        if event["ph"] == "X":
            intervals.append((event["ts"], event["ts"] + event["dur"]))
        elif event["ph"] == "b":
            opened[(*process, event["id"])] = event["ts"]
        elif event["ph"] == "e" and (*process, event["id"]) in opened:
            intervals.append((opened.pop((*process, event["id"])), event["ts"]))
    intervals += [(began_us, last_us[part, pid]) for (part, pid, _), began_us in opened.items()]
    return [(began / 1e6, ended / 1e6) for began, ended in _union(intervals)]


def busy_overlap(parts: Path, a: str = "generate", b: str = "train") -> float:
    """How much of the shorter of two kinds of work went on while the other did: 0 … 1.

    Seconds in which both a span `a` and a span `b` were open, in whatever processes, over the smaller of the two
    totals. 0 when either never happened. Spans must cover computing, not waiting, or the share is flattered.
    """
    first, second = busy_intervals(parts, a), busy_intervals(parts, b)
    shorter_s = min(_total(first), _total(second))
    return _total(_intersection(first, second)) / shorter_s if shorter_s > 0 else 0.0


def _union(intervals: list[Interval]) -> list[Interval]:
    merged: list[Interval] = []
    for began, ended in sorted(intervals):
        if merged and began <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], ended))
        else:
            merged.append((began, ended))
    return merged


def _intersection(first: list[Interval], second: list[Interval]) -> list[Interval]:
    """Of two lists of disjoint, ordered intervals."""
    common: list[Interval] = []
    i = j = 0
    while i < len(first) and j < len(second):
        began, ended = max(first[i][0], second[j][0]), min(first[i][1], second[j][1])
        if began < ended:
            common.append((began, ended))
        if first[i][1] < second[j][1]:
            i += 1
        else:
            j += 1
    return common


def _total(intervals: list[Interval]) -> float:
    return sum(ended - began for began, ended in intervals)
