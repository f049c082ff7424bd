"""Shared memory inside one process: exact bytes, no copy for receivers, slabs used again only when nobody maps them."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import msgspec
import pytest
import torch

from ring_async.core.weights.plan import Manifest
from ring_async.errors import WeightsError
from ring_async.transport.messages.versions import WeightsAnnouncement
from ring_async.transport.weights import shm as weights_shm
from ring_async.transport.weights.shm import HEADER_BYTES, ShmWeightReceiver, ShmWeightSender
from ring_async.types import PolicyVersion


def version(number: int) -> PolicyVersion:
    return PolicyVersion(3, number)


def make_tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "matrix": torch.randn(33, 65, generator=generator).to(torch.bfloat16),
        "transposed": torch.randn(40, 30, generator=generator).T,
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "mask": torch.tensor([True, False, True]),
        "bytes": torch.randint(0, 256, (1000,), dtype=torch.uint8, generator=generator),
        "parameter": torch.nn.Parameter(torch.randn(7, generator=generator)),
    }


def assert_same(staged, tensors) -> None:
    assert list(staged.tensors) == list(tensors)
    for name, tensor in tensors.items():
        assert staged.tensors[name].dtype == tensor.dtype
        assert staged.tensors[name].shape == tensor.shape
        assert torch.equal(staged.tensors[name], tensor)


@pytest.fixture
def sender():
    sender = ShmWeightSender(bucket_bytes=1024)
    yield sender
    sender.close()


@pytest.fixture
def receiver():
    receiver = ShmWeightReceiver()
    yield receiver
    receiver.close()


def test_every_dtype_and_shape_arrives_bit_for_bit(sender, receiver):
    tensors = make_tensors()
    announcement = msgspec.msgpack.decode(
        msgspec.msgpack.encode(sender.publish(version(1), tensors.items())), type=WeightsAnnouncement
    )
    with receiver.stage(announcement) as staged:
        assert_same(staged, tensors)
        assert staged.policy_version == version(1)
        assert staged.report.wire_bytes == 0


def test_what_was_published_stays_when_the_tensors_change(sender, receiver):
    tensors = make_tensors()
    announcement = sender.publish(version(1), tensors.items())
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    with torch.no_grad():
        tensors["parameter"].zero_()
    assert_same(receiver.stage(announcement), before)


def test_two_receivers_share_the_memory(sender):
    announcement = sender.publish(version(1), {"w": torch.ones(1 << 20, dtype=torch.uint8)}.items())
    staged = [ShmWeightReceiver().stage(announcement) for _ in range(2)]
    inode = announcement.manifest["source"]["inode"]
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if f" {inode} " in line]
    assert len(mapped) == 3  # the sender's and two receivers'
    private_kib = [
        int(line.split()[1])
        for line in Path("/proc/self/smaps").read_text().split(mapped[0].split()[0])[1].splitlines()[:20]
        if line.startswith("Anonymous")
    ]
    assert private_kib[0] == 0
    assert all(int(view.tensors["w"].sum()) == 1 << 20 for view in staged)


def test_writing_to_a_staged_tensor_reaches_nobody_else(sender, receiver):
    announcement = sender.publish(version(1), {"w": torch.ones(100)}.items())
    mine, theirs = receiver.stage(announcement), receiver.stage(announcement)
    mine.tensors["w"].zero_()
    assert float(theirs.tensors["w"].sum()) == 100.0


def test_a_slab_is_used_again_once_nobody_maps_it(sender, receiver):
    inodes = []
    for number in range(6):
        announcement = sender.publish(version(number), {"w": torch.full((1000,), float(number))}.items())
        inodes.append(announcement.manifest["source"]["inode"])
        receiver.stage(announcement).close()
    assert len(set(inodes)) == 3
    assert inodes[3:] == inodes[:3]


def test_a_version_in_force_is_never_written_to(sender, receiver):
    staged = receiver.stage(sender.publish(version(0), {"w": torch.zeros(1000)}.items()))
    in_force = staged.tensors["w"]
    staged.close()
    inodes = set()
    for number in range(1, 6):
        announcement = sender.publish(version(number), {"w": torch.full((1000,), float(number))}.items())
        inodes.add(announcement.manifest["source"]["inode"])
        assert float(in_force.abs().sum()) == 0.0
    assert len(inodes) >= 3


def test_a_retired_version_says_so(sender, receiver):
    announcements = [sender.publish(version(number), {"w": torch.zeros(10)}.items()) for number in range(5)]
    for announcement in announcements[:2]:
        with pytest.raises(WeightsError, match=r"version 3\.[01]: .*retired"):
            receiver.stage(announcement)
    receiver.stage(announcements[-1]).close()


def test_after_the_sender_closed_nothing_can_be_staged_but_what_is_staged_stays(receiver):
    sender = ShmWeightSender()
    announcement = sender.publish(version(1), {"w": torch.ones(10)}.items())
    staged = receiver.stage(announcement)
    sender.close()
    sender.close()
    with pytest.raises(WeightsError, match="sender is gone"):
        receiver.stage(announcement)
    assert float(staged.tensors["w"].sum()) == 10.0


def test_a_flipped_bit_is_found(sender, receiver):
    announcement = sender.publish(version(1), {"w": torch.zeros(4096, dtype=torch.uint8)}.items())
    with Path(announcement.manifest["source"]["path"]).open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[HEADER_BYTES + 2049] ^= 4
    with pytest.raises(WeightsError, match="1 of 4 buckets corrupt, first 2"):
        receiver.stage(announcement)


def test_padding_is_zero_also_where_a_slab_held_something_else(receiver):
    sender = ShmWeightSender(bucket_bytes=1024, retain_versions=1)
    sender.publish(version(0), {"w": torch.full((900,), 255, dtype=torch.uint8)}.items())
    sender.publish(version(1), {"w": torch.full((900,), 255, dtype=torch.uint8)}.items())
    reused = {f"t{i}": torch.full((1,), i, dtype=torch.uint8) for i in range(10)}
    first = sender.publish(version(2), reused.items())
    fresh = ShmWeightSender(bucket_bytes=1024)
    second = fresh.publish(version(2), reused.items())
    assert first.manifest["checksums"] == second.manifest["checksums"]
    sender.close()
    fresh.close()


def test_a_version_is_published_once(sender):
    sender.publish(version(1), {"w": torch.zeros(1)}.items())
    with pytest.raises(WeightsError, match="published before"):
        sender.publish(version(1), {"w": torch.zeros(1)}.items())


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([("w", torch.zeros(1, dtype=torch.complex64))], "tensor w: dtype complex64 cannot be sent"),
        ([("w", torch.zeros(1)), ("w", torch.zeros(1))], "named twice"),
    ],
)
def test_what_cannot_be_sent_is_refused_by_name(sender, tensors, message):
    with pytest.raises(WeightsError, match=message):
        sender.publish(version(1), tensors)


def test_too_little_memory_is_an_error_that_names_the_need(sender, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(WeightsError, match=r"cannot take \d+ MiB for a weight version .*weights.channel=zmq"):
        sender.publish(version(1), {"w": torch.zeros(1 << 20)}.items())


def test_a_failed_copy_leaves_no_version(sender, monkeypatch):
    monkeypatch.setattr(weights_shm, "pack", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sender.publish(version(1), {"w": torch.zeros(1)}.items())
    monkeypatch.undo()
    sender.publish(version(1), {"w": torch.zeros(1)}.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channel": "zmq"}, "published over zmq, this receiver speaks shm"),
        ({"manifest": {}}, "malformed manifest"),
        ({"policy_version": PolicyVersion(9, 9)}, r"9\.9: retired"),
    ],
)
def test_an_announcement_of_something_else_is_refused(sender, receiver, change, message):
    announcement = sender.publish(version(1), {"w": torch.zeros(10)}.items())
    with pytest.raises(WeightsError, match=message):
        receiver.stage(msgspec.structs.replace(announcement, **change))


def test_a_path_that_leads_elsewhere_is_refused(sender, receiver, tmp_path):
    announcement = sender.publish(version(1), {"w": torch.zeros(10)}.items())
    other = tmp_path / "other"
    other.write_bytes(bytes(1 << 16))
    manifest = Manifest.from_plain(announcement.manifest)
    moved = msgspec.structs.replace(manifest, source={**manifest.source, "path": str(other)})
    with pytest.raises(WeightsError, match="retired"):
        receiver.stage(msgspec.structs.replace(announcement, manifest=moved.to_plain()))
