"""The fleet on a terminal: `status` and `status --watch`.

Owns: what is shown and how. Does not own the line that `up` shows (`progress`). Works on the controller's status alone
(`records.status`). What is not known is shown as a dash.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ring_async.core.fleet.states import ActorState, RunState
from ring_async.errors import RingAsyncError
from ring_async.monitoring.figures import BAR_WIDTH, bar, duration, number
from ring_async.records.events import Event
from ring_async.records.figures import BufferTotals
from ring_async.records.status import ActorStatus, ChangesStatus, RunStatus, WindowStatus
from ring_async.records.steps import EvaluationRecord, StepRecord

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


def show_status(status: RunStatus, out: Console) -> None:
    """Print a status once."""
    out.print(render_status(status))


def watch_status(
    fetch: Callable[[], RunStatus], out: Console, *, every_s: float = 1.0, sleep: Callable[[float], None] = time.sleep
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


def render_status(status: RunStatus) -> RenderableType:
    """The whole picture: the run, its actors and what each waits for, figures, rewards, the ledger, last events."""
    parts: list[RenderableType] = [_headline(status), _actors(status.actors)]
    if (step := status.last_step) is not None:
        parts += [Text(), _figures(step, status.buffer)]
        if step.reward_by_source:
            parts += [Text(), _rewards(step.reward_by_source)]
    if status.changes.mixture:
        parts += [Text(), Text("mixture ", style="dim").append(mixture_line(status.changes))]
    if status.last_evaluation is not None:
        parts += [Text(), _evaluation(status.last_evaluation)]
    parts += [Text(), _counts("ledger", msgspec.structs.asdict(status.ledger))]
    if status.causes:
        parts.append(_counts("causes", status.causes))
    if status.events:
        parts += [Text(), _events(status.events)]
    return Group(*parts)


def mixture_line(changes: ChangesStatus) -> str:
    """Each source's share of completed tokens, and its difficulty window if it has one."""
    windows = changes.difficulty
    return ", ".join(
        f"{name} {share:.0%}" + (f" ({_window(windows[name])})" if name in windows else "")
        for name, share in changes.mixture.items()
    )


def _window(window: WindowStatus) -> str:
    low, high = number(window.low, "g"), number(window.high, "g")
    return f"{window.by} {low} to {high}, {number(window.num_passed)} passed over"


def _headline(status: RunStatus) -> Text:
    state = status.state or "–"
    version, last, remaining_s = status.policy_version, status.policy_versions, status.remaining_s
    return Text.assemble(
        (status.run, "bold"),
        "  ",
        (state, _STATE_STYLES.get(state, "red")),
        (f" ({status.reason})" if status.reason else "", "dim"),
        "  ",
        bar(version / last if version is not None and last else 0.0),
        f"  version {number(version)} of {number(last)}",
        (f"  {duration(remaining_s)} left" if remaining_s is not None and state == RunState.RUNNING else "", "dim"),
        (f"  checkpoint of {status.checkpoint.version}" if status.checkpoint else "", "dim"),
    )


def _actors(actors: Sequence[ActorStatus]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    has_hosts = len({actor.host for actor in actors if actor.host}) > 1
    for name in ("actor", "state", "waits for", "heard", "version", "pid", *(["host"] if has_hosts else [])):
        table.add_column(name, no_wrap=name != "waits for")
    for actor in actors:
        state = actor.state or "–"
        restarts = f" (start {actor.incarnation + 1})" if actor.incarnation else ""
        table.add_row(
            Text(actor.actor_id + restarts),
            Text(state, style=_STATE_STYLES.get(state, "red")),
            _wait(actor),
            _age(actor.heartbeat_age_s),
            number(getattr(actor.counters, "policy_version", None)),
            str(actor.pid or "–"),
            *([actor.host or "–"] if has_hosts else []),
        )
    return table


def _wait(actor: ActorStatus) -> Text:
    if not actor.waiting_for:
        return Text("–", style="dim")
    style = "yellow" if actor.waited_s > _LONG_WAIT_S else ""
    return Text(f"{actor.waiting_for}, {duration(actor.waited_s)}", style=style)


def _age(seconds: float | None) -> Text:
    if seconds is None:
        return Text("never", style="yellow")
    return Text(f"{seconds:.1f} s ago", style="red" if seconds > _SILENT_S else "dim")


def _figures(step: StepRecord, buffer: BufferTotals) -> Text:
    pairs = (
        ("generated", f"{number(step.generated_tokens_per_s)} tokens/s"),
        ("trained", f"{number(step.tokens_per_s)} tokens/s"),
        ("staleness", f"{number(step.staleness_mean, '.1f')} mean, {number(step.staleness_max)} max"),
        ("buffer", f"{number(buffer.buffer_tokens)} tokens"),
        ("entropy", number(step.entropy, ".3f")),
        ("ESS", number(step.effective_sample_size, ".3f")),
        ("reward", number(step.reward_mean, ".3f")),
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


def _evaluation(evaluation: EvaluationRecord) -> Text:
    """The newest evaluation on held-out problems: over all sources, then each."""
    text = Text("held out ", style="dim").append(f"version {evaluation.policy_version}  ")
    by_source = evaluation.by_source
    for source, figures in (("all", evaluation), *(sorted(by_source.items()) if len(by_source) > 1 else ())):
        text.append(f"{source} ", style="dim").append(f"pass@1 {number(figures.pass_at_1, '.3f')} ")
        if evaluation.k:
            text.append(f"avg@{evaluation.k} {number(figures.avg_at_k, '.3f')} ")
        text.append(" ")
    return text


def _counts(name: str, counts: Mapping[str, float]) -> Text:
    text = Text(f"{name} ", style="dim")
    text.append("  ".join(f"{state} {number(count)}" for state, count in counts.items() if count) or "empty")
    return text


def _events(events: Sequence[Event]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for event in events[-8:]:
        details = ", ".join(f"{key}: {value}" for key, value in event.details.items())
        clock = datetime.fromtimestamp(event.time).strftime("%H:%M:%S")
        table.add_row(Text(clock, style="dim"), Text(event.kind), Text(details, style="dim"))
    return table
