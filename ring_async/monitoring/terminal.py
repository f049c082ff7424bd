"""The fleet on a terminal: `status`, `status --watch`, and the line that `up` shows while a run goes on.

Owns: what is shown and how. Works on plain data alone: the controller's status (`Controller.status`) and lines of
`metrics.jsonl`. Every key may be missing; what is not known is shown as a dash.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ring_async.core.states import ActorState, RunState
from ring_async.errors import RingAsyncError

Status = Mapping[str, Any]

_STATE_STYLES: dict[str, str] = {
    RunState.RUNNING: "green",
    RunState.FINISHED: "green",
    RunState.PAUSED: "yellow",
    RunState.STOPPING: "yellow",
    ActorState.RUNNING: "green",
    ActorState.DONE: "green",
    ActorState.STARTING: "yellow",
    ActorState.WAITING: "yellow",
}
"""Any other state is shown in red."""
_LONG_WAIT_S = 30.0
_SILENT_S = 5.0
_BAR_WIDTH = 20


def show_status(status: Status, out: Console) -> None:
    """Print a status once."""
    out.print(render_status(status))


def watch_status(
    fetch: Callable[[], Status], out: Console, *, every_s: float = 1.0, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Show the status anew every `every_s` until Ctrl-C, or until the run can't be asked any more.

    Args:
        fetch: asks for the status; a `RingAsyncError` ends watching with its message below the last status.
        out: where to draw.
        every_s: how often to ask.
        sleep: waits; for tests.
    """
    shown: RenderableType = Text("asking …", style="dim")
    with Live(shown, console=out, auto_refresh=False) as live:
        try:
            while True:
                shown = render_status(fetch())
                live.update(shown, refresh=True)
                sleep(every_s)
        except RingAsyncError as error:
            live.update(Group(shown, Text(f"\n{error}", style="yellow")), refresh=True)
        except KeyboardInterrupt:
            pass


def render_status(status: Status) -> RenderableType:
    """The whole picture: the run, its actors and what each waits for, figures, rewards, the ledger, last events."""
    parts: list[RenderableType] = [_headline(status), _actors(status.get("actors") or ())]
    step = status.get("last_step") or {}
    if step:
        parts += [Text(), _figures(step, status.get("buffer") or {})]
        if step.get("reward_by_source"):
            parts += [Text(), _rewards(step["reward_by_source"])]
    if (status.get("changes") or {}).get("mixture"):
        parts += [Text(), Text("mixture ", style="dim").append(mixture_line(status["changes"]))]
    if status.get("last_evaluation"):
        parts += [Text(), _evaluation(status["last_evaluation"])]
    if status.get("ledger"):
        parts += [Text(), _counts("ledger", status["ledger"])]
    if status.get("causes"):
        parts.append(_counts("causes", status["causes"]))
    if status.get("events"):
        parts += [Text(), _events(status["events"])]
    return Group(*parts)


def mixture_line(changes: Mapping[str, Any]) -> str:
    """Each source's share of completed tokens, and its difficulty window if it has one."""
    windows: Mapping[str, Mapping[str, Any]] = changes.get("difficulty") or {}
    shares: Mapping[str, float] = changes.get("mixture") or {}
    return ", ".join(
        f"{name} {share:.0%}" + (f" ({_window(windows[name])})" if name in windows else "")
        for name, share in shares.items()
    )


def _window(window: Mapping[str, Any]) -> str:
    low, high = (_number(window.get(key), "g") for key in ("low", "high"))
    return f"{window.get('by')} {low} to {high}, {_number(window.get('num_passed'))} passed over"


def _headline(status: Status) -> Text:
    state = str(status.get("state", "–"))
    version, last = status.get("policy_version"), status.get("policy_versions")
    remaining_s = status.get("remaining_s")
    return Text.assemble(
        (str(status.get("run", "–")), "bold"),
        "  ",
        (state, _STATE_STYLES.get(state, "red")),
        (f" ({status['reason']})" if status.get("reason") else "", "dim"),
        "  ",
        _bar(version / last if version is not None and last else 0.0),
        f"  version {_number(version)} of {_number(last)}",
        (f"  {_duration(remaining_s)} left" if remaining_s is not None and state == RunState.RUNNING else "", "dim"),
        (f"  checkpoint of {_number(status['checkpoint'].get('version'))}" if status.get("checkpoint") else "", "dim"),
    )


