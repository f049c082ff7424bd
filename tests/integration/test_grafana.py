"""Boards and annotations against a stand-in for Grafana that validates every call; no real Grafana can be had here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from grafana_stub import TOKEN, GrafanaStub, grafana_stub
from ring_async.cli.app import main
from ring_async.core.event_kinds import EventKind
from ring_async.monitoring.grafana import annotations
from ring_async.monitoring.grafana.annotations import Annotator, annotation_text
from ring_async.monitoring.grafana.boards import BOARDS
from ring_async.monitoring.grafana.client import Grafana, GrafanaError
from ring_async.monitoring.grafana.push import Outcome, push
from ring_async.records.events import Event
from ring_async.storage.json_lines import JsonLines
from ring_async.storage.run_dir import RunDir

PROMETHEUS = "http://prometheus:9090"


@pytest.fixture
def stub() -> Iterator[GrafanaStub]:
    with grafana_stub() as stub:
        yield stub
        assert stub.invalid == []


@pytest.fixture
def grafana(stub: GrafanaStub) -> Grafana:
    return Grafana(stub.url, TOKEN)


def outcomes(grafana: Grafana, **options) -> list[Outcome]:
    return [one.outcome for one in push(grafana, BOARDS, folder="ring-async", prometheus_url=PROMETHEUS, **options)]


def test_what_is_pushed_twice_is_there_once(stub: GrafanaStub, grafana: Grafana):
    assert outcomes(grafana) == [Outcome.CREATED] * 3
    before = len(stub.calls)
    assert outcomes(grafana) == [Outcome.UNCHANGED] * 3
    assert not [call for call in stub.calls[before:] if not call.startswith("GET")]
    assert list(stub.boards) == [board.uid for board in BOARDS]
    assert {board["version"] for board in stub.boards.values()} == {1}
    assert stub.sources["ring-async"]["url"] == PROMETHEUS


def test_a_board_that_a_person_edited_stays_unless_forced(stub: GrafanaStub, grafana: Grafana):
    outcomes(grafana)
    edited = stub.boards["ring-async-learning"]
    stub.boards["ring-async-learning"] = edited | {"title": "mine", "version": 2}
    assert outcomes(grafana) == [Outcome.UNCHANGED, Outcome.KEPT, Outcome.UNCHANGED]
    assert stub.boards["ring-async-learning"]["title"] == "mine"
    assert outcomes(grafana, force=True) == [Outcome.UNCHANGED, Outcome.UPDATED, Outcome.UNCHANGED]
    assert stub.boards["ring-async-learning"]["title"] == "ring-async: learning"
    assert outcomes(grafana) == [Outcome.UNCHANGED] * 3


def test_a_board_of_an_older_release_is_replaced(stub: GrafanaStub, grafana: Grafana, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr("ring_async.monitoring.grafana.build.HEIGHT", 9)
        outcomes(grafana)
    assert outcomes(grafana) == [Outcome.UPDATED] * 3
    assert stub.boards["ring-async-fleet"]["panels"][0]["gridPos"]["h"] == 7


def test_the_command_pushes_and_says_what_was_kept(
    stub: GrafanaStub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("GRAFANA_TOKEN", TOKEN)
    with pytest.raises(SystemExit) as done:
        main(["dashboard", "push", stub.url, "--json"])
    assert done.value.code == 0
    assert {one["outcome"] for one in json.loads(capsys.readouterr().out)["boards"]} == {"created"}
    stub.boards["ring-async-data"]["title"] = "mine"
    with pytest.raises(SystemExit) as done:
        main(["dashboard", "push", stub.url])
    assert done.value.code == 1
    assert "--force" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("url", "token", "said"),
    [("http://127.0.0.1:9", TOKEN, "no Grafana answers there"), ("", "wrong", "the token may not do this")],
)
def test_what_is_wrong_is_said(stub: GrafanaStub, url: str, token: str, said: str):
    with pytest.raises(GrafanaError, match=said):
        push(Grafana(url or stub.url, token), BOARDS, folder="ring-async")


# -- annotations


class Journal:
    """A run's events, and an annotator that follows them."""

    def __init__(self, path: Path, grafana: Grafana) -> None:
        self.run_dir = RunDir(path)
        self._lines = JsonLines(self.run_dir.events)
        self._grafana = grafana
        self._num = 0
        self.lost: list[str] = []
        self.annotator = self.fresh()

    def fresh(self) -> Annotator:
        """An annotator as a restarted controller makes it."""
        return Annotator(self.run_dir, "local", self._grafana, self.lost.append)

    def happen(self, kind: EventKind, **details) -> None:
        self._num += 1
        self._lines.append(Event(1_700_000_000.0 + self._num, kind, "api", details).plain())

    def close(self) -> None:
        self._lines.close()


