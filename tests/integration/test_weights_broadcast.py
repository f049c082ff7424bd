"""The GPU broadcast rehearsed on the CPU: real processes, host memory, a communicator that hangs like NCCL."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import resource_tracker

import pytest
import torch

from ring_async.config.schema import TransportSection
from ring_async.errors import WeightsError
from ring_async.testing.fake_nccl import HostDevice
from ring_async.testing.weight_peer import WeightPeer, digest
from ring_async.transport.curve import make_socket_dir
from ring_async.transport.messages.versions import WeightsAnnouncement
from ring_async.transport.weights.nccl.receiver import NcclWeightReceiver
from ring_async.transport.weights.nccl.sender import NcclWeightSender
from ring_async.types import PolicyVersion


@pytest.fixture(scope="module", autouse=True)
def _tracker():
    """multiprocessing starts this once and keeps it; it is nobody's leak."""
    resource_tracker.ensure_running()


def version(number: int) -> PolicyVersion:
    return PolicyVersion(0, number)


def make_tensors(seed: int = 0, num_values: int = 500_000) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "matrix": torch.randn(num_values // 50, 50, generator=generator).to(torch.bfloat16),
        "transposed": torch.randn(30, 20, generator=generator).T,
        "scalar": torch.tensor(1.5),
        "empty": torch.empty(0, 4),
    }


