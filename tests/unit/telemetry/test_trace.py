"""The timeline: what is recorded, what survives a kill, and how overlap is measured."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import pytest

from ring_async.telemetry.trace import BusyTrack, Tracer
from ring_async.telemetry.trace_parts import busy_intervals, busy_overlap, merge_traces, read_events


class Clock:
    """Microseconds that the test moves."""

    def __init__(self) -> None:
        self.us = 1_000_000.0

    def __call__(self) -> float:
        return self.us


def part(run_dir: Path, actor: str) -> Path:
    return run_dir / "trace" / f"{actor}.jsonl"


def record(run_dir: Path, actor: str, name: str, *spans: tuple[float, float]) -> None:
    """Write spans given in seconds."""
    with Tracer(part(run_dir, actor), actor) as tracer:
        for began_s, ended_s in spans:
            tracer.complete(name, began_s * 1e6, ended_s * 1e6)


def events_named(run_dir: Path, name: str) -> list[dict]:
    return [event for event in read_events(run_dir / "trace") if event["name"] == name]


def test_spans_counters_and_instants_are_chrome_events(tmp_path: Path):
    clock = Clock()
    with Tracer(part(tmp_path, "learner-0"), "learner-0", now_us=clock) as tracer:
        with tracer.span("train", plan=7):
            clock.us += 250
        tracer.counter("buffer", tokens=10, groups=2)
        tracer.instant("swap", verifier="math")
    (span,) = events_named(tmp_path, "train")
    assert (span["ph"], span["ts"], span["dur"], span["args"]) == ("X", 1_000_000.0, 250.0, {"plan": 7})
    assert events_named(tmp_path, "buffer")[0]["args"] == {"tokens": 10, "groups": 2}
    assert events_named(tmp_path, "swap")[0]["ph"] == "i"
    assert events_named(tmp_path, "process_name")[0]["args"] == {"name": "learner-0"}
    assert events_named(tmp_path, "thread_name")[0]["args"] == {"name": threading.current_thread().name}


def test_a_span_is_recorded_when_its_block_fails(tmp_path: Path):
    with Tracer(part(tmp_path, "a"), "a") as tracer, pytest.raises(ValueError, match="no"), tracer.span("train"):
        raise ValueError("no")
    assert len(events_named(tmp_path, "train")) == 1


def test_interleaving_coroutines_keep_their_spans_apart(tmp_path: Path):
    clock = Clock()

    async def work(tracer: Tracer, name: str, gate: asyncio.Event) -> None:
        with tracer.async_span("generate", name):
            await gate.wait()

    async def main() -> None:
        with Tracer(part(tmp_path, "a"), "a", now_us=clock) as tracer:
            first, second = asyncio.Event(), asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(work(tracer, "g1", first))
                await asyncio.sleep(0)
                clock.us += 1e6
                tasks.create_task(work(tracer, "g2", second))
                await asyncio.sleep(0)
                clock.us += 1e6
                first.set()
                await asyncio.sleep(0)
                clock.us += 1e6
                second.set()

    asyncio.run(main())
    assert busy_intervals(tmp_path / "trace", "generate") == [(1.0, 4.0)]


def test_nothing_is_recorded_without_a_path(tmp_path: Path):
    tracer = Tracer(None, "off")
    with tracer.span("train"):
        tracer.counter("x", y=1)
    tracer.close()
    assert not tracer.is_on
    assert list(read_events(tmp_path / "trace")) == []


def test_the_file_is_bounded_and_keeps_the_newest(tmp_path: Path):
    path, max_bytes = part(tmp_path, "a"), 20_000
    with Tracer(path, "a", max_bytes=max_bytes) as tracer:
        for number in range(3000):
            tracer.instant("tick", number=number)
            if number % 50 == 0:
                tracer.flush()
    assert path.stat().st_size + path.with_name("a.jsonl.1").stat().st_size <= max_bytes
    ticks = [event["args"]["number"] for event in events_named(tmp_path, "tick")]
    assert ticks == list(range(ticks[0], 3000))
    assert events_named(tmp_path, "process_name")


def test_a_torn_line_costs_that_line_alone(tmp_path: Path):
    record(tmp_path, "a", "train", (1, 2))
    with part(tmp_path, "a").open("ab") as stream:
        stream.write(b'{"ph":"X","name":"tr')
    record(tmp_path, "a", "train", (3, 4))
    assert busy_intervals(tmp_path / "trace", "train") == [(1.0, 2.0), (3.0, 4.0)]


def test_a_full_disk_costs_events_never_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tracer = Tracer(part(tmp_path, "a"), "a")
    tracer.instant("before")
    tracer.flush()

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        tracer.instant("lost")
        tracer.flush()
    tracer.instant("after")
    tracer.close()
    assert tracer.num_lost == 1
    assert [len(events_named(tmp_path, name)) for name in ("before", "lost", "after")] == [1, 0, 1]


def test_threads_record_side_by_side_without_loss(tmp_path: Path):
    with Tracer(part(tmp_path, "a"), "a") as tracer:
        barrier = threading.Barrier(4)

        def work() -> None:
            barrier.wait()
            for _ in range(300):
                with tracer.span("compute"):
                    pass

        threads = [threading.Thread(target=work, name=f"compute-{index}") for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    spans = events_named(tmp_path, "compute")
    assert len(spans) == 1200


def test_merging_numbers_processes_anew_and_starts_at_zero(tmp_path: Path):
    record(tmp_path, "learner-0", "train", (100.5, 101))
    record(tmp_path, "rollout-0", "generate", (100, 102))
    merge_traces(tmp_path / "trace", tmp_path / "trace.json")
    document = json.loads((tmp_path / "trace.json").read_text())
    spans = {event["name"]: event for event in document["traceEvents"] if event["ph"] == "X"}
    assert spans["generate"]["ts"] == 0
    assert spans["train"]["ts"] == pytest.approx(500_000)
    assert spans["train"]["pid"] != spans["generate"]["pid"]
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["trace.json"]


def test_merging_nothing_is_an_empty_timeline(tmp_path: Path):
    merge_traces(tmp_path / "trace", tmp_path / "trace.json")
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"] == []


@pytest.mark.parametrize(
    ("generate", "train", "share"),
    [
        ([(0, 10)], [(2, 4), (6, 7)], 1.0),
        ([(0, 10)], [(8, 12)], 0.5),
        ([(0, 1), (2, 3)], [(1, 2), (3, 4)], 0.0),
        ([(0, 4), (1, 6), (5, 8)], [(7, 9), (20, 22)], 0.25),
        ([], [(0, 1)], 0.0),
    ],
)
def test_overlap_is_common_seconds_over_the_shorter_kind(tmp_path: Path, generate, train, share):
    # Spans of two rollouts that overlap count once.
    record(tmp_path, "rollout-0", "generate", *generate[::2])
    record(tmp_path, "rollout-1", "generate", *generate[1::2])
    record(tmp_path, "learner-0", "train", *train)
    assert busy_overlap(tmp_path / "trace") == pytest.approx(share)
    assert busy_overlap(tmp_path / "trace", "train", "generate") == pytest.approx(share)


def test_a_span_whose_end_was_lost_counts_until_its_process_was_last_seen(tmp_path: Path):
    clock = Clock()
    tracer = Tracer(part(tmp_path, "a"), "a", now_us=clock)
    tracer.async_span("generate", "g1").__enter__()
    clock.us += 3e6
    tracer.instant("last sign")
    tracer.close()
    assert busy_intervals(tmp_path / "trace", "generate") == [(1.0, 4.0)]


def test_pieces_of_work_become_few_bars_that_cover_them(tmp_path: Path):
    with Tracer(part(tmp_path, "a"), "a") as tracer:
        track = BusyTrack(tracer, "generate", join_gap_us=10)
        for began_us in (0, 105, 210):  # 5 µs apart: one bar
            track.add(began_us, began_us + 100)
        track.add(400, 500)
        for began_us in range(1_000_000, 4_000_000, 100_000):  # without a gap: cut every second
            track.add(began_us, began_us + 100_000)
        track.flush()
        track.flush()
    bars = [(event["ts"], event["ts"] + event["dur"]) for event in events_named(tmp_path, "generate")]
    assert bars[:2] == [(0, 310), (400, 500)]
    assert bars[2:] == [(1_000_000, 2_000_000), (2_000_000, 3_000_000), (3_000_000, 4_000_000)]
