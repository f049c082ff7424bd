"""Unfinished responses: append only, one writer, never of a complete group, and a damaged piece costs only itself."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_async.columns import NO_COLUMNS, Column
from ring_async.core.advantages import AdvantageRules
from ring_async.core.replay.buffer_rules import BufferRules
from ring_async.core.replay.partials import AppendOutcome, PartialHeader, PartialResponse
from ring_async.errors import StorageError
from ring_async.storage.partial_store import PartialStore
from ring_async.storage.replay_shard import ReplayShard
from ring_async.storage.replay_store import ReplayStore
from ring_async.testing.builders import make_column, make_group, version
from ring_async.types import Segment

MIB = 1 << 20
AGE = Column("kv_age", "uint16", 3)


def piece(start, end, *, trajectory_id="g0/0", number=0, columns=(AGE,)):
    """Tokens `[start, end)` whose ids are their positions."""
    header = PartialHeader(trajectory_id, start, end - start, (Segment(start, end, version(number)),), tuple(columns))
    ids = np.arange(start, end, dtype=np.int32)
    values = {column.name: make_column(column, end - start, seed=start) for column in columns}
    return PartialResponse(header, ids, -ids.astype(np.float32), np.ones(ids.size, np.uint8), values or NO_COLUMNS)


def open_store(folder, known=()):
    return PartialStore(folder / "partials", 16 * MIB, lambda group_ids: set(known) & set(group_ids))


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path)
    yield store
    store.close()


def outcomes(answers):
    return [(answer.outcome.value, answer.num_held) for answer in answers]


def test_pieces_come_back_as_one_response(store):
    assert outcomes(store.append([piece(0, 4), piece(0, 2, trajectory_id="g0/3")], "a.0")) == [
        ("appended", 4),
        ("appended", 2),
    ]
    assert outcomes(store.append([piece(4, 7, number=1)], "a.0")) == [("appended", 7)]
    assert outcomes(store.append([piece(7, 9, number=1)], "a.0")) == [("appended", 9)]
    first, other = store.take_over("g0", "b.0")
    assert first.header == PartialHeader("g0/0", 0, 9, (Segment(0, 4, version(0)), Segment(4, 9, version(1))), (AGE,))
    np.testing.assert_array_equal(first.response_ids, np.arange(9))
    np.testing.assert_array_equal(first.behavior_logprobs, -np.arange(9, dtype=np.float32))
    expected = b"".join(make_column(AGE, n, seed=start).tobytes() for start, n in ((0, 4), (4, 3), (7, 2)))
    assert first.columns["kv_age"].tobytes() == expected
    assert (other.header.trajectory_id, other.header.num_tokens) == ("g0/3", 2)


def test_a_piece_that_comes_twice_or_out_of_order_changes_nothing(store):
    store.append([piece(0, 4)], "a.0")
    assert outcomes(store.append([piece(0, 4), piece(2, 4), piece(6, 8), piece(2, 6)], "a.0")) == [
        ("duplicate", 4),
        ("duplicate", 4),
        ("out_of_order", 4),
        ("out_of_order", 4),
    ]
    (held,) = store.take_over("g0", "a.0")
    np.testing.assert_array_equal(held.response_ids, np.arange(4))


def test_whoever_took_a_group_over_is_the_only_writer(store):
    store.append([piece(0, 4)], "a.0")
    store.take_over("g0", "b.0")
    assert outcomes(store.append([piece(4, 6)], "a.0")) == [("not_writer", 4)]
    assert outcomes(store.append([piece(4, 6)], "b.0")) == [("appended", 6)]
    assert store.take_over("never-seen", "b.0") == []
    assert outcomes(store.append([piece(0, 1, trajectory_id="never-seen/0")], "a.0")) == [("not_writer", 0)]


def test_groups_whose_ids_begin_alike_are_apart(store):
    store.append([piece(0, 4), piece(0, 2, trajectory_id="g00/0"), piece(0, 3, trajectory_id="g/0")], "a.0")
    store.delete(["g0"])
    assert sorted(store.group_ids()) == ["g", "g00"]
    assert [p.header.num_tokens for g in ("g", "g0", "g00") for p in store.take_over(g, "a.0")] == [3, 2]


def test_pieces_survive_being_opened_again(store, tmp_path):
    store.append([piece(0, 4)], "a.0")
    store.close()
    again = open_store(tmp_path)
    assert outcomes(again.append([piece(4, 5)], "b.0")) == [("not_writer", 4)]
    assert [p.header.num_tokens for p in again.take_over("g0", "b.0")] == [4]
    again.close()


def test_pieces_of_a_group_that_replay_knows_are_never_handed_out(store, tmp_path):
    store.append([piece(0, 4), piece(0, 4, trajectory_id="g1/0")], "a.0")
    store.close()  # as if the process died between the commit of g0 and the deletion of its pieces
    again = open_store(tmp_path, known={"g0"})
    assert again.take_over("g0", "b.0") == []
    assert again.group_ids() == ["g1"]
    assert outcomes(again.append([piece(4, 5)], "a.0")) == [("ended", 0)]
    again.close()


def test_a_damaged_piece_is_said_and_dropped_with_those_after_it(store, tmp_path, caplog):
    for start in (0, 1_000, 2_000):
        store.append([piece(start, start + 1_000)], "a.0")
    store.append([piece(0, 5, trajectory_id="g0/1")], "a.0")
    store.close()
    path = tmp_path / "partials" / "data.mdb"
    data = bytearray(path.read_bytes())
    at = data.find(np.arange(1_000, 1_100, dtype=np.int32).tobytes())
    data[at + 10] ^= 1
    path.write_bytes(data)
    again = open_store(tmp_path)
    with caplog.at_level(logging.WARNING):
        first, other = again.take_over("g0", "b.0")
    assert (first.header.num_tokens, other.header.num_tokens) == (1_000, 5)
    assert "tokens of g0/0 from 1000 on are damaged on disk and are dropped" in caplog.text
    assert outcomes(again.append([piece(1_000, 1_500)], "b.0")) == [("appended", 1_500)]
    again.close()


def test_a_damaged_last_piece_is_dropped_when_more_is_appended(store, tmp_path, caplog):
    store.append([piece(0, 500)], "a.0")
    store.append([piece(500, 1_500)], "a.0")
    store.close()
    path = tmp_path / "partials" / "data.mdb"
    data = bytearray(path.read_bytes())
    data[data.find(np.arange(600, 700, dtype=np.int32).tobytes())] ^= 1
    path.write_bytes(data)
    again = open_store(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert outcomes(again.append([piece(1_500, 1_600)], "a.0")) == [("out_of_order", 500)]
    assert "tokens of g0/0 from 500 on are damaged" in caplog.text
    assert outcomes(again.append([piece(500, 1_600)], "a.0")) == [("appended", 1_600)]
    again.close()


def test_pieces_that_disagree_on_a_column_are_dropped(store, caplog):
    store.append([piece(0, 4), piece(0, 3, trajectory_id="g0/1")], "a.0")
    store.append([piece(4, 6, columns=[Column("kv_age", "uint8")])], "a.0")
    with caplog.at_level(logging.WARNING):
        assert [p.header.trajectory_id for p in store.take_over("g0", "b.0")] == ["g0/1"]
    assert "column kv_age (uint8 × 1) differs" in caplog.text
    assert outcomes(store.append([piece(0, 4)], "b.0")) == [("appended", 4)]


def test_what_was_written_before_the_host_restarted_is_not_read(store, tmp_path, caplog):
    store.append([piece(0, 4)], "a.0")
    store.close()
    (tmp_path / "partials" / "boot_id").write_text("another boot")
    again = open_store(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert again.take_over("g0", "b.0") == []
    assert "from before the host's restart are dropped" in caplog.text
    again.close()


def test_a_store_that_cannot_be_read_is_begun_anew(store, tmp_path, caplog):
    store.append([piece(0, 4)], "a.0")
    store.close()
    data = tmp_path / "partials" / "data.mdb"
    data.write_bytes(data.read_bytes()[: 2 * 4096] + b"\xff" * (data.stat().st_size - 2 * 4096))
    again = open_store(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert again.take_over("g0", "b.0") == []
    assert "unfinished responses are sampled again" in caplog.text
    assert outcomes(again.append([piece(0, 4)], "b.0")) == [("appended", 4)]
    again.close()


def test_a_full_store_drops_what_nobody_has_written_to_for_longest(tmp_path, caplog):
    store = PartialStore(tmp_path / "partials", MIB, lambda group_ids: set())
    with caplog.at_level(logging.WARNING):
        for number in range(40):
            store.append([piece(0, 5_000, trajectory_id=f"g{number}/0", columns=())], "a.0")
    kept = sorted(store.group_ids(), key=lambda group_id: int(group_id[1:]))
    assert kept == [f"g{number}" for number in range(40 - len(kept), 40)]
    assert 5 <= len(kept) < 40
    assert "the unfinished responses of g0 are dropped" in caplog.text
    store.close()


def test_a_store_that_cannot_be_made_says_what_it_costs(tmp_path):
    (tmp_path / "partials").write_text("")
    store = open_store(tmp_path)
    with pytest.raises(StorageError, match="unfinished responses cannot be kept"):
        store.append([piece(0, 1)], "a.0")


def test_the_commit_of_a_group_deletes_its_pieces(tmp_path):
    rules = BufferRules(token_budget=10, token_capacity=32)
    shard = ReplayShard(ReplayStore(tmp_path / "shard", 16 * MIB), rules, AdvantageRules())
    assert not (tmp_path / "shard" / "partials").exists()
    shard.partials.append([piece(0, 4, trajectory_id=f"{g}/0") for g in ("buffered", "dropped", "other")], "a.0")
    shard.put([make_group("buffered"), make_group("dropped", rewards=[1, 1])])
    assert shard.partials.group_ids() == ["other"]
    assert shard.partials.append([piece(4, 6, trajectory_id="dropped/0")], "a.0")[0].outcome is AppendOutcome.ENDED
    shard.close()
    again = ReplayShard(ReplayStore(tmp_path / "shard", 16 * MIB), rules, AdvantageRules())
    assert [p.header.num_tokens for p in again.partials.take_over("other", "b.0")] == [4]
    again.close()


@settings(max_examples=30, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    order=st.lists(st.integers(0, 5), max_size=12),
)
def test_in_whatever_order_pieces_come_the_held_tokens_are_a_beginning_of_the_response(tmp_path_factory, cuts, order):
    ends = np.cumsum(cuts)
    store = open_store(tmp_path_factory.mktemp("store"))
    num_held = 0
    for place in order:
        end = int(ends[place % len(cuts)])
        start = end - cuts[place % len(cuts)]
        (answer,) = store.append([piece(start, end)], "a.0")
        num_held = end if start == num_held else num_held
        assert answer.num_held == num_held
    found = store.take_over("g0", "a.0")
    assert [int(n) for p in found for n in p.response_ids] == list(range(num_held))
    store.close()
