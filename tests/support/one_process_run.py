"""What tests of a whole fleet in one process share: verifiers by path, a run with a deed, and what it wrote."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from ring_async.core.work.ledger_records import AnyRecord, GroupReserved
from ring_async.storage.journal_file import journal_files, read_file
from ring_async.testing.builders import make_config
from ring_async.testing.one_process import OneProcessFleet
from ring_async.testing.scripted_verifier import ScriptedVerifier
from ring_async.testing.virtual_clock import run_virtual
from ring_async.types import Prompt, Reservation
from ring_async.verifiers.base import Response

Deed = Callable[[OneProcessFleet], Coroutine[Any, Any, None]]

EVEN_TOTAL = f"{__file__}:EvenTotal"
SALTED = f"{__file__}:Salted"
GRADED = f"{__file__}:Graded"


class EvenTotal(ScriptedVerifier):
    """Reward 1 where the response's ids add up to an even number: about half of them."""

    def __init__(self, delay_s: float = 0.02) -> None:
        super().__init__(lambda prompt, response: sum(map(int, response.text.split())) % 2 == 0, delay_s=delay_s)


class Salted(ScriptedVerifier):
    """Reward 1 for about half of all responses; which half depends on the salt."""

    def __init__(self, salt: int = 0, **script: Any) -> None:
        def reward(prompt: Prompt, response: Response) -> float:
            return float((sum(map(int, response.text.split())) * (2 * salt + 1) // 2) % 2)

        super().__init__(reward, delay_s=0.02, **script)


class Graded(ScriptedVerifier):
    """Prompts whose number ends in 0 to 2 are always solved, those in 3 to 5 never, the others half of the time."""

    def __init__(self) -> None:
        def reward(prompt: Prompt, response: Response) -> float:
            last_digit = prompt.metadata["last_digit"]
            is_lucky = sum(map(int, response.text.split())) % 2
            return float(last_digit < 3 or (last_digit > 5 and is_lucky))

        super().__init__(reward, delay_s=0.02)


def make_live_fleet(runs: Path, *, is_resumed: bool = False, **settings: Any) -> OneProcessFleet:
    """A small fleet for changes while it runs: two sources of equal weight, judged by one salted verifier."""
    shared: dict[str, Any] = {
        "budget__token_budget": 512,
        "rollout__group_size": 4,
        "rollout__max_running_requests": 32,
        "mixture": {"sums": 1.0, "letters": 1.0},
        "verifiers": {"exact": {"use": SALTED}},
        "replay__map_size_bytes": 64 << 20,
        "checkpoint__every_versions": 5,
    }
    config = make_config(**(shared | settings))
    return OneProcessFleet(config, runs, token_s=0.005, train_s=0.5, is_resumed=is_resumed)


_OF_THE_FLEET = ("is_resumed", "make_train_engine", "script", "token_s", "train_s")


def make_small_fleet(
    runs: Path, fleet_class: type[OneProcessFleet] = OneProcessFleet, **settings: Any
) -> OneProcessFleet:
    """A small fleet of one source, judged by `EvenTotal`. Settings are those of `make_config` and of the fleet."""
    own = {key: settings.pop(key) for key in _OF_THE_FLEET if key in settings}
    shared: dict[str, Any] = {
        "stop__policy_versions": 6,
        "rollout__group_size": 4,
        "rollout__max_running_requests": 16,
        "verifiers": {"exact": {"use": EVEN_TOTAL}},
        "replay__map_size_bytes": 16 << 20,
        "checkpoint__every_versions": 3,
    }
    return fleet_class(make_config(**(shared | settings)), runs, **own)


def run(fleet: OneProcessFleet, deed: Deed | None = None, *, limit_s: float = 3600.0) -> str:
    """Run a fleet to its end, with somebody doing something to it meanwhile; returns the failure."""

    async def both() -> str:
        doing = asyncio.create_task(deed(fleet)) if deed else None
        failure = await fleet.run()
        if doing is not None:
            await doing
        return failure

    return run_virtual(both(), limit_s=limit_s)


async def until_version(fleet: OneProcessFleet, number: int) -> None:
    while fleet.run_dir.metrics.stat().st_size == 0 or lines(fleet.run_dir.metrics)[-1]["policy_version"] < number:
        await asyncio.sleep(0.05)


def lines(path: Path) -> list[dict[str, Any]]:
    """JSON lines; none where there is no file yet."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def reservations(fleet: OneProcessFleet) -> list[Reservation]:
    """All that were ever granted, in order, from the journal."""
    return [record.reservation for record in records(fleet) if isinstance(record, GroupReserved)]


def records(fleet: OneProcessFleet) -> Iterator[AnyRecord]:
    """All records of the journal, in order."""
    return (read.record for path in journal_files(fleet.run_dir.journal) for read in read_file(path))


def events(fleet: OneProcessFleet, kind: str) -> list[dict[str, Any]]:
    return [event for event in lines(fleet.run_dir.events) if event["kind"] == kind]
