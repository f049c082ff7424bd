"""Shared memory between real processes: what a kill -9 of either side leaves, and what it must not."""

from __future__ import annotations

import multiprocessing
import os
import signal
from contextlib import contextmanager
from multiprocessing import resource_tracker

import pytest
import torch

from ring_async.errors import WeightsError
from ring_async.testing.builders import make_config
from ring_async.transport.curve import make_socket_dir
from ring_async.transport.weights.registry import make_weight_receiver, make_weight_sender
from ring_async.transport.weights.shm import ShmWeightReceiver, ShmWeightSender
from ring_async.types import PolicyVersion

context = multiprocessing.get_context("spawn")


@pytest.fixture(scope="module", autouse=True)
def _tracker():
    """multiprocessing starts this once and keeps it; it is nobody's leak."""
    resource_tracker.ensure_running()


def make_tensors(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.full((1 << 20,), value)}


def run_sender(pipe) -> None:
    """Publish version after version, on request."""
    sender = ShmWeightSender(bucket_bytes=1 << 20)
    while True:
        number = pipe.recv()
        pipe.send(sender.publish(PolicyVersion(0, number), make_tensors(float(number)).items()))


def run_receiver(pipe) -> None:
    """Stage what is announced and hold it."""
    receiver = ShmWeightReceiver()
    held = []
    while True:
        staged = receiver.stage(pipe.recv())
        held.append(staged.tensors["w"])
        pipe.send(float(held[-1].mean()))


@contextmanager
def running(target):
    """A process and the pipe to it; killed at the end, if not before."""
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    try:
        yield process, ours
    finally:
        kill(process)
        process.close()
        ours.close()


def kill(process) -> None:
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join()


def ask(pipe, question):
    pipe.send(question)
    assert pipe.poll(30)
    return pipe.recv()


def test_weights_in_force_outlive_a_sender_that_was_killed():
    receiver = ShmWeightReceiver()
    with running(run_sender) as (process, pipe):
        announcement = ask(pipe, 7)
        staged = receiver.stage(announcement)
        kill(process)
        assert float(staged.tensors["w"].mean()) == 7.0
        with pytest.raises(WeightsError, match="its sender is gone"):
            receiver.stage(announcement)
    with running(run_sender) as (_, pipe):
        assert float(receiver.stage(ask(pipe, 8)).tensors["w"].mean()) == 8.0
        assert float(staged.tensors["w"].mean()) == 7.0


def test_a_slab_that_a_killed_receiver_held_is_used_again():
    sender = ShmWeightSender(bucket_bytes=1 << 20, retain_versions=1)
    inodes = []

    def publish(number: int):
        announcement = sender.publish(PolicyVersion(0, number), make_tensors(float(number)).items())
        inodes.append(announcement.manifest["source"]["inode"])
        return announcement

    with running(run_receiver) as (process, pipe):
        assert ask(pipe, publish(0)) == 0.0
        publish(1)
        publish(2)
        assert len(set(inodes)) == 3  # The receiver holds the first.
        assert ask(pipe, publish(3)) == 3.0
        kill(process)
    for number in range(4, 8):
        publish(number)
    assert len(set(inodes[3:])) <= 3
    assert inodes[7] in inodes[3:7]
    sender.close()


@pytest.mark.parametrize("channel", ["shm", "zmq"])
def test_the_configured_channel_brings_versions_across(channel):
    config = make_config(weights={"channel": channel, "bucket_bytes": 1 << 20})
    folder = make_socket_dir()
    sender = make_weight_sender(config, socket_dir=folder, actor_id="learner-0")
    receiver = make_weight_receiver(config, actor_id="rollout-0")
    for number in range(3):
        announcement = sender.publish(PolicyVersion(0, number), make_tensors(float(number)).items())
        assert announcement.channel == channel
        with receiver.stage(announcement) as staged:
            assert float(staged.tensors["w"].mean()) == float(number)
    receiver.close()
    sender.close()
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_nccl_without_a_gpu_is_refused_with_a_way_out():
    config = make_config(weights={"channel": "nccl"})
    with pytest.raises(WeightsError, match=r"needs NVIDIA GPUs .* use shm or zmq"):
        make_weight_sender(config, socket_dir=None, actor_id="learner-0")
    with pytest.raises(WeightsError, match=r"needs NVIDIA GPUs .* use shm or zmq"):
        make_weight_receiver(config, actor_id="rollout-0")
