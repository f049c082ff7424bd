"""The fleet on a terminal: `status` and `status --watch`.

Owns: what is shown and how. Does not own the line that `up` shows (`progress`). Works on the controller's status alone,
which is plain data. Every key may be missing; what is not known is shown as a dash.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ring_async.core.fleet.states import ActorState, RunState
from ring_async.errors import RingAsyncError
from ring_async.monitoring.figures import BAR_WIDTH, bar, duration, number

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
    low, high = (number(window.get(key), "g") for key in ("low", "high"))
    return f"{window.get('by')} {low} to {high}, {number(window.get('num_passed'))} passed over"


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
        bar(version / last if version is not None and last else 0.0),
        f"  version {number(version)} of {number(last)}",
        (f"  {duration(remaining_s)} left" if remaining_s is not None and state == RunState.RUNNING else "", "dim"),
        (f"  checkpoint of {number(status['checkpoint'].get('version'))}" if status.get("checkpoint") else "", "dim"),
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
            number(counters.get("policy_version")),
            str(actor.get("pid") or "–"),
            *([str(actor.get("host") or "–")] if has_hosts else []),
        )
    return table


def _wait(actor: Mapping[str, Any]) -> Text:
    whom, waited_s = actor.get("waiting_for") or "", actor.get("waited_s") or 0.0
    if not whom:
        return Text("–", style="dim")
    return Text(f"{whom}, {duration(waited_s)}", style="yellow" if waited_s > _LONG_WAIT_S else "")


def _age(seconds: float | None) -> Text:
    if seconds is None:
        return Text("never", style="yellow")
    return Text(f"{seconds:.1f} s ago", style="red" if seconds > _SILENT_S else "dim")


def _figures(step: Mapping[str, Any], buffer: Mapping[str, Any]) -> Text:
    staleness = f"{number(step.get('staleness_mean'), '.1f')} mean, {number(step.get('staleness_max'))} max"
    pairs = (
        ("generated", f"{number(step.get('generated_tokens_per_s'))} tokens/s"),
        ("trained", f"{number(step.get('tokens_per_s'))} tokens/s"),
        ("staleness", staleness),
        ("buffer", f"{number(buffer.get('buffer_tokens', step.get('buffer_tokens')))} tokens"),
        ("entropy", number(step.get("entropy"), ".3f")),
        ("ESS", number(step.get("effective_sample_size"), ".3f")),
        ("reward", number(step.get("reward_mean"), ".3f")),
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
        filled = round(max(0.0, reward) / top * BAR_WIDTH)
        bar = Text().append("█" * filled, style="cyan").append("░" * (BAR_WIDTH - filled), style="dim")
        table.add_row(Text(source), bar, f"{reward:.3f}")
    return table


def _evaluation(evaluation: Mapping[str, Any]) -> Text:
    """The newest evaluation on held-out problems: over all sources, then each."""
    text = Text("held out ", style="dim").append(f"version {number(evaluation.get('policy_version'))}  ")
    by_source = evaluation.get("by_source") or {}
    for source, figures in (("all", evaluation), *(sorted(by_source.items()) if len(by_source) > 1 else ())):
        text.append(f"{source} ", style="dim").append(f"pass@1 {number(figures.get('pass_at_1'), '.3f')} ")
        if evaluation.get("k"):
            text.append(f"avg@{evaluation['k']} {number(figures.get('avg_at_k'), '.3f')} ")
        text.append(" ")
    return text


def _counts(name: str, counts: Mapping[str, float]) -> Text:
    text = Text(f"{name} ", style="dim")
    text.append("  ".join(f"{state} {number(count)}" for state, count in counts.items() if count) or "empty")
    return text


def _events(events: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for event in events[-8:]:
        details = ", ".join(f"{key}: {value}" for key, value in event.items() if key not in {"time", "kind", "author"})
        when = event.get("time")
        clock = datetime.fromtimestamp(when).strftime("%H:%M:%S") if isinstance(when, int | float) else ""
        table.add_row(Text(clock, style="dim"), Text(str(event.get("kind", ""))), Text(details, style="dim"))
    return table
