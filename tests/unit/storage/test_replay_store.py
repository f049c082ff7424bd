"""The store: one commit is all or nothing, reads are uncopied and proven, a full disk loses nothing."""

import re

import lmdb
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_async.columns import DTYPES, Column
from ring_async.core.replay.progress import Progress, make_record
from ring_async.errors import StorageError
from ring_async.storage.replay_store import ReplayStore, StoredGroup, Writes
from ring_async.testing.builders import make_group
from ring_async.trajectory_states import TrajectoryState

MIB = 1 << 20


def stored(group_id="g0", **fields):
    group = make_group(group_id, **fields)
    record = make_record(group.header, [0.5, -0.5], group.loss_mask, 1)
    return StoredGroup(record, (Progress(), Progress()), group.buffers)


@pytest.fixture
def store(tmp_path):
    store = ReplayStore(tmp_path / "shard", 64 * MIB)
    yield store
    store.close()


def test_a_group_comes_back_as_it_was(store, tmp_path):
    group = make_group("g0", lengths=[5, 7], num_prompt_tokens=3)
    store.commit(Writes(puts=[stored("g0", lengths=[5, 7], num_prompt_tokens=3)]))
    store.close()
    again = ReplayStore(tmp_path / "shard", 64 * MIB)
    with again.read() as reader:
        found = reader.group("g0")
        assert found.header == group.header
        for ours, theirs in zip(found.buffers, group.buffers, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert not found.response_ids.flags.owndata
        assert [record.header.group_id for record, _ in reader.records()] == ["g0"]
        del found
    again.close()


def test_columns_of_a_large_group_are_aligned(store):
    columns = [Column("turn_rewards", "float64"), Column("kv_age", "uint8"), Column("experts", "int16", 3)]
    store.commit(Writes(puts=[stored("g0", lengths=[1_001, 1_000], columns=columns)]))
    with store.read() as reader:
        found = reader.group("g0")
        assert all(array.flags.aligned for array in found.columns.values())
        del found


def test_a_release_keeps_what_became_of_the_group(store):
    store.commit(Writes(puts=[stored("g0"), stored("g1")]))
    last = (Progress(state="retired", is_open=False), Progress(state="evicted", cause="stale", is_open=False))
    store.commit(Writes(progress={"g0": last}, released=["g0"]))
    with store.read() as reader:
        assert reader.group("g0") is None
        assert reader.ended("g0") == last
        assert reader.ended("g1") is None
        assert reader.group_ids() == ["g1"]


def test_reports_stay_until_heard(store):
    states = (TrajectoryState("g0/0", "buffered", "", 4),)
    store.commit(Writes(unheard={3: states, 4: states}))
    store.commit(Writes(heard=[3]))
    with store.read() as reader:
        assert list(reader.unheard()) == [(4, states)]


def test_a_flipped_bit_is_found(tmp_path):
    store = ReplayStore(tmp_path, 64 * MIB)
    store.commit(Writes(puts=[stored("g0", lengths=4_000)]))
    store.close()
    path = tmp_path / "data.mdb"
    data = bytearray(path.read_bytes())
    at = data.find(make_group("g0", lengths=4_000).response_ids.tobytes()[:64])
    data[at + 10] ^= 1
    path.write_bytes(data)
    again = ReplayStore(tmp_path, 64 * MIB)
    with again.read() as reader, pytest.raises(StorageError, match="group g0 is damaged on disk"):
        reader.group("g0")
    again.close()


def test_a_full_store_refuses_groups_but_not_deletions(tmp_path):
    store = ReplayStore(tmp_path, 4 * MIB)
    number = 0
    refusal = ""
    while not refusal:
        try:
            store.commit(Writes(puts=[stored(f"g{number}", lengths=20_000)]))
            number += 1
        except StorageError as error:
            refusal = str(error)
    assert f"{tmp_path}: the replay store is full" in refusal
    assert "free of replay.map_size_bytes 4,194,304" in refusal
    assert number >= 5
    end = (Progress(state="evicted", is_open=False),) * 2
    store.commit(Writes(progress={"g0": end, "g1": end}, released=["g0", "g1"]))
    store.commit(Writes(puts=[stored("late", lengths=20_000)]))
    with store.read() as reader:
        assert sorted(reader.group_ids()) == sorted([*(f"g{n}" for n in range(2, number)), "late"])
    store.close()


def test_another_format_is_refused(tmp_path):
    store = ReplayStore(tmp_path, 4 * MIB)
    store.commit(Writes(meta={"format": 99}))
    store.close()
    with pytest.raises(StorageError, match="of format 99, this version reads 3"):
        ReplayStore(tmp_path, 4 * MIB)


@pytest.mark.parametrize("is_readonly", [False, True])
def test_a_store_of_the_format_before_is_refused_with_the_remedy(tmp_path, is_readonly):
    with lmdb.open(str(tmp_path), max_dbs=6) as environment:
        for table in ("groups", "progress", "ended", "plans", "unheard", "meta"):
            environment.open_db(table.encode())
        with environment.begin(write=True) as transaction:
            transaction.put(b"format", msgspec.msgpack.encode(2), db=environment.open_db(b"meta", transaction))
    said = (
        f"{tmp_path}: a replay store of format 2, this version reads 3. Go on with this run under the version of "
        "ring-async that began it, or start a new one under another run.name"
    )
    with pytest.raises(StorageError, match=re.escape(said)):
        ReplayStore(tmp_path, 4 * MIB, is_readonly=is_readonly)


any_columns = st.lists(
    st.builds(
        Column,
        st.from_regex(r"x_[a-z0-9_]{0,20}", fullmatch=True),
        st.sampled_from(sorted(DTYPES)),
        st.integers(1, 9),
    ),
    max_size=4,
    unique_by=lambda column: column.name,
)


@settings(max_examples=25, deadline=None)
@given(per_group=st.lists(st.tuples(any_columns, st.integers(1, 9)), min_size=1, max_size=3))
def test_columns_that_nobody_knows_are_stored_unharmed(tmp_path_factory, per_group):
    folder = tmp_path_factory.mktemp("store")
    fields = {f"g{n}": {"columns": columns, "lengths": [length, 3]} for n, (columns, length) in enumerate(per_group)}
    store = ReplayStore(folder, 4 * MIB)
    store.commit(Writes(puts=[stored(group_id, **those) for group_id, those in fields.items()]))
    store.close()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ReplayStore, "check", lambda *_, **__: None)  # a process for each example would take long
        again = ReplayStore(folder, 4 * MIB)
    with again.read() as reader:
        for group_id, those in fields.items():
            expected, found = make_group(group_id, **those), reader.group(group_id)
            assert found.header == expected.header
            found.check()
            for name, array in expected.columns.items():
                assert found.columns[name].tobytes() == array.tobytes()
                assert not found.columns[name].flags.owndata
            del found
    again.close()


def test_a_path_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=f"{tmp_path}/file/shard: the replay store cannot be opened"):
        ReplayStore(tmp_path / "file" / "shard", 4 * MIB)