@pytest.fixture
def journal(tmp_path: Path, grafana: Grafana) -> Iterator[Journal]:
    journal = Journal(tmp_path, grafana)
    yield journal
    journal.close()


def texts(stub: GrafanaStub) -> list[str]:
    return [one["text"] for one in stub.annotations]


def test_changes_become_marks_and_other_events_do_not(stub: GrafanaStub, journal: Journal):
    journal.happen(EventKind.JOINED, pid=1)
    journal.happen(EventKind.SCALED, role="rollout", before=1, after=2)
    journal.happen(EventKind.EVALUATED, policy_version=3)
    assert journal.annotator.catch_up() == 1
    assert texts(stub) == ["scaled by api (role: rollout, before: 1, after: 2)"]
    (mark,) = stub.annotations
    assert mark["time"] == 1_700_000_002_000
    assert {"ring-async", "local", "scaled"} < set(mark["tags"])
    assert (journal.annotator.catch_up(), journal.fresh().catch_up()) == (0, 0)


def test_an_outage_loses_nothing_and_writes_nothing_twice(stub: GrafanaStub, journal: Journal):
    journal.happen(EventKind.PAUSED)
    journal.annotator.catch_up()
    stub.is_away = True
    for after in (2, 3, 4):
        journal.happen(EventKind.SCALED, after=after)
        with pytest.raises(GrafanaError):
            journal.annotator.catch_up()
    stub.is_away = False
    assert journal.annotator.catch_up() == 3
    assert [text[-9:] for text in texts(stub)] == ["ed by api", "after: 2)", "after: 3)", "after: 4)"]


@pytest.mark.parametrize("is_restarted", [False, True])
def test_an_answer_that_was_lost_is_not_asked_for_twice(stub: GrafanaStub, journal: Journal, is_restarted: bool):
    journal.happen(EventKind.PAUSED)
    stub.loses_answers_to = "POST /api/annotations"
    with pytest.raises(GrafanaError):
        journal.annotator.catch_up()
    stub.loses_answers_to = ""
    assert len(stub.annotations) == 1
    annotator = journal.fresh() if is_restarted else journal.annotator
    annotator.catch_up()
    journal.happen(EventKind.RESUMED)
    annotator.catch_up()
    assert texts(stub) == ["paused by api", "resumed by api"]


def test_after_a_lost_position_everything_is_asked_for_and_nothing_written_twice(stub: GrafanaStub, journal: Journal):
    for after in (2, 3, 4):
        journal.happen(EventKind.SCALED, after=after)
    journal.annotator.catch_up()
    (journal.run_dir.path / "annotations.json").unlink()
    assert journal.fresh().catch_up() == 0
    assert len(stub.annotations) == 3


def test_an_event_that_grafana_finds_fault_with_is_passed_over_by_itself(stub: GrafanaStub, journal: Journal):
    stub.refuses_text = "after: 2"
    for after in (1, 2, 3):
        journal.happen(EventKind.SCALED, after=after)
    assert journal.annotator.catch_up() == 2
    assert [text[-9:] for text in texts(stub)] == ["after: 1)", "after: 3)"]


def test_a_full_disk_does_not_end_the_annotations(stub: GrafanaStub, journal: Journal, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(annotations, "write_json", full)
        for kind in (EventKind.PAUSED, EventKind.RESUMED):
            journal.happen(kind)
            with pytest.raises(OSError, match="No space"):
                journal.annotator.catch_up()
    journal.happen(EventKind.PAUSED)
    assert journal.annotator.catch_up() == 1
    assert (journal.fresh().catch_up(), len(stub.annotations)) == (0, 3)


def test_a_down_grafana_is_said_once_and_marks_follow_when_it_is_back(
    stub: GrafanaStub, journal: Journal, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(annotations, "LOOK_S", 0.01)
    monkeypatch.setattr(annotations, "RETRY_S", 0.01)

    async def until(is_so) -> None:
        async with asyncio.timeout(30.0):
            while not is_so():
                await asyncio.sleep(0.01)

    async def main_task() -> None:
        stub.is_away = True
        journal.happen(EventKind.PAUSED)
        following = asyncio.create_task(journal.annotator.run())
        await until(lambda: len(stub.calls) >= 3)
        assert len(journal.lost) == 1
        stub.is_away = False
        await until(lambda: stub.annotations)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    asyncio.run(main_task())
    assert texts(stub) == ["paused by api"]
    assert len(journal.lost) == 1


def test_a_hostile_name_is_text_and_a_long_value_is_cut():
    event = Event(1.0, EventKind.SOURCE_ADDED, "<b>me</b>", {"source": "<script>", "after": "x" * 500})
    text = annotation_text(event)
    assert "<" not in text
    assert "&lt;script&gt;" in text
    assert len(text) < 250