def assert_same(staged, tensors) -> None:
    assert list(staged.tensors) == list(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(staged.tensors[name], tensor)


@contextmanager
def open_sender(device: HostDevice | None = None, **options):
    folder = make_socket_dir()
    defaults = {"bucket_bytes": 1 << 16, "gate_s": 2.0, "lost_s": 4.0, "deadline_s": 20.0}
    sender = NcclWeightSender(
        "weights",
        device=device or HostDevice(),
        transport=TransportSection(),
        socket_dir=folder,
        **{**defaults, **options},
    )
    try:
        yield sender
    finally:
        sender.close()
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


@contextmanager
def open_receivers(sender: NcclWeightSender, *members: str, device: HostDevice | None = None):
    receivers = [NcclWeightReceiver(member, device=device or HostDevice(), deadline_s=20.0) for member in members]
    try:
        for receiver in receivers:
            receiver.join(sender.endpoint)
        wait_until(lambda: set(members) <= set(sender.members))
        yield receivers
    finally:
        for receiver in receivers:
            receiver.close()


def wait_until(is_so, timeout_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.005)


@pytest.mark.parametrize("is_retaining", [True, False])
def test_versions_reach_all_members_bit_for_bit(is_retaining):
    with open_sender(is_retaining=is_retaining) as sender, open_receivers(sender, "a", "b") as receivers:
        for number in range(3):
            tensors = make_tensors(number)
            announcement = sender.publish(version(number), tensors.items())
            for tensor in tensors.values():
                tensor.add_(1)  # What was published is a copy.
            for receiver in receivers:
                assert_same(receiver.stage(announcement), make_tensors(number))
        assert not sender.dropped


def test_a_late_joiner_is_served_from_the_retained_version_and_takes_part_in_the_next():
    with open_sender() as sender, open_receivers(sender, "a") as (first,):
        announcement = sender.publish(version(1), make_tensors(1).items())
        assert_same(first.stage(announcement), make_tensors(1))
        late = NcclWeightReceiver("late", device=HostDevice(), deadline_s=20.0)
        assert_same(late.stage(announcement), make_tensors(1))
        announcement = sender.publish(version(2), make_tensors(2).items())
        for receiver in (first, late):
            assert_same(receiver.stage(announcement), make_tensors(2))
        assert sender.members == ("a", "late")
        late.close()


def test_without_retention_a_joiner_enters_at_the_next_version():
    with open_sender(is_retaining=False) as sender:
        missed = sender.publish(version(1), make_tensors(1).items())
        receiver = NcclWeightReceiver("late", device=HostDevice(), deadline_s=0.5)
        with pytest.raises(WeightsError, match=r"version 0\.1: not received"):
            receiver.stage(missed)
        wait_until(lambda: sender.members == ("late",))
        assert_same(receiver.stage(sender.publish(version(2), make_tensors(2).items())), make_tensors(2))
        receiver.close()


def test_an_older_version_than_the_one_here_is_refused():
    with open_sender() as sender, open_receivers(sender, "a") as (receiver,):
        old = sender.publish(version(1), make_tensors(1).items())
        new = sender.publish(version(2), make_tensors(2).items())
        assert_same(receiver.stage(new), make_tensors(2))
        with pytest.raises(WeightsError, match=r"superseded by 0\.2"):
            receiver.stage(old)


def test_staged_weights_are_not_touched_by_later_versions():
    with open_sender() as sender, open_receivers(sender, "a") as (receiver,):
        staged = receiver.stage(sender.publish(version(1), make_tensors(1).items()))
        for number in (2, 3):
            receiver.stage(sender.publish(version(number), make_tensors(number).items())).close()
        assert_same(staged, make_tensors(1))


@pytest.mark.parametrize("bucket_bytes", [1 << 16, 4 << 20], ids=["from_slots", "from_where_tensors_lie"])
def test_a_receiver_killed_in_mid_broadcast_is_dropped_and_gets_the_next_version_after_rejoining(bucket_bytes):
    tensors = make_tensors(1, num_values=4_000_000)
    with (
        open_sender(HostDevice(bytes_per_s=20e6), bucket_bytes=bucket_bytes) as sender,
        open_receivers(sender, "stays") as (stays,),
        ThreadPoolExecutor(1) as publisher,
    ):
        peer = WeightPeer("killed", None)
        peer.call("join", sender.endpoint)
        wait_until(lambda: sender.members == ("killed", "stays"))
        announcement = sender.publish(version(0), make_tensors(0).items())
        assert_same(stays.stage(announcement), make_tensors(0))
        peer.call("stage", announcement)
        publishing = publisher.submit(sender.publish, version(1), tensors.items())
        wait_until(lambda: (sender.waiting_for or "").startswith("sending"))
        time.sleep(0.1)
        peer.kill()
        assert_same(stays.stage(publishing.result()), tensors)
        assert "killed" in {drop.member for drop in sender.dropped}
        assert "killed" not in sender.members
        peer = WeightPeer("killed", None)
        joined_s = peer.call("join", sender.endpoint)
        wait_until(lambda: sender.members == ("killed", "stays"))
        tensors = make_tensors(2)
        announcement = sender.publish(version(2), tensors.items())
        staged = peer.call("stage", announcement, True)
        swapped = peer.call("swap")
        assert staged.digest == digest(tensors.items())
        assert swapped.in_force_s > joined_s
        assert_same(stays.stage(announcement), tensors)
        peer.close()


def test_a_member_that_stands_still_is_dropped_at_the_gate_and_rejoins_by_itself():
    with open_sender() as sender, open_receivers(sender, "stays") as (stays,):
        peer = WeightPeer("frozen", None)
        peer.call("join", sender.endpoint)
        wait_until(lambda: len(sender.members) == 2)
        os.kill(peer.pid, signal.SIGSTOP)
        try:
            announcement = sender.publish(version(1), make_tensors(1).items())
            assert_same(stays.stage(announcement), make_tensors(1))
            assert "frozen" not in sender.members
        finally:
            os.kill(peer.pid, signal.SIGCONT)
        staged = peer.call("stage", announcement, True)
        assert staged.digest == digest(make_tensors(1).items())
        peer.close()


def test_a_sender_that_dies_in_mid_broadcast_leaves_the_version_in_force_alone():
    with open_sender(HostDevice(bytes_per_s=20e6)) as sender, open_receivers(sender, "a") as (receiver,):
        staged = receiver.stage(sender.publish(version(1), make_tensors(1, 100_000).items()))
        announcement = sender.publish(version(2), make_tensors(2, 4_000_000).items())
        wait_until(lambda: (sender.waiting_for or "").startswith("sending"))
        time.sleep(0.1)
        sender.close()
        receiver._membership._deadline_s = 0.5
        with pytest.raises(WeightsError, match=r"version 0\.2: not received"):
            receiver._membership.take(announcement.policy_version, time.monotonic() + 1.0)
        assert_same(staged, make_tensors(1, 100_000))
    with open_sender() as successor:
        announcement = successor.publish(PolicyVersion(1, 2), make_tensors(3).items())
        again = NcclWeightReceiver("a", device=HostDevice(), deadline_s=20.0)
        assert_same(again.stage(announcement), make_tensors(3))
        again.close()


@pytest.mark.parametrize("is_retaining", [True, False])
def test_tensors_may_change_as_soon_as_publish_returns(is_retaining):
    """Large tensors are sent from where they lie; the second version finds the communicator ready, and does so."""
    device = HostDevice(bytes_per_s=100e6)
    with (
        open_sender(device, is_retaining=is_retaining, bucket_bytes=4 << 20) as sender,
        open_receivers(sender, "a") as (receiver,),
    ):
        wait_until(lambda: sender.members == ("a",))
        for number in range(3):
            tensors = make_tensors(number, 5_000_000)
            announcement = sender.publish(version(number), tensors.items())
            for tensor in tensors.values():
                tensor.zero_()
            assert_same(receiver.stage(announcement), make_tensors(number, 5_000_000))


class SpoilingDevice(HostDevice):
    """Flips a bit of what it received, so many times."""

    def __init__(self, num_spoiled: int) -> None:
        super().__init__()
        self.num_spoiled = num_spoiled

    def connect(self, unique_id: bytes, num_ranks: int, rank: int):
        communicator = super().connect(unique_id, num_ranks, rank)
        receive = communicator._receive

        def spoil(chunk: memoryview) -> None:
            receive(chunk)
            if self.num_spoiled > 0:
                self.num_spoiled -= 1
                chunk[0] ^= 1

        communicator._receive = spoil
        return communicator


def test_a_flipped_bit_is_found_and_the_version_sent_again():
    with open_sender() as sender, open_receivers(sender, "a", device=SpoilingDevice(1)) as (receiver,):
        announcement = sender.publish(version(1), make_tensors(1).items())
        assert_same(receiver.stage(announcement), make_tensors(1))


class FullDevice(HostDevice):
    """Has no memory for the first few versions."""

    num_refused = 2

    def empty(self, num_bytes: int) -> torch.Tensor:
        if self.num_refused:
            self.num_refused -= 1
            raise WeightsError("GPU 0: no 1.0 GiB for a weight version")
        return super().empty(num_bytes)


def test_a_member_without_memory_does_not_keep_the_others_from_the_version():
    with open_sender() as sender, open_receivers(sender, "a") as (first,):
        with open_receivers(sender, "full", device=FullDevice()) as (full,):
            announcement = sender.publish(version(1), make_tensors(1).items())
            assert_same(first.stage(announcement), make_tensors(1))
            assert_same(full.stage(announcement), make_tensors(1))
        wait_until(lambda: sender.dropped)  # its goodbye is on its way when it has closed
        assert {drop.reason for drop in sender.dropped} == {"left"}


def test_publishing_without_members_waits_for_nobody():
    with open_sender() as sender:
        for number in range(3):
            sender.publish(version(number), make_tensors(number).items())
        with pytest.raises(WeightsError, match="published before"):
            sender.publish(version(1), make_tensors(1).items())


def test_a_stage_under_way_ends_when_the_receiver_closes():
    with open_sender() as sender:
        receiver = NcclWeightReceiver("a", device=HostDevice(), deadline_s=20.0)
        announcement = WeightsAnnouncement(version(9), "nccl", {"source": {"endpoint": sender.endpoint}})
        threading.Timer(0.2, receiver.close).start()
        with pytest.raises(WeightsError, match="closed"):
            receiver.stage(announcement)


def test_an_announcement_of_another_channel_is_refused():
    receiver = NcclWeightReceiver("a", device=HostDevice())
    with pytest.raises(WeightsError, match="not an announcement of the nccl channel"):
        receiver.stage(WeightsAnnouncement(version(1), "shm", {"source": {"endpoint": "ipc:///tmp/x"}}))
    receiver.close()
