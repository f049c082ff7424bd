"""What a person sees on the terminal."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from ring_async.errors import RunError
from ring_async.monitoring.progress import Progress, progress_line
from ring_async.monitoring.terminal import render_status, show_status, watch_status
from ring_async.records.status import RunStatus, read_status
from ring_async.testing.builders import make_metrics_row


def make_status(**fields):
    status = {
        "run": "local",
        "state": "running",
        "policy_version": 12,
        "policy_versions": 100,
        "actors": [
            {
                "actor_id": "rollout-0",
                "role": "rollout",
                "incarnation": 1,
                "pid": 4242,
                "state": "running",
                "waiting_for": "a reservation",
                "waited_s": 42.0,
                "heartbeat_age_s": 0.3,
                "counters": {"role": "rollout", "policy_version": 11},
            },
            {"actor_id": "learner-0", "state": "starting", "heartbeat_age_s": None},
        ],
        "ledger": {"reserved": 16, "consumed": 4000, "failed": 0},
        "causes": {},
        "buffer": {"buffer_tokens": 12_345},
        "last_step": make_metrics_row(12),
        "events": [{"time": 1.7e9, "kind": "paused", "author": "api", "reason": "lunch"}],
    }
    return read_status(status | fields)


def console(*, is_terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), width=120, force_terminal=is_terminal, color_system=None)


def text_of(out: Console) -> str:
    return out.file.getvalue()


def test_a_run_that_ends_says_why():
    out = console()
    show_status(make_status(state="stopping", reason="stop.wall_s: 60 s of training"), out)
    assert "stopping (stop.wall_s: 60 s of training)" in text_of(out)


def test_status_names_actors_and_what_each_waits_for():
    out = console()
    show_status(make_status(), out)
    text = text_of(out)
    for words in ("local", "version 12 of 100", "rollout-0 (start 2)", "a reservation, 42 s", "4242", "never"):
        assert words in text
    for words in ("12,345 tokens", "letters", "consumed 4,000", "paused", "reason: lunch"):
        assert words in text
    assert "failed 0" not in text


def test_status_shows_the_mixture_with_its_windows():
    window = {"by": "observed", "low": 0.2, "high": None, "num_passed": 1234}
    changes = {"mixture": {"math": 0.75, "code": 0.25}, "difficulty": {"math": window}}
    out = console()
    show_status(make_status(changes=changes), out)
    assert "mixture math 75% (observed 0.2 to –, 1,234 passed over), code 25%" in text_of(out)


def test_status_names_hosts_where_there_are_several():
    actors = [
        {"actor_id": "rollout-0", "state": "running", "host": "10.0.0.1"},
        {"actor_id": "rollout-1", "state": "running", "host": "10.0.0.2"},
        {"actor_id": "rollout-2", "state": "waiting", "waiting_for": "room for CPU 1 on any host", "waited_s": 5.0},
    ]
    out = console()
    show_status(make_status(actors=actors), out)
    for words in ("10.0.0.1", "10.0.0.2", "waiting", "room for CPU 1 on any host, 5 s"):
        assert words in text_of(out)
    alone = console()
    show_status(make_status(actors=actors[:1]), alone)
    assert "10.0.0.1" not in text_of(alone)


def test_an_empty_status_is_dashes_not_an_error():
    out = console()
    show_status(RunStatus(), out)
    assert "version – of –" in text_of(out)


def test_markup_in_names_is_shown_not_obeyed():
    out = console()
    out.print(
        render_status(
            make_status(run="[red]x[/red]", events=[{"time": 0.0, "kind": "paused", "author": "a", "[bold]k": 1}])
        )
    )
    assert "[red]x[/red]" in text_of(out)
    assert "[bold]k" in text_of(out)


def test_watching_ends_when_the_run_is_gone_with_the_last_status_in_sight():
    answers = iter([make_status(policy_version=12), make_status(policy_version=13)])
    pauses: list[float] = []

    def fetch():
        try:
            return next(answers)
        except StopIteration:
            raise RunError("runs/local: not running") from None

    out = console(is_terminal=True)
    watch_status(fetch, out, sleep=pauses.append)
    assert "version 13 of 100" in text_of(out)
    assert "not running" in text_of(out)
    assert pauses == [1.0, 1.0]


def test_ctrl_c_ends_watching_quietly():
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    watch_status(make_status, console(), sleep=interrupt)


def test_a_progress_line_says_version_reward_speed_and_time_left():
    text = progress_line(make_metrics_row(25, reward_mean=0.5), 100, remaining_s=130.0).plain
    assert text.endswith("version 25/100  reward 0.500  42 tokens/s  staleness 1.5  2 min 10 s left")
    assert progress_line({"policy_version": 1}, 10).plain.endswith("reward –  – tokens/s  staleness –")


def append(path: Path, *rows: dict, tail: str = "") -> None:
    with path.open("a") as stream:
        stream.write("".join(json.dumps(row) + "\n" for row in rows) + tail)


def test_progress_follows_whole_lines_and_tells_the_time_left(tmp_path: Path):
    path, out = tmp_path / "metrics.jsonl", console()
    with Progress(10, out) as progress:
        progress.follow(path)
        assert text_of(out) == ""
        row = json.dumps(make_metrics_row(2, wall_s=4.0))
        append(path, make_metrics_row(1, wall_s=2.0), tail=row[:20])
        progress.follow(path)
        assert "version 1/10" in text_of(out)
        append(path, tail=row[20:] + "\n")
        progress.follow(path)
    assert "version 2/10" in text_of(out)
    assert "16 s left" in text_of(out)


def test_a_log_file_gets_some_twenty_lines_not_every_step(tmp_path: Path):
    path, out = tmp_path / "metrics.jsonl", console()
    with Progress(400, out) as progress:
        for version in range(1, 401):
            append(path, make_metrics_row(version))
            progress.follow(path)
    lines = text_of(out).splitlines()
    assert len(lines) == 20
    assert "version 400/400" in lines[-1]


def test_on_a_terminal_the_line_is_drawn_over_itself(tmp_path: Path):
    path, out = tmp_path / "metrics.jsonl", console(is_terminal=True)
    append(path, make_metrics_row(3))
    with Progress(10, out) as progress:
        progress.follow(path)
    assert "waiting for the first step" in text_of(out)
    assert "version 3/10" in text_of(out)


def test_after_a_resume_the_pace_begins_anew(tmp_path: Path):
    path, out = tmp_path / "metrics.jsonl", console()
    append(path, make_metrics_row(1, wall_s=100.0), make_metrics_row(2, wall_s=200.0))
    append(path, make_metrics_row(3, wall_s=5.0), make_metrics_row(4, wall_s=6.0))
    with Progress(10, out) as progress:
        progress.follow(path)
    assert "6 s left" in text_of(out)


def test_status_shows_the_newest_evaluation():
    out = console()
    figures = {"pass_at_1": 0.5, "avg_at_k": None}
    by_source = {"sums": figures, "letters": figures | {"avg_at_k": 0.0}}
    evaluation = {"policy_version": 10, "k": 4, "pass_at_1": 0.25, "avg_at_k": 0.125, "by_source": by_source}
    show_status(make_status(last_evaluation=evaluation), out)
    shown = " ".join(text_of(out).split())
    assert "version 10 all pass@1 0.250 avg@4 0.125 letters pass@1 0.500 avg@4 0.000 sums pass@1 0.500 avg@4 –" in shown


def test_status_shows_how_far_the_run_is_and_how_long_it_will_take():
    out = console()
    show_status(make_status(policy_version=50, remaining_s=90.0), out)
    (headline,) = (line for line in text_of(out).splitlines() if "version 50 of 100" in line)
    assert "90 s left" in headline
    assert headline.count("━") == 20
    paused = console()
    show_status(make_status(state="paused", remaining_s=90.0), paused)
    assert "left" not in text_of(paused)
