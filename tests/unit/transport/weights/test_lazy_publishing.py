"""A version whose tensors are made one at a time: the same bytes as when all are held, and few alive at once."""

import weakref

import numpy as np
import pytest
import torch

from ring_async.core.weights.plan import TensorShape
from ring_async.errors import WeightsError
from ring_async.transport.weights.host_memory import pack
from ring_async.transport.weights.shm import ShmWeightReceiver, ShmWeightSender
from ring_async.transport.weights.tensors import describe
from ring_async.types import PolicyVersion

SHAPES = [TensorShape(f"layers.{i}", "float32", (64,)) for i in range(50)] + [TensorShape("end", "uint8", (0,))]


def make(shape: TensorShape) -> torch.Tensor:
    index = SHAPES.index(shape)
    values = torch.arange(int(np.prod(shape.shape))) + index
    return values.to(getattr(torch, shape.dtype)).view(shape.shape)


@pytest.mark.parametrize("bucket_bytes", [64, 256, 448, 100_000])
@pytest.mark.parametrize("num_threads", [1, 3])
def test_lazy_and_held_tensors_make_the_same_bytes(bucket_bytes, num_threads):
    held_layout, held = describe([(s.name, make(s)) for s in SHAPES], None, bucket_bytes)
    lazy_layout, lazy = describe(((s.name, make(s)) for s in SHAPES), SHAPES, bucket_bytes)
    assert held_layout == lazy_layout
    targets = [np.full(held_layout.num_bytes, 255, np.uint8) for _ in range(2)]
    checksums = [pack(held_layout, t, target, num_threads) for t, target in zip((held, lazy), targets, strict=True)]
    assert checksums[0] == checksums[1]
    assert len(checksums[0]) == held_layout.num_buckets
    assert targets[0].tobytes() == targets[1].tobytes()
    assert targets[0][:256].view(np.float32).tolist() == list(range(64))


def test_few_lazy_tensors_are_alive_at_once():
    made: list[weakref.ref[np.ndarray]] = []
    num_alive = []

    def tensors():
        for shape in SHAPES:
            array = np.full(shape.shape, 1, shape.dtype)
            made.append(weakref.ref(array))
            num_alive.append(sum(ref() is not None for ref in made))
            yield shape.name, torch.from_numpy(array)
            del array

    layout, lazy = describe(tensors(), SHAPES, 256)
    pack(layout, lazy, np.empty(layout.num_bytes, np.uint8), 1)
    assert max(num_alive) <= 6  # Two buckets due, one being filled, one being made; here a tensor fills a bucket.
    assert sum(ref() is not None for ref in made) == 0


def test_what_was_not_promised_is_refused_and_the_sender_goes_on():
    sender, receiver = ShmWeightSender(bucket_bytes=256), ShmWeightReceiver()
    try:
        for wrong in (SHAPES[1:], [*SHAPES, TensorShape("more", "uint8", (1,))]):
            tensors = [(s.name, torch.zeros(s.shape, dtype=getattr(torch, s.dtype))) for s in wrong]
            with pytest.raises(WeightsError, match=r"promised"):
                sender.publish(PolicyVersion(0, 1), tensors, SHAPES)
        announcement = sender.publish(PolicyVersion(0, 1), ((s.name, make(s)) for s in SHAPES), SHAPES)
        with receiver.stage(announcement) as staged:
            assert list(staged.tensors) == [shape.name for shape in SHAPES]
            assert all(torch.equal(staged.tensors[shape.name], make(shape)) for shape in SHAPES)
    finally:
        receiver.close()
        sender.close()
