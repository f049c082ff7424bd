"""A checkpoint's folder that somebody else has written into executes nothing."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from bait import Touch
from ring_async.errors import StorageError
from ring_async.testing.builders import make_config
from ring_async.testing.packed_batches import write_tiny_llama
from ring_async.training.checkpoint import MANIFEST, CheckpointStore
from ring_async.training.hf.engine import HfTrainEngine
from ring_async.types import PolicyVersion


@pytest.fixture
def engine(tmp_path: Path) -> HfTrainEngine:
    return HfTrainEngine(make_config(), write_tiny_llama(tmp_path / "model"))


def test_the_bait_works(tmp_path: Path):
    pickle.loads(pickle.dumps(Touch(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "trainer_state.json", "config.json", MANIFEST]
)
def test_a_pickle_in_place_of_a_file_is_refused_unread(engine: HfTrainEngine, tmp_path: Path, name: str):
    store, marker = CheckpointStore(tmp_path / "checkpoints"), tmp_path / "marker"
    folder = store.save(PolicyVersion(0, 1), 1, engine.capture().write)
    (folder / name).write_bytes(pickle.dumps(Touch(marker)))
    with pytest.raises(StorageError):
        store.read(folder)
    assert store.newest() is None
    if name not in {"config.json", MANIFEST}:  # which the trainer does not read
        with pytest.raises(StorageError):
            engine.restore(folder)
    assert not marker.exists()


def test_what_lies_beside_the_files_is_never_opened(engine: HfTrainEngine, tmp_path: Path):
    marker, folder = tmp_path / "marker", tmp_path / "saved"
    folder.mkdir()
    engine.capture().write(folder)
    bait = pickle.dumps(Touch(marker))
    for name in (".metadata", "common.pt", "optimizer.pt", "pytorch_model.bin", "__0_0.distcp", "training_args.bin"):
        (folder / name).write_bytes(bait)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModelForCausalLM": "evil.Evil"}}))
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    engine.restore(folder)
    HfTrainEngine(make_config(), folder)
    assert not marker.exists()
