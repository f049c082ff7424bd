"""A damaged store is a sentence, whatever reading it would do to the process; random damage is noticed or harmless."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ring_async.core.advantages import AdvantageRules
from ring_async.core.replay.buffer_rules import BufferRules
from ring_async.errors import StorageError
from ring_async.storage.audit import audit
from ring_async.storage.replay_shard import ReplayShard
from ring_async.storage.replay_store import ReplayStore
from ring_async.testing.builders import make_group
from ring_async.types import PolicyVersion

RULES = BufferRules(token_budget=2_000, token_capacity=512, max_staleness=3)
MAP_BYTES = 8 << 20


def fill(run_dir: Path) -> Path:
    """A run of a hundred groups, all of whose tokens may still be needed, and two batches; returns the data file."""
    path = run_dir / "replay" / "replay-0"
    shard = ReplayShard(ReplayStore(path, MAP_BYTES), RULES, AdvantageRules())
    for first in range(0, 100, 25):
        shard.put([make_group(f"g{number:04d}", lengths=[60, 60]) for number in range(first, first + 25)])
    for number in (1, 2):
        shard.batch(number, PolicyVersion(0, number - 1))
    shard.close()
    return path / "data.mdb"


def cut(data: Path) -> None:
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])


def garble(data: Path) -> None:
    raw = bytearray(data.read_bytes())
    for page in range(2, len(raw) // 4096):
        raw[page * 4096 + 16 : page * 4096 + 64] = b"\xff" * 48
    data.write_bytes(raw)


def garble_roots(data: Path) -> None:
    raw = bytearray(data.read_bytes())
    raw[: 2 * 4096] = b"\xff" * 2 * 4096
    data.write_bytes(raw)


@pytest.mark.parametrize("damage", [cut, garble, garble_roots])
def test_a_store_that_cannot_be_read_is_a_sentence(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    data = fill(tmp_path)
    damage(data)
    with pytest.raises(StorageError, match=f"{data.parent}: the replay store is damaged on disk: .*copy of the run"):
        ReplayStore(data.parent, MAP_BYTES)
    report = audit(tmp_path)
    assert [violation.rule for violation in report.violations] == ["the replay store can be read back"]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("run")
    fill(run_dir)
    return run_dir


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flip_anywhere_is_noticed_or_harmless(whole_run: Path, place: float, bit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run_dir = shutil.copytree(whole_run, Path(folder, "run"))
        data = run_dir / "replay" / "replay-0" / "data.mdb"
        raw = bytearray(data.read_bytes())
        raw[int(place * len(raw))] ^= 1 << bit
        data.write_bytes(raw)
        report = audit(run_dir)
        if report.is_clean:
            assert report.figures["groups stored"] == 100
            assert report.figures["batches planned"] == 2
            assert report.figures["loss tokens planned"] == 4_000
