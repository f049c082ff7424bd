"""Weights over real sockets: exact, resumable, deltas, late joiners, strangers at the door."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest
import torch
import zmq

from ring_async.config.schema import TransportSection
from ring_async.errors import WeightsError
from ring_async.transport.curve import CurveKeys, make_socket_dir
from ring_async.transport.weights.wire import encode
from ring_async.transport.weights.zmq import fetch as weights_fetch
from ring_async.transport.weights.zmq.receiver import ZmqWeightReceiver
from ring_async.transport.weights.zmq.sender import ZmqWeightSender
from ring_async.transport.weights.zmq.wire import Ask, Open
from ring_async.types import PolicyVersion

NUM_VALUES = 3_000_000


def version(number: int) -> PolicyVersion:
    return PolicyVersion(1, number)


def make_tensors(seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "matrix": torch.randn(NUM_VALUES // 100, 100, generator=generator).to(dtype),
        "scalar": torch.tensor(0.5),
        "empty": torch.empty(0, 2),
    }


def step(tensors: dict[str, torch.Tensor], share: float) -> dict[str, torch.Tensor]:
    """Change this share of the values by one unit in the last place."""
    changed = {name: tensor.clone() for name, tensor in tensors.items()}
    words = changed["matrix"].view(-1).view(torch.int16)
    words[: int(share * words.numel())] += 1
    return changed


def assert_same(staged, tensors) -> None:
    for name, tensor in tensors.items():
        assert torch.equal(staged.tensors[name], tensor)


@pytest.fixture
def folder():
    directory = make_socket_dir()
    yield directory
    for path in sorted(directory.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    directory.rmdir()


class Ends:
    """A sender and any number of receivers that speak to it."""

    def __init__(self, kind: str, folder: Path, sender_type: type[ZmqWeightSender] = ZmqWeightSender) -> None:
        self.keys = CurveKeys.make_run_keys(folder / "keys") if kind == "tcp" else None
        self.sender = sender_type(
            "weights", transport=TransportSection(kind=kind), socket_dir=folder, keys=self.keys, bucket_bytes=1 << 20
        )
        self.receivers: list[ZmqWeightReceiver] = []

    def receiver(self, **options) -> ZmqWeightReceiver:
        self.receivers.append(ZmqWeightReceiver(keys=self.keys, **{"deadline_s": 10.0, **options}))
        return self.receivers[-1]

    def close(self) -> None:
        for receiver in self.receivers:
            receiver.close()
        self.sender.close()


@pytest.fixture(params=["ipc", "tcp"])
def ends(request, folder):
    ends = Ends(request.param, folder)
    yield ends
    ends.close()


@pytest.fixture
def ipc(folder):
    ends = Ends("ipc", folder)
    yield ends
    ends.close()


def test_a_version_arrives_bit_for_bit_and_a_delta_after_it(ends):
    receiver = ends.receiver()
    tensors = make_tensors()
    first = receiver.stage(ends.sender.publish(version(1), tensors.items()))
    assert_same(first, tensors)
    assert first.report.delta_ratio is None
    assert first.report.wire_bytes == first.report.num_bytes
    changed = step(tensors, 0.01)
    second = receiver.stage(ends.sender.publish(version(2), changed.items()))
    assert_same(second, changed)
    assert_same(first, tensors)
    assert second.report.delta_ratio == pytest.approx(0.02, rel=0.05)


def test_without_a_change_nothing_is_sent(ipc):
    receiver = ipc.receiver()
    tensors = make_tensors()
    receiver.stage(ipc.sender.publish(version(1), tensors.items()))
    staged = receiver.stage(ipc.sender.publish(version(2), tensors.items()))
    assert staged.report.delta_ratio == 0.0
    assert_same(staged, tensors)


def test_the_whole_version_is_sent_where_that_is_smaller_or_the_base_unknown(ipc):
    receiver = ipc.receiver()
    receiver.stage(ipc.sender.publish(version(1), make_tensors(1).items()))
    assert receiver.stage(ipc.sender.publish(version(2), make_tensors(2).items())).report.delta_ratio is None
    ipc.sender.publish(version(3), make_tensors(2).items())
    ipc.sender.publish(version(4), make_tensors(2).items())  # The sender retains 3 and 4, the receiver holds 2.
    staged = receiver.stage(ipc.sender.publish(version(5), make_tensors(2).items()))
    assert staged.report.delta_ratio is None
    assert_same(staged, make_tensors(2))


def test_another_model_is_sent_whole(ipc):
    receiver = ipc.receiver()
    receiver.stage(ipc.sender.publish(version(1), make_tensors().items()))
    other = make_tensors(dtype=torch.float32)
    assert_same(receiver.stage(ipc.sender.publish(version(2), other.items())), other)


def test_a_base_that_somebody_wrote_to_costs_a_fetch_and_no_more(ipc):
    receiver = ipc.receiver()
    tensors = make_tensors()
    receiver.stage(ipc.sender.publish(version(1), tensors.items())).tensors["matrix"].zero_()
    changed = step(tensors, 0.01)
    staged = receiver.stage(ipc.sender.publish(version(2), changed.items()))
    assert_same(staged, changed)
    assert staged.report.wire_bytes > staged.report.num_bytes


def test_late_joiners_fetch_the_current_version_side_by_side(ends):
    announcement = ends.sender.publish(version(1), make_tensors().items())
    staged: dict[int, object] = {}

    def join(number: int) -> None:
        staged[number] = ends.receiver().stage(announcement)

    threads = [threading.Thread(target=join, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(staged) == 4
    for each in staged.values():
        assert_same(each, make_tensors())


class StutteringSender(ZmqWeightSender):
    """Answers so many questions for bytes, then none until it is told to go on."""

    num_left = 3
    num_answered = 0

    def _on_ask(self, peer: bytes, message: Ask) -> None:
        if self.num_left > 0:
            self.num_left -= 1
            self.num_answered += 1
            super()._on_ask(peer, message)


def test_a_fetch_cut_off_goes_on_where_it_was(folder):
    ends = Ends("ipc", folder, StutteringSender)
    receiver = ends.receiver(deadline_s=0.5)
    tensors = make_tensors()
    announcement = ends.sender.publish(version(1), tensors.items())
    with pytest.raises(WeightsError, match=r"nothing heard from ipc://.* for 0\.5 s"):
        receiver.stage(announcement)
    ends.sender.num_left = 1000
    staged = receiver.stage(announcement)
    assert_same(staged, tensors)
    assert staged.report.wire_bytes == staged.report.num_bytes
    assert ends.sender.num_answered == -(-staged.report.num_bytes // weights_fetch.CHUNK_BYTES)
    ends.close()


def test_lost_answers_are_asked_for_again(folder, monkeypatch):
    monkeypatch.setattr(weights_fetch, "RETRY_S", 0.1)
    ends = Ends("ipc", folder, StutteringSender)
    receiver = ends.receiver()
    announcement = ends.sender.publish(version(1), make_tensors().items())
    threading.Timer(0.3, lambda: setattr(ends.sender, "num_left", 1000)).start()
    assert_same(receiver.stage(announcement), make_tensors())
    ends.close()


def test_a_window_is_all_that_is_ever_asked_for(folder):
    ends = Ends("ipc", folder, StutteringSender)
    asked: list[int] = []
    ends.sender.num_left = 0
    original = ends.sender._on_ask
    ends.sender._on_ask = lambda peer, message: (asked.append(message.start), original(peer, message))
    with pytest.raises(WeightsError):
        ends.receiver(deadline_s=0.3).stage(ends.sender.publish(version(1), make_tensors().items()))
    assert len(asked) == min(weights_fetch.WINDOW, 6)
    ends.close()


def test_a_retired_version_says_so(ends):
    receiver = ends.receiver()
    announcements = [ends.sender.publish(version(number), make_tensors().items()) for number in range(3)]
    for number in (0, 2):
        if number:
            ends.sender.retire(version(number))
        with pytest.raises(WeightsError, match=rf"1\.{number}: retired"):
            receiver.stage(announcements[number])
    assert_same(receiver.stage(announcements[1]), make_tensors())


def test_closing_the_receiver_ends_a_stage_under_way(folder):
    ends = Ends("ipc", folder, StutteringSender)
    receiver = ends.receiver()
    announcement = ends.sender.publish(version(1), make_tensors().items())
    threading.Timer(0.2, receiver.close).start()
    with pytest.raises(WeightsError, match="closed"):
        receiver.stage(announcement)
    ends.close()


def test_a_sender_that_is_gone_is_named_at_the_deadline(ipc):
    receiver = ipc.receiver(deadline_s=0.3)
    announcement = ipc.sender.publish(version(1), make_tensors().items())
    ipc.sender.close()
    with pytest.raises(WeightsError, match="nothing heard from ipc://"):
        receiver.stage(announcement)


def test_strangers_get_nothing_and_honest_receivers_go_on(folder):
    ends = Ends("tcp", folder)
    announcement = ends.sender.publish(version(1), make_tensors().items())
    context = zmq.Context()
    strangers = []
    for key_kind in ("none", "wrong client key", "wrong server key"):
        stranger = context.socket(zmq.DEALER)
        stranger.setsockopt(zmq.LINGER, 0)
        if key_kind != "none":
            public, secret = zmq.curve_keypair()
            stranger.setsockopt(zmq.CURVE_PUBLICKEY, public)
            stranger.setsockopt(zmq.CURVE_SECRETKEY, secret)
            right = ends.keys.server_public
            stranger.setsockopt(zmq.CURVE_SERVERKEY, right if key_kind == "wrong client key" else public)
        stranger.connect(ends.sender.endpoint)
        stranger.send(encode(Open(version(1), None)))
        strangers.append(stranger)
    host, port = ends.sender.endpoint.removeprefix("tcp://").split(":")
    for noise in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096)):
        with socket.create_connection((host, int(port))) as plain:
            plain.sendall(noise)
    assert_same(ends.receiver().stage(announcement), make_tensors())
    assert not any(stranger.poll(100) for stranger in strangers)
    context.destroy(linger=0)
    ends.close()


def test_tcp_without_keys_is_refused_on_both_ends(folder):
    with pytest.raises(WeightsError, match="CURVE keys"):
        ZmqWeightSender("weights", transport=TransportSection(kind="tcp"), socket_dir=folder)
    ends = Ends("tcp", folder)
    receiver = ZmqWeightReceiver()
    with pytest.raises(WeightsError, match="CURVE keys"):
        receiver.stage(ends.sender.publish(version(1), make_tensors().items()))
    receiver.close()
    ends.close()


def test_rubbish_from_a_member_is_counted_and_dropped(ipc):
    announcement = ipc.sender.publish(version(1), make_tensors().items())
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.connect(ipc.sender.endpoint)
    for rubbish in (
        b"",
        b"\xc1",
        os.urandom(100),
        encode(Ask(version(1), None, -1, 10)),
        encode(Ask(version(1), None, 0, 1 << 40)),
        encode(Ask(version(1), None, 1 << 40, 10)),
    ):
        dealer.send(rubbish)
    assert not dealer.poll(200)
    assert ipc.sender._service.num_malformed == 6
    assert_same(ipc.receiver().stage(announcement), make_tensors())
    context.destroy(linger=0)
