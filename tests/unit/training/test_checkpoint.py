import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_async.errors import StorageError
from ring_async.training.checkpoint import MANIFEST, CheckpointStore
from ring_async.types import PolicyVersion


def write_files(folder):
    (folder / "model.safetensors").write_bytes(b"weights" * 100)
    (folder / "sub").mkdir()
    (folder / "sub" / "state.json").write_text("{}")


def save(store: CheckpointStore, number: int, incarnation: int = 0, write=write_files):
    return store.save(PolicyVersion(incarnation, number), number, write)


def test_a_saved_checkpoint_is_found_whole(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    assert store.newest() is None
    folder = save(store, 20)
    assert folder == tmp_path / "checkpoints" / "0.20"
    found = store.newest()
    assert found is not None
    assert (found.folder, found.policy_version, found.plan_number) == (folder, PolicyVersion(0, 20), 20)
    assert (folder / "sub" / "state.json").read_text() == "{}"


def test_the_latest_incarnation_wins_and_numbers_are_not_compared_as_text(tmp_path):
    store = CheckpointStore(tmp_path, keep=5)
    for number, incarnation in ((100, 0), (9, 1), (20, 1)):
        save(store, number, incarnation)
    assert store.newest().policy_version == PolicyVersion(1, 20)


def test_only_the_last_ones_are_kept_once_the_newest_is_known(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    for number in (1, 2, 10):
        save(store, number)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.1", "0.10", "0.2"]
    store.forget_old()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.10", "0.2"]


@pytest.mark.parametrize("damage", ["no manifest", "cut", "changed", "missing", "bad manifest"])
def test_a_damaged_checkpoint_is_never_chosen(tmp_path, damage):
    store = CheckpointStore(tmp_path, keep=5)
    save(store, 1)
    folder = save(store, 2)
    weights, manifest = folder / "model.safetensors", folder / MANIFEST
    match damage:
        case "no manifest":
            manifest.unlink()
        case "cut":
            weights.write_bytes(weights.read_bytes()[:-1])
        case "changed":
            weights.write_bytes(weights.read_bytes()[:-1] + b"!")
        case "missing":
            weights.unlink()
        case "bad manifest":
            manifest.write_text(json.dumps({"files": 3}))
    assert store.newest().policy_version == PolicyVersion(0, 1)
    with pytest.raises(StorageError, match=r"0\.2"):
        store.read(folder)


@pytest.mark.parametrize("is_gone", [False, True])
def test_the_newest_whole_one_stands_in_for_a_damaged_one(tmp_path, is_gone):
    store = CheckpointStore(tmp_path, keep=5)
    for number in (3, 6, 9):
        wanted = save(store, number)
    (wanted / "model.safetensors").unlink()
    if is_gone:
        (wanted / MANIFEST).unlink()
    found, problems = store.restorable(wanted)
    assert found.plan_number == 6
    assert len(problems) == 1
    assert "0.9" in problems[0]


def test_a_whole_checkpoint_is_restored_without_a_word(tmp_path):
    store = CheckpointStore(tmp_path, keep=5)
    older = save(store, 3)
    save(store, 6)
    found, problems = store.restorable(older)
    assert (found.plan_number, problems) == (3, [])


def test_with_no_whole_checkpoint_each_is_named(tmp_path):
    store = CheckpointStore(tmp_path, keep=5)
    for number in (3, 6):
        (save(store, number) / "model.safetensors").unlink()
    with pytest.raises(StorageError, match=r"no checkpoint is whole: .*0\.6.*0\.3"):
        store.restorable(tmp_path / "0.6")


def test_a_crash_in_the_middle_leaves_nothing_under_a_final_name(tmp_path):
    store = CheckpointStore(tmp_path)
    save(store, 1)

    def crash(folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save(store, 2, write=crash)
    assert store.newest().policy_version == PolicyVersion(0, 1)
    save(store, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.1", "0.3"]


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(tmp_path):
    store = CheckpointStore(tmp_path)
    save(store, 1)

    def refuse(folder):
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match=r"0\.2: No space left on device"):
        save(store, 2, write=refuse)
    assert [path.name for path in tmp_path.iterdir()] == ["0.1"]


def test_saving_a_version_again_keeps_a_whole_one_and_replaces_a_damaged_one(tmp_path):
    store = CheckpointStore(tmp_path)
    folder = save(store, 1)

    def other(folder):
        (folder / "other").write_text("other")

    assert save(store, 1, write=other) == folder
    assert (folder / "model.safetensors").exists()
    (folder / "model.safetensors").unlink()
    save(store, 1, write=other)
    assert (folder / "other").exists()
    assert store.newest() is not None


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), which=st.integers(0, 2))
def test_a_flip_anywhere_is_noticed_or_harmless(place, bit, which):
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(Path(folder), keep=5)
        save(store, 3)
        newest = save(store, 6)
        path = sorted(path for path in newest.rglob("*") if path.is_file())[which]
        raw = bytearray(path.read_bytes())
        raw[int(place * len(raw))] ^= 1 << bit
        path.write_bytes(raw)
        found, problems = store.restorable(newest)
        if problems:
            assert found.plan_number == 3
        else:
            assert path.name == MANIFEST
            assert (found.policy_version, found.plan_number) == (PolicyVersion(0, 6), 6)
