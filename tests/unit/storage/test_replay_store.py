"""The store: one commit is all or nothing, reads are uncopied and proven, a full disk loses nothing."""

import numpy as np
import pytest

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
    with pytest.raises(StorageError, match="of format 99, this version reads 2"):
        ReplayStore(tmp_path, 4 * MIB)


def test_a_path_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=f"{tmp_path}/file/shard: the replay store cannot be opened"):
        ReplayStore(tmp_path / "file" / "shard", 4 * MIB)
