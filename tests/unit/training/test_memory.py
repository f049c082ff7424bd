"""The estimate of a rank's memory, by hand and against what was measured."""

import pytest

from ring_async.testing.builders import make_config
from ring_async.training.memory import HEAD_CHUNK_BYTES, ModelSizes, rank_memory

GIB = 1 << 30
DENSE = ModelSizes(1_720_000_000, 311_000_000, 28, 2048, 4096, 6144)
EXPERTS = ModelSizes(2_840_000_000, 518_000_000, 4, 2048, 3072, 6 * 1408 + 2816, 6)


def memory(sizes: ModelSizes, capacity: int, **overrides: object):
    return rank_memory(
        make_config(learner__token_capacity=capacity, learner__rows_per_microbatch=1, **overrides), sizes
    )


@pytest.mark.parametrize(("sizes", "measured_gib"), [(DENSE, 67), (EXPERTS, 61)], ids=["dense", "experts"])
def test_one_rank_needs_what_was_measured_within_a_tenth(sizes: ModelSizes, measured_gib: float):
    assert memory(sizes, 16_384).total / GIB == pytest.approx(measured_gib, rel=0.1)


def test_by_hand():
    sizes = ModelSizes(1000, 200, 2, 8, 12, 16)
    found = memory(sizes, 32)
    assert found.state == 16 * 1000
    assert found.compute_weights == 2 * 1000
    assert found.activations == 32 * 2 * 2 * (4 * 8 + 2 * 12 + 3 * 16)
    assert found.head == HEAD_CHUNK_BYTES
    sharded = memory(sizes, 32, learner__parallel__shard=4, loss__kl_coefficient=0.1)
    assert sharded.state == 16 * 250
    # embedding and head, two layers in bfloat16 and one gradient in float32; the reference's slice in float32, and its
    # embedding and head
    assert sharded.compute_weights == 2 * 200 + 8 * 400 + 4 * 250 + 2 * 200


def test_what_is_computed_again_needs_its_inputs_and_one_layer_at_a_time():
    sizes = ModelSizes(1000, 200, 2, 8, 12, 16)
    a_layer = 2 * (4 * 8 + 2 * 12 + 3 * 16)
    assert memory(sizes, 32, learner__recompute=1.0).activations == 32 * (2 * 2 * 8 + a_layer)


def test_experts_over_ranks_are_not_gathered():
    sizes = ModelSizes(1000, 200, 2, 8, 12, 16, 2, 600)
    spread = memory(sizes, 32, learner__parallel={"shard": 4, "expert": 4})
    # a layer's other weights, and the quarter of its experts that is this rank's
    assert spread.compute_weights == 2 * 200 + 8 * (100 + 300 / 4)


def test_copies_of_the_model_save_nothing_and_slices_do():
    copies = memory(DENSE, 16_384, learner__parallel__data=8)
    slices = memory(DENSE, 16_384, learner__parallel__shard=8)
    assert copies.state == 8 * slices.state
    assert copies.activations == slices.activations


def test_megatron_by_hand():
    sizes = ModelSizes(1000, 200, 2, 8, 12, 16, 2, 400)
    layout = {"tensor": 2, "data": 2, "pipeline": 2, "expert": 2}
    found = memory(
        sizes, 32, learner__engine="megatron", **{f"learner__parallel__{key}": value for key, value in layout.items()}
    )
    # Of 400 weights of experts two ranks hold half each, on two stages, and two hold the same; of 600 others likewise.
    assert found.state == 4 * (100 + 150) + 12 * (100 / 2 + 150 / 2)
    assert found.compute_weights == 2 * (100 + 150)
    assert found.activations == memory(sizes, 32).activations / 2
