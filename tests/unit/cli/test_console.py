"""What a model, a person or an actor wrote reaches the terminal as text, whatever the command shows it in."""

from __future__ import annotations

import io
import json
import logging
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ring_async.cli.app import main
from ring_async.cli.console import SafeConsole
from ring_async.cli.samples import _panel
from ring_async.core.event_kinds import EventKind
from ring_async.core.fleet.states import RunState
from ring_async.monitoring.progress import progress_line
from ring_async.monitoring.report.page import render_page
from ring_async.monitoring.report.summary import summary
from ring_async.monitoring.terminal import render_status
from ring_async.printable import printable
from ring_async.records.events import Event
from ring_async.records.status import ActorStatus, ChangesStatus, RunStatus
from ring_async.records.steps import StepRecord
from ring_async.telemetry.log_format import PrintableFormatter
from ring_async.testing.builders import make_metrics_row

ATTACK = "\x1b]52;c;cm0=\x07\x1b[2J\x9b1m\u202e[link=http://evil]x[/link] [/bold] :skull:"
SHOWN = "␛]52;c;cm0="


def console() -> SafeConsole:
    return SafeConsole(file=io.StringIO(), width=400, force_terminal=True, color_system="truecolor")


def written(out: SafeConsole) -> str:
    """All that was written but for rich's own colours."""
    text: str = out.file.getvalue()  # type: ignore[attr-defined]
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def hostile_status() -> RunStatus:
    """Attacks wherever a status holds text; states and kinds are members of closed sets and cannot carry any."""
    actor = ActorStatus(actor_id=ATTACK, waiting_for=ATTACK, waited_s=1.0, host=ATTACK)
    return RunStatus(
        run=ATTACK,
        state=RunState.RUNNING,
        reason=ATTACK,
        actors=(actor, msgspec.structs.replace(actor, host="other")),
        last_step=StepRecord(policy_version=1, reward_by_source={ATTACK: 0.5}),
        causes={ATTACK: 1},
        changes=ChangesStatus(mixture={ATTACK: 1.0}),
        events=(Event(0.0, EventKind.FAILED, ATTACK, {"reason": ATTACK, ATTACK: 1}),),
    )


def hostile_group() -> dict[str, Any]:
    response = {
        "reward": 1.0, "advantage": 0.5, "num_tokens": 3, "finish_reason": ATTACK, "policy_versions": [ATTACK],
        "state": ATTACK, "response": ATTACK,
    }  # fmt: skip
    return {
        "group_id": ATTACK, "source": ATTACK, "prompt": ATTACK, "engine_id": ATTACK, "responses": [response],
        "verifier": {"name": ATTACK, "version": ATTACK, "epoch": 1},
    }  # fmt: skip


def a_table() -> Table:
    table = Table(ATTACK.replace("\n", ""), title=ATTACK)
    table.add_row(ATTACK)
    return table


@pytest.mark.parametrize(
    "renderable",
    [
        ATTACK,
        Text(ATTACK),
        Panel(ATTACK, title=Text(ATTACK)),
        a_table(),
        render_status(hostile_status()),
        _panel(hostile_group()),
        progress_line({"policy_version": 1, "reward_mean": 0.5}, 2) + Text(ATTACK),
    ],
    ids=["text", "styled text", "panel", "table", "status", "samples", "progress"],
)
def test_nothing_that_is_shown_moves_the_cursor_or_sets_the_clipboard(renderable: Any):
    out = console()
    out.print(renderable)
    text = written(out)
    assert text == printable(text)
    assert SHOWN in text
    assert "\x1b]8;" not in text


def test_a_refusal_is_no_markup():
    out = console()
    out.print(f"error: {ATTACK}")
    assert "[link=http://evil]x[/link] [/bold] :skull:" in written(out)


def test_scripts_get_exactly_the_data():
    out = console()
    out.print_plain({"response": ATTACK})
    text = written(out)
    assert text.isascii()
    assert text == printable(text)
    assert json.loads(text) == {"response": ATTACK}


def test_a_log_line_is_printable_with_its_traceback():
    formatter = PrintableFormatter("%(message)s")
    try:
        raise ValueError(ATTACK)
    except ValueError as error:
        record = logging.LogRecord(
            "x", logging.ERROR, "f", 1, "%s", (ATTACK,), (ValueError, error, error.__traceback__)
        )
    line = formatter.format(record)
    assert line == printable(line)
    assert line.count(SHOWN) == 2


def test_the_report_page_is_printable(tmp_path: Path):
    row = make_metrics_row(1) | {"reward_by_source": {ATTACK: 0.5}}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    page = render_page([row], summary(tmp_path), {}, [{"kind": ATTACK, "reason": "<b>"}])
    assert page == printable(page)
    assert SHOWN in page
    assert "&lt;b&gt;" in page


def test_logs_of_libraries_are_printable_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "run" / "logs"
    folder.mkdir(parents=True)
    (folder / "rollout-0.log").write_bytes(ATTACK.encode() + b"\xff\n")
    with pytest.raises(SystemExit, match="0"):
        main(["logs", "--runs", str(tmp_path), "--run", "run"])
    text = capsys.readouterr().out
    assert text == printable(text)
    assert SHOWN in text
