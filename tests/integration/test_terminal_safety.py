"""What a model, a person or a stranger's host wrote reaches no terminal raw: every command that shows a run, on a
terminal, over a run in which each text is an attack, and with a controller whose every answer is one.
"""

from __future__ import annotations

import dataclasses
import http.server
import io
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ring_async.cli import app as command_line
from ring_async.cli.options import complete_actor, complete_run, err, out
from ring_async.core.advantages import AdvantageRules
from ring_async.core.fleet.states import ActorState, RunState, WaitCause
from ring_async.core.replay.buffer_rules import BufferRules
from ring_async.core.roster import Role
from ring_async.monitoring import samples
from ring_async.monitoring.terminal import watch_status
from ring_async.printable import printable
from ring_async.records.status import ActorStatus, ChangesStatus, LedgerCounts, RunStatus, VerifierStatus, read_status
from ring_async.storage.replay_shard import ReplayShard
from ring_async.storage.replay_store import ReplayStore
from ring_async.storage.run_dir import RunDir, write_json
from ring_async.testing.builders import make_config, make_group, make_metrics_row

ATTACKS = (
    "\x1b]52;c;ZXZpbA==\x07",  # writes the clipboard
    "\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\",  # a link that is not what it says
    "\x1b[2J\x1b[H",  # clears the screen
    "\x1bP+q544e\x1b\\",  # asks the terminal for something, which it types
    "\x9b31m\x90q\x9c",  # the same in C1
    "done\rerror: none",
    "a\x08\x08b\x7f\x0b\x0c\x85",
    "\u202egnp.exe\u2066\u2069\u200f",
    "\U000e0041\U000e0042",
    "[bold red]markup[/bold red][link=http://evil]x[/link]",
    "\x00\x07" * 3,
)
EVIL = "¶".join(ATTACKS)
SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""What rich itself sends: colours and moves of the cursor."""


class Screen(io.StringIO):
    """A terminal, as far as rich can tell."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    shown = Screen()
    for console in (out, err):
        monkeypatch.setattr(console, "_file", shown)
        monkeypatch.setattr(console, "_force_terminal", True)
        monkeypatch.setattr(console, "_width", 160)
    return shown


def assert_harmless(screen: Screen, command: str) -> None:
    text = screen.getvalue()
    assert "␛" in text or r"\u001b" in text or r"\x1b" in text, f"{command} shows no attack: it proves nothing"
    for attack in ATTACKS:
        if printable(attack) != attack:
            assert attack not in text, (command, attack)
    left = SEQUENCE.sub("", text).replace("\r", "")
    assert printable(left) == left, (command, [one for one in left if printable(one) != one])
    assert "[bold red]markup" in text or "markup" not in text, "markup was obeyed"


def status() -> dict[str, Any]:
    actor = ActorStatus(
        actor_id=f"rollout-{EVIL}",
        role=Role.ROLLOUT,
        host=EVIL,
        pid=1,
        state=ActorState.RUNNING,
        waiting_for=EVIL,
        wait_cause=WaitCause.RESERVATION,
        heartbeat_age_s=99.0,
    )
    one = RunStatus(
        run=EVIL,
        state=RunState.STOPPING,
        reason=EVIL,
        policy_version=1,
        policy_versions=2,
        actors=(actor,),
        ledger=LedgerCounts(reserved=1),
        causes={f"failed({EVIL})": 1},
        paused_sources=(EVIL,),
        changes=ChangesStatus(
            mixture={EVIL: 1.0}, verifiers={EVIL: VerifierStatus(use=EVIL, version=EVIL, epoch=1)}, knobs={EVIL: EVIL}
        ),
    )
    row = make_metrics_row(1) | {"reward_by_source": {EVIL: 0.5}, "stage": EVIL}
    events = [{"time": 1.0, "kind": EVIL, "author": EVIL, "reason": EVIL, EVIL: {EVIL: [EVIL]}}]
    events += [{"time": 2.0, "kind": "actor_lost", "author": EVIL, "actor": EVIL, "notice": EVIL}]
    return one.plain() | {"last_step": row, "events": events}


FINDING = {"gravity": "fault", "cause": EVIL, "who": EVIL, "what": EVIL, "remedy": EVIL}


