"""The watcher of a learner's ranks: a process beside them that ends them all as soon as one has died or stands still.

    python -m ring_async.actors.learner_ranks.watcher '{"leader": 0, "ranks": {"0": 4711, "1": 4712}, "log": "…"}'

Owns: noticing, and SIGKILL. Does not own starting ranks again: the end of rank 0 is the end of the learner's process,
and the controller starts another one under a new incarnation, which restores the newest checkpoint.

Why from outside: a rank inside a collective waits for a lost peer for minutes, with its own threads perhaps held up
too, and a short time limit on collectives would end ranks that compile. The kernel's word on a process needs nothing
from it. A rank that is stopped (SIGSTOP, a debugger) holds the others up like a dead one; a moment's stop is passed
over.

The leader is rank 0, or the process that stands for it on another host of the learner. It may write one line to
standard input: "end" before an orderly end, or "lost" and why, when it knows of a loss that cannot be seen from here.

Invariants: no rank outlives another of its host by more than `STOPPED_S + REPORT_S + 2 · POLL_S`; an orderly end is
not a death; a watcher whose leader is gone has ended the others before it ends itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Mapping

import psutil

POLL_S = 0.5
STOPPED_S = 3.0
"""How long a rank may be stopped."""

REPORT_S = 3.0
"""How long rank 0 has to tell the controller which rank is lost."""

LEADER = -1
"""In place of a rank: a leader that is none."""

GONE, STOPPED, ALIVE = "gone", "stopped", "alive"


class Verdicts:
    """Decides whether the group must end. Times are given, so that a test can pass them.

    verdicts = Verdicts()
    verdicts.judge({0: "alive", 1: "stopped"}, now_s=0.0)     # ""
    verdicts.judge({0: "alive", 1: "stopped"}, now_s=3.5)     # "rank 1 has been stopped for 3.5 s"
    """

    def __init__(self) -> None:
        self._stopped_since: dict[int, float] = {}

    def judge(self, states: Mapping[int, str], now_s: float) -> str:
        """Why the group must end, for people; empty while it may go on."""
        for rank, state in sorted(states.items()):
            if state == GONE:
                return f"{_name(rank)} is gone"
            if state != STOPPED:
                self._stopped_since.pop(rank, None)
                continue
            stopped_s = now_s - self._stopped_since.setdefault(rank, now_s)
            if stopped_s > STOPPED_S:
                return f"{_name(rank)} has been stopped for {stopped_s:.1f} s"
        return ""


def _name(rank: int) -> str:
    return "the process that leads this host's ranks" if rank == LEADER else f"rank {rank}"


def state_of(process: psutil.Process) -> str:
    """What the kernel says of a process."""
    try:
        status = process.status() if process.is_running() else psutil.STATUS_DEAD
    except psutil.NoSuchProcess:
        return GONE
    if status in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}:
        return GONE
    return STOPPED if status in {psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP} else ALIVE


def watch(ranks: Mapping[int, psutil.Process], leader: int) -> str:
    """Consumes states of processes / produces a reason / waits a moment / freed by time, or by the leader's word.

    Returns:
        Why the group must end; empty after an orderly end.
    """
    verdicts = Verdicts()
    while True:
        readable, _, _ = select.select([sys.stdin], [], [], POLL_S)
        said = os.read(sys.stdin.fileno(), 1 << 12).decode(errors="replace") if readable else ""
        if said.startswith("end"):
            return ""
        if said.startswith("lost "):
            return said.removeprefix("lost ").strip()
        reason = verdicts.judge({rank: state_of(process) for rank, process in ranks.items()}, time.monotonic())
        if readable and not reason:
            reason = f"{_name(leader)} is gone"
        if reason:
            return reason


def end(ranks: Mapping[int, psutil.Process], leader: int) -> None:
    """SIGKILL: the others at once, the leader if it has not reported the loss and ended by itself after `REPORT_S`."""
    for rank in sorted(ranks, reverse=True):
        if rank == leader and state_of(ranks[rank]) == ALIVE:
            with contextlib.suppress(psutil.TimeoutExpired):
                ranks[rank].wait(REPORT_S)
        with contextlib.suppress(psutil.NoSuchProcess):
            ranks[rank].send_signal(signal.SIGKILL)


def main() -> int:
    plan = json.loads(sys.argv[1])
    try:
        ranks = {int(rank): psutil.Process(pid) for rank, pid in plan["ranks"].items()}
    except psutil.NoSuchProcess as error:
        ranks = {int(rank): psutil.Process(pid) for rank, pid in plan["ranks"].items() if psutil.pid_exists(pid)}
        reason = f"a rank was gone before it was watched: {error}"
    else:
        reason = watch(ranks, plan["leader"])
    if reason:
        with open(plan["log"], "a", encoding="utf-8") as log:  # noqa: PTH123 - one line, from a small process
            log.write(f"{reason}; all ranks are ended, and the learner starts again\n")
        end(ranks, plan["leader"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
