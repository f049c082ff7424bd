"""The sender's buckets, packed over the host's device: with a slot for each, and with two."""

from __future__ import annotations

import ctypes

import pytest
import torch

from ring_async.core.fold64 import fold64
from ring_async.core.weights.plan import plan_layout
from ring_async.errors import WeightsError
from ring_async.testing.fake_nccl import HostDevice
from ring_async.transport.weights.nccl.device import CudaDevice, unsigned, wait
from ring_async.transport.weights.nccl.packing import NUM_LEAN_SLOTS, Packing, Slots


def make_packing(slots: Slots, sizes=(300, 70, 500), seed=0) -> tuple[Packing, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    flat = [torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator) for size in sizes]
    layout = plan_layout([(str(i), "uint8", (tensor.numel(),)) for i, tensor in enumerate(flat)], 128, 100)
    return Packing(slots, layout, flat, slots.device.callers_mark()), flat


def expected_bytes(packing: Packing, flat: list[torch.Tensor]) -> torch.Tensor:
    whole = torch.zeros(packing.layout.num_bytes, dtype=torch.uint8)
    for spec, tensor in zip(packing.layout.tensors, flat, strict=True):
        whole[spec.start : spec.end] = tensor
    return whole


def drain(packing: Packing) -> torch.Tensor:
    """What a broadcast would send."""
    is_held = packing.hold()
    sent = b""
    for bucket in range(packing.layout.num_buckets):
        parts, _ = packing.bucket(bucket, is_held=is_held)
        packing.hash(bucket)
        sent += b"".join(ctypes.string_at(address, num_bytes) for address, num_bytes in parts)
        packing.sent(bucket, HostDevice().callers_mark())
    if is_held:
        packing.stop_holding()
    return torch.frombuffer(bytearray(sent), dtype=torch.uint8)


@pytest.mark.parametrize("is_retaining", [True, False])
def test_buckets_hold_the_tensors_where_the_layout_wants_them(is_retaining):
    packing, flat = make_packing(Slots(HostDevice(), is_retaining=is_retaining))
    whole = expected_bytes(packing, flat)
    for _ in range(2):
        assert torch.equal(drain(packing), whole)
        cuts = [packing.layout.bucket_range(i) for i in range(packing.layout.num_buckets)]
        assert unsigned(packing.checksums()[0]) == tuple(fold64(whole[start:end].numpy()) for start, end in cuts)
        packing.restart()


def test_two_slots_take_the_memory_of_two_buckets():
    slots = Slots(HostDevice(), is_retaining=False)
    packing, _ = make_packing(slots)
    assert slots.take(packing.layout).numel() == NUM_LEAN_SLOTS * packing.layout.bucket_bytes


def test_a_retained_version_survives_its_tensors():
    packing, flat = make_packing(Slots(HostDevice(), is_retaining=True))
    whole = expected_bytes(packing, flat)
    packing.pack_all()
    for tensor in flat:
        tensor.zero_()
    packing.release(1.0)
    assert torch.equal(drain(packing), whole)


@pytest.mark.parametrize("is_retaining", [True, False])
def test_large_tensors_are_sent_from_where_they_lie_while_they_are_held(is_retaining):
    packing, flat = make_packing(Slots(HostDevice(), is_retaining=is_retaining), sizes=(128,))
    assert packing.hold()
    assert packing.bucket(0, is_held=True)[0] == [(flat[0].data_ptr(), 128)]


class ElsewhereDevice(HostDevice):
    """Tensors lie on another device than the broadcast's."""

    def holds(self, tensor: torch.Tensor) -> bool:
        del tensor
        return False


@pytest.mark.parametrize("is_retaining", [True, False])
def test_large_tensors_of_another_device_go_by_the_slots(is_retaining):
    packing, flat = make_packing(Slots(ElsewhereDevice(), is_retaining=is_retaining))
    assert torch.equal(drain(packing), expected_bytes(packing, flat))


def test_tensors_are_let_go_when_nobody_holds_them():
    packing, _ = make_packing(Slots(HostDevice(), is_retaining=True))
    packing.pack_all()
    assert packing.hold()
    with pytest.raises(WeightsError, match="does not end"):
        packing.release(0.01)
    assert not packing.hold()
    packing.stop_holding()
    packing.release(1.0)


def test_memory_is_kept_from_version_to_version():
    slots = Slots(HostDevice(), is_retaining=True)
    first, _ = make_packing(slots)
    address = slots.take(first.layout).data_ptr()
    second, _ = make_packing(slots, sizes=(10,))
    assert slots.take(second.layout).data_ptr() == address


def test_waiting_has_a_deadline():
    class Never:
        def is_done(self) -> bool:
            return False

    with pytest.raises(WeightsError, match="broadcast: not done before its deadline"):
        wait(Never(), 0.0, "broadcast")


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_without_a_gpu_the_channel_names_what_it_needs():
    with pytest.raises(WeightsError, match="needs NVIDIA GPUs"):
        CudaDevice(0)