class Controller(http.server.BaseHTTPRequestHandler):
    """Answers what a controller that an attacker wrote to would."""

    def _answer(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        self.rfile.read(length)
        path = self.path.partition("?")[0]
        code, answer = 409, {"detail": EVIL}
        if self.command == "GET" and path == "/v1/status":
            code, answer = 200, status()
        elif path == "/v1/explain":
            code, answer = 200, [FINDING]
        elif path == "/v1/checkpoint":
            code, answer = 200, {"path": EVIL}
        elif path == "/v1/page/link":
            code, answer = 200, {"path": f"/#{EVIL}"}
        content = json.dumps(answer, default=str).encode()
        self.send_response(code)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = _answer  # noqa: N815 - the names of the base class

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Says nothing."""


@contextmanager
def hostile_controller() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Controller)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        serving.join()


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    run_dir = RunDir(tmp_path / "evil")
    run_dir.create()
    run_dir.point_latest()
    write_json(run_dir.config, make_config().model_dump(mode="json"))
    shard = ReplayShard(ReplayStore(run_dir.replay / "replay-0", 16 << 20), BufferRules(64, 64), AdvantageRules())
    group = make_group("g0", rewards=[1, 0], lengths=4, source=EVIL)
    header = msgspec.structs.replace(
        group.header,
        engine_id=EVIL,
        prompt=msgspec.structs.replace(group.header.prompt, text=EVIL),
        verifier=msgspec.structs.replace(group.header.verifier, name=EVIL, version=EVIL),
    )
    shard.put([dataclasses.replace(group, header=header)])
    shard.close()
    monkeypatch.setattr(samples, "tokenizer_of", lambda run_dir: None)
    monkeypatch.setattr(samples, "decode_response", lambda tokenizer, ids: EVIL)
    (run_dir.logs / "learner-0.log").write_text(f"{EVIL}\n", encoding="utf-8", errors="surrogatepass")
    rows = [make_metrics_row(n) | {"reward_by_source": {EVIL: 0.5}, "stage": EVIL} for n in (1, 2, 3)]
    run_dir.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_dir.events.write_text("".join(json.dumps(event) + "\n" for event in status()["events"]))
    with hostile_controller() as url:
        write_json(run_dir.endpoints, {"api": url, "token": "t", "certificate": "", "pid": 1})
        yield tmp_path


COMMANDS = [
    ["status"],
    ["explain"],
    ["page"],
    ["samples"],
    ["samples", "--group", EVIL.replace("\x00", "")],
    ["logs"],
    ["logs", EVIL.replace("\x00", "").replace("/", "")],
    ["report"],
    ["report", "evil", "evil"],
    ["pause"],
    ["resume"],
    ["checkpoint"],
    ["set", "learner.learning_rate=1e-5"],
    ["scale", "rollout", "2"],
    ["mixture", "sums=1"],
    ["swap", "verifier", "exact=exact"],
    ["rollback", "verifier", "exact"],
    ["status", "--json"],
    ["explain", "--json"],
    ["samples", "--json"],
    ["report", "--json"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[:24].encode("ascii", "replace").decode())
def test_no_command_lets_a_text_command_the_terminal(
    words: list[str], runs: Path, screen: Screen, capfd: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit):
        command_line.main([*words, "--runs", str(runs)])
    assert_harmless(screen, words[0])
    printed = capfd.readouterr()
    assert printed.out == "", "something was printed beside the console"
    assert not [attack for attack in ATTACKS if printable(attack) != attack and attack in printed.err]


def test_the_view_that_follows_a_run_is_as_safe(runs: Path, screen: Screen):
    answers = iter([read_status(status())] * 3)

    def next_answer() -> RunStatus:
        try:
            return next(answers)
        except StopIteration:
            raise KeyboardInterrupt from None

    watch_status(next_answer, out)
    assert_harmless(screen, "status --watch")


def test_the_shell_completes_no_name_that_commands_it(tmp_path: Path):
    import click

    evil = EVIL.replace("\x00", "").replace("/", "")[:60]
    for name in ("good", evil):
        run_dir = RunDir(tmp_path / name)
        run_dir.create()
        run_dir.config.write_text("{}")
        (run_dir.logs / f"{evil}.log").write_text("")
        (run_dir.logs / "learner-0.log").write_text("")
    context = click.Context(click.Command("status"))
    context.params = {"runs": str(tmp_path), "run": "good"}
    assert complete_run(context, "") == ["good"]
    assert complete_actor(context, "") == ["learner-0"]
