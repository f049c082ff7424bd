"""Weights over NCCL between two GPUs: exact, under computation, and through a kill in mid-broadcast.

`make bench-weights-gpu` measures the same with 4 and 32 GiB; its last result is in docs/performance.md.
"""

from __future__ import annotations

import threading
import time
from multiprocessing import resource_tracker

import pytest
import torch

from ring_async.config.schema import TransportSection
from ring_async.core.fold64 import fold64
from ring_async.testing.weight_peer import WeightPeer, digest
from ring_async.transport.curve import make_socket_dir
from ring_async.transport.weights.nccl.device import CudaDevice, Part, unsigned, wait
from ring_async.transport.weights.nccl.sender import NcclWeightSender
from ring_async.types import PolicyVersion

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs"),
    pytest.mark.may_leak(reason="CUDA and NCCL keep threads and descriptors for the life of the process"),
]


@pytest.fixture(scope="module", autouse=True)
def _tracker():
    """multiprocessing starts this once and keeps it; it is nobody's leak."""
    resource_tracker.ensure_running()


def make_tensors(seed: int, num_mib: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator(device="cuda:0").manual_seed(seed)
    rows = num_mib * (1 << 20) // 2 // 1024 // 4
    tensors = {
        f"w{i}": torch.empty(rows, 1024, dtype=torch.bfloat16, device="cuda:0").normal_(generator=generator)
        for i in range(4)
    }
    tensors["odd"] = torch.arange(7, dtype=torch.uint8, device="cuda:0")
    tensors["shifted"] = torch.arange(1001, dtype=torch.bfloat16, device="cuda:0")[1:]
    tensors["transposed"] = torch.randn(300, 200, device="cuda:0").T
    tensors["host"] = torch.randn(100)
    return tensors


@pytest.fixture
def sender():
    folder = make_socket_dir()
    sender = NcclWeightSender(
        "weights",
        device=CudaDevice(0),
        transport=TransportSection(),
        socket_dir=folder,
        bucket_bytes=16 << 20,
        deadline_s=30.0,
    )
    yield sender
    sender.close()
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def wait_until(is_so, timeout_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.001)


@pytest.mark.parametrize("num_bytes", [64, 4096, 1 << 20, (1 << 24) + 64])
def test_the_kernel_copies_and_folds_like_the_definition(num_bytes):
    lane = CudaDevice(0).lane()
    source = torch.randint(0, 256, (num_bytes,), dtype=torch.uint8, device="cuda:0")
    bucket = torch.zeros(num_bytes, dtype=torch.uint8, device="cuda:0")
    torch.cuda.synchronize()
    sums = lane.zeros(2)
    cut = num_bytes // 48 * 16
    here, there = source.data_ptr(), bucket.data_ptr()
    halves = [Part(here, there, cut, 0, 1), Part(here + cut, there + cut, num_bytes - cut, cut, 1)]
    lane.fold64(lane.tabulate(halves), sums, "beside")
    lane.fold64(lane.tabulate([Part(there, 0, num_bytes, 0, 0)]), sums, "alone")
    folded = lane.fetch(sums)
    wait(lane.mark(), time.monotonic() + 10, "kernel")
    assert torch.equal(bucket, source)
    assert unsigned(folded) == (fold64(bucket.cpu().numpy()),) * 2


def test_versions_are_exact_while_the_receiver_computes(sender):
    peer = WeightPeer("receiver", 1)
    peer.call("join", sender.endpoint)
    wait_until(lambda: sender.members == ("receiver",))
    for number in range(4):
        tensors = make_tensors(number, 256)
        expected = digest(tensors.items())
        announcement = sender.publish(PolicyVersion(0, number), tensors.items())
        for tensor in tensors.values():
            tensor.zero_()  # As the next training step may.
        assert peer.call("stage", announcement, True).digest == expected
        assert peer.call("swap", number % 2 == 1).pause_s < 1.0
    peer.close()


def test_a_receiver_killed_in_mid_broadcast_is_dropped_and_gets_the_next_version_after_rejoining(sender):
    tensors = make_tensors(0, 8192)
    peer = WeightPeer("receiver", 1)
    peer.call("stage", sender.publish(PolicyVersion(0, 0), tensors.items()))
    publisher = threading.Thread(target=sender.publish, args=(PolicyVersion(0, 1), tensors.items()))
    publisher.start()
    wait_until(lambda: (sender.waiting_for or "").startswith("sending"))
    peer.kill()
    publisher.join()
    wait_until(lambda: not sender.members)
    sender.publish(PolicyVersion(0, 2), tensors.items())
    peer = WeightPeer("receiver", 1)
    joined_s = peer.call("join", sender.endpoint)
    tensors = make_tensors(3, 256)
    announcement = sender.publish(PolicyVersion(0, 3), tensors.items())
    assert peer.call("stage", announcement, True).digest == digest(tensors.items())
    assert peer.call("swap").in_force_s - joined_s < 10.0
    peer.close()
