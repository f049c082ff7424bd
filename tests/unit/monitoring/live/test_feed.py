"""What viewers of the live page are told: everything once, then what is new, the same frame to all."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from planted_faults import read
from ring_async.core.explain.history import Happening, History
from ring_async.errors import RefusedError
from ring_async.monitoring.live.feed import MAX_BEHIND, MAX_VIEWERS, Feed
from ring_async.monitoring.live.frames import printable_tree
from ring_async.records.status import RunStatus
from ring_async.records.steps import StepRecord
from ring_async.storage.run_dir import RunDir
from ring_async.testing.builders import make_metrics_row
from ring_async.testing.virtual_clock import run_virtual

EVIL = "\x1b]52;c;x\x07\u202e"


class Run:
    """A run that is watched: what a test says of it."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = RunDir(folder)
        self.history: History = read("slow_verifier")
        self.steps: list[StepRecord] = []
        self.num_asked = 0

    def status(self) -> RunStatus:
        self.num_asked += 1
        return RunStatus(run="mine", reason=EVIL)

    def recent(self) -> History:
        return self.history

    def recent_steps(self) -> list[StepRecord]:
        return self.steps


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(make_metrics_row(n)) + "\n" for n in (1, 2, 3)))
    return Run(tmp_path)


def content(frame: bytes) -> tuple[str, dict[str, Any]]:
    kind, data, *_ = frame.decode().split("\n")
    return kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def test_a_viewer_gets_the_whole_run_and_then_only_what_is_new(run: Run):
    async def watch() -> list[bytes]:
        async with aclosing(Feed(run).watch()) as frames:
            first = await anext(frames)
            run.steps = [StepRecord(policy_version=4, time=run.history.samples[-1].time + 1, reward_mean=0.5)]
            return [first, await anext(frames), await anext(frames)]

    (kind, whole), (news_kind, news), (_, nothing) = map(content, run_virtual(watch()))
    assert (kind, news_kind) == ("whole", "news")
    assert [step["policy_version"] for step in whole["steps"]] == [1, 2, 3]
    assert whole["findings"][0]["cause"] == "slow_verifier"
    assert whole["status"]["run"] == "mine"
    assert [step["policy_version"] for step in news["steps"]] == [4]
    assert nothing["steps"] == nothing["events"] == []


def test_every_text_of_a_frame_is_printable(run: Run):
    run.history = History(
        limits=run.history.limits,
        samples=run.history.samples,
        events=(Happening(time=1.0, kind=EVIL, details={EVIL: [EVIL]}),),
    )

    async def first() -> bytes:
        async with aclosing(Feed(run).watch()) as frames:
            return await anext(frames)

    _, whole = content(run_virtual(first()))
    shown = "␛]52;c;x␇�"
    assert whole["status"]["reason"] == shown
    assert whole["events"] == [{"time": 1.0, "kind": shown, "author": "", "details": {shown: [shown]}}]


def test_one_frame_serves_all_viewers_and_none_is_made_for_nobody(run: Run):
    async def five() -> int:
        feed = Feed(run)
        viewers = [feed.watch() for _ in range(5)]
        for viewer in viewers:
            await anext(viewer)
        asked = run.num_asked
        frames = [await anext(viewer) for viewer in viewers]
        assert len({id(frame) for frame in frames}) == 1
        made = run.num_asked - asked
        for viewer in viewers:
            await viewer.aclose()
        asked = run.num_asked
        await asyncio.sleep(60.0)
        assert run.num_asked == asked
        return made

    assert run_virtual(five()) == 1


def test_a_viewer_who_does_not_keep_up_is_let_go_and_the_others_stay(run: Run):
    async def lag() -> tuple[int, int]:
        feed = Feed(run)
        slow, quick = feed.watch(), feed.watch()
        await anext(slow)
        await anext(quick)
        got = 0
        for _ in range(2 * MAX_BEHIND):
            await anext(quick)
            got += 1
        rest = [frame async for frame in slow]
        await quick.aclose()
        return got, len(rest)

    got, rest = run_virtual(lag())
    assert got == 2 * MAX_BEHIND
    assert rest == MAX_BEHIND - 1


def test_more_viewers_than_may_are_refused(run: Run):
    async def crowd() -> None:
        feed = Feed(run)
        viewers = [feed.watch() for _ in range(MAX_VIEWERS)]
        for viewer in viewers:
            await anext(viewer)
        with pytest.raises(RefusedError, match="close one"):
            feed.check_room()
        for viewer in viewers:
            await viewer.aclose()

    run_virtual(crowd())


def test_what_is_no_number_becomes_null():
    assert printable_tree({"a": float("nan"), "b": (1, float("inf"), None, True)}) == {
        "a": None,
        "b": [1, None, None, True],
    }