def _actors(actors: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    has_hosts = len({actor["host"] for actor in actors if actor.get("host")}) > 1
    for name in ("actor", "state", "waits for", "heard", "version", "pid", *(["host"] if has_hosts else [])):
        table.add_column(name, no_wrap=name != "waits for")
    for actor in actors:
        state = str(actor.get("state", "–"))
        counters = actor.get("counters") or {}
        restarts = f" (start {actor['incarnation'] + 1})" if actor.get("incarnation") else ""
        table.add_row(
            Text(str(actor.get("actor_id", "–")) + restarts),
            Text(state, style=_STATE_STYLES.get(state, "red")),
            _wait(actor),
            _age(actor.get("heartbeat_age_s")),
            _number(counters.get("policy_version")),
            str(actor.get("pid") or "–"),
            *([str(actor.get("host") or "–")] if has_hosts else []),
        )
    return table


def _wait(actor: Mapping[str, Any]) -> Text:
    whom, waited_s = actor.get("waiting_for") or "", actor.get("waited_s") or 0.0
    if not whom:
        return Text("–", style="dim")
    return Text(f"{whom}, {_duration(waited_s)}", style="yellow" if waited_s > _LONG_WAIT_S else "")


def _age(seconds: float | None) -> Text:
    if seconds is None:
        return Text("never", style="yellow")
    return Text(f"{seconds:.1f} s ago", style="red" if seconds > _SILENT_S else "dim")


def _figures(step: Mapping[str, Any], buffer: Mapping[str, Any]) -> Text:
    staleness = f"{_number(step.get('staleness_mean'), '.1f')} mean, {_number(step.get('staleness_max'))} max"
    pairs = (
        ("generated", f"{_number(step.get('generated_tokens_per_s'))} tokens/s"),
        ("trained", f"{_number(step.get('tokens_per_s'))} tokens/s"),
        ("staleness", staleness),
        ("buffer", f"{_number(buffer.get('buffer_tokens', step.get('buffer_tokens')))} tokens"),
        ("entropy", _number(step.get("entropy"), ".3f")),
        ("ESS", _number(step.get("effective_sample_size"), ".3f")),
        ("reward", _number(step.get("reward_mean"), ".3f")),
    )
    text = Text()
    for name, value in pairs:
        text.append(f"{name} ", style="dim").append(f"{value}   ")
    return text


def _rewards(by_source: Mapping[str, float]) -> Table:
    """A bar for each source, from 0 to the largest reward or 1."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    top = max(1.0, *by_source.values())
    for source, reward in sorted(by_source.items()):
        filled = round(max(0.0, reward) / top * _BAR_WIDTH)
        bar = Text().append("█" * filled, style="cyan").append("░" * (_BAR_WIDTH - filled), style="dim")
        table.add_row(Text(source), bar, f"{reward:.3f}")
    return table


def _evaluation(evaluation: Mapping[str, Any]) -> Text:
    """The newest evaluation on held-out problems: over all sources, then each."""
    text = Text("held out ", style="dim").append(f"version {_number(evaluation.get('policy_version'))}  ")
    by_source = evaluation.get("by_source") or {}
    for source, figures in (("all", evaluation), *(sorted(by_source.items()) if len(by_source) > 1 else ())):
        text.append(f"{source} ", style="dim").append(f"pass@1 {_number(figures.get('pass_at_1'), '.3f')} ")
        if evaluation.get("k"):
            text.append(f"avg@{evaluation['k']} {_number(figures.get('avg_at_k'), '.3f')} ")
        text.append(" ")
    return text


def _counts(name: str, counts: Mapping[str, float]) -> Text:
    text = Text(f"{name} ", style="dim")
    text.append("  ".join(f"{state} {_number(count)}" for state, count in counts.items() if count) or "empty")
    return text


def _events(events: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for event in events[-8:]:
        details = ", ".join(f"{key}: {value}" for key, value in event.items() if key not in {"time", "kind", "author"})
        when = event.get("time")
        clock = datetime.fromtimestamp(when).strftime("%H:%M:%S") if isinstance(when, int | float) else ""
        table.add_row(Text(clock, style="dim"), Text(str(event.get("kind", ""))), Text(details, style="dim"))
    return table


# -- progress of `up`


class Progress:
    """One line that follows `metrics.jsonl`: version k/N, reward, tokens/s, time left.

    On a terminal the line is drawn over itself; elsewhere (a log file, CI) about twenty lines are printed in all.
    """

    def __init__(self, num_versions: int, out: Console) -> None:
        self._num_versions = num_versions
        self._out = out
        self._position = 0
        self._pace: deque[tuple[int, float]] = deque(maxlen=20)
        self._printed_version = 0
        self._live = Live(Text("waiting for the first step …", style="dim"), console=out, auto_refresh=False)

    def __enter__(self) -> Self:
        if self._out.is_terminal:
            self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._out.is_terminal:
            self._live.stop()

    def follow(self, metrics: Path) -> None:
        """Show what was written since the last call; a line still being written is left for the next."""
        row = None
        try:
            with metrics.open("rb") as stream:
                stream.seek(self._position)
                for line in stream:
                    if not line.endswith(b"\n"):
                        break
                    self._position += len(line)
                    row = self._take(line) or row
        except FileNotFoundError:
            return
        if row is not None:
            self._show(row)

    def _take(self, line: bytes) -> dict[str, Any] | None:
        try:
            row = json.loads(line)
        except ValueError:
            return None
        if not isinstance(row, dict) or not isinstance(row.get("policy_version"), int):
            return None
        wall_s = row.get("wall_s")
        if isinstance(wall_s, int | float):
            if self._pace and wall_s < self._pace[-1][1]:
                self._pace.clear()  # resumed: its clock began anew
            self._pace.append((row["policy_version"], float(wall_s)))
        return row

    def _show(self, row: Mapping[str, Any]) -> None:
        version = int(row["policy_version"])
        text = progress_line(row, self._num_versions, remaining_s=self._remaining_s(version))
        if self._out.is_terminal:
            self._live.update(text, refresh=True)
            return
        if version >= self._num_versions or version >= self._printed_version + max(1, self._num_versions // 20):
            self._printed_version = version
            self._out.print(text, soft_wrap=True)

    def _remaining_s(self, version: int) -> float | None:
        """From the pace of the last twenty steps."""
        if len(self._pace) < 2:
            return None
        (first, first_s), (last, last_s) = self._pace[0], self._pace[-1]
        if last <= first:
            return None
        return max(0, self._num_versions - version) * (last_s - first_s) / (last - first)


def progress_line(row: Mapping[str, Any], num_versions: int, *, remaining_s: float | None = None) -> Text:
    """One step in one line."""
    version = row["policy_version"]
    text = _bar(version / max(1, num_versions))
    text.append(f" version {version}/{num_versions}", style="bold")
    text.append(f"  reward {_number(row.get('reward_mean'), '.3f')}")
    text.append(f"  {_number(row.get('tokens_per_s'))} tokens/s")
    text.append(f"  staleness {_number(row.get('staleness_mean'), '.1f')}")
    if remaining_s is not None:
        text.append(f"  {_duration(remaining_s)} left", style="dim")
    return text


def _bar(share: float) -> Text:
    filled = round(min(1.0, share) * _BAR_WIDTH)
    return Text().append("━" * filled, style="cyan").append("━" * (_BAR_WIDTH - filled), style="bright_black")


def _number(value: Any, form: str = ",.0f") -> str:
    return format(value, form) if isinstance(value, int | float) else "–"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 100 else f"{minutes / 60:.1f} h"
