"""Tensors that ranks write whole and anyone reads in slices."""

import resource
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ring_async.errors import StorageError
from ring_async.training.hf.tensor_files import TensorFiles, owners_of, write_tensors


@given(st.dictionaries(st.text(min_size=1), st.integers(0, 1000), min_size=1), st.integers(1, 5))
def test_every_tensor_has_one_owner_and_no_rank_twice_a_fair_share(sizes: dict[str, int], num_ranks: int):
    owners = owners_of(sizes, num_ranks)
    assert owners.keys() == sizes.keys()
    loads = [sum(sizes[name] for name, owner in owners.items() if owner == rank) for rank in range(num_ranks)]
    # Largest first: the fullest rank is within one tensor of the mean.
    assert max(loads) <= sum(sizes.values()) / num_ranks + max(sizes.values())


def test_slices_of_what_two_ranks_wrote(tmp_path: Path):
    one, other = torch.arange(12.0).view(6, 2), torch.tensor(7)
    write_tensors(tmp_path, "model", {"one": one}, 0, 2)
    write_tensors(tmp_path, "model", {"other": other}, 1, 2)
    write_tensors(tmp_path, "optimizer", {"moment": one}, 0, 1)
    with TensorFiles(tmp_path, "model") as files:
        assert files.names == {"one", "other"}
        assert files.shape("one") == (6, 2)
        assert torch.equal(files.read("one", 2, 5), one[2:5])
        assert files.read("one", 6, 6).shape == (0, 2)
        assert files.read("other").item() == 7


def test_a_file_that_is_none_of_ours_is_refused(tmp_path: Path):
    with pytest.raises(StorageError, match=r"holds no model\.safetensors"):
        TensorFiles(tmp_path, "model")
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04nothing")
    with pytest.raises(StorageError, match=r"cannot read .*model\.safetensors"):
        TensorFiles(tmp_path, "model")


def test_a_full_disk_is_a_storage_error(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"cannot write .*model\.safetensors"):
            write_tensors(tmp_path, "model", {"a": torch.zeros(100_000)}, 0, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
