"""Slices of ranks against numpy's own slicing, and that the slices of all ranks cover every byte as often as meant."""

from itertools import product

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_async.core.weights.plan import Manifest, WeightsLayout, plan_layout
from ring_async.core.weights.slices import (
    Cut,
    MeshRank,
    Owned,
    Range,
    SlicePlan,
    SliceRule,
    plan_slices,
)


def make_version(layout: WeightsLayout) -> np.ndarray:
    """Bytes that differ from their neighbours; what lies between tensors is 255."""
    version = np.full(layout.num_bytes, 255, np.uint8)
    for tensor in layout.tensors:
        version[tensor.start : tensor.end] = np.arange(tensor.num_bytes) % 251
    return version


def values_of(content: np.ndarray, layout: WeightsLayout) -> dict[str, np.ndarray]:
    """Tensors by name, as unsigned integers of their item's size."""
    kinds = {"bfloat16": np.uint16, "float32": np.uint32, "uint8": np.uint8}
    return {t.name: content[t.start : t.end].view(kinds[t.dtype]).reshape(t.shape) for t in layout.tensors}


def stage(plan: SlicePlan, version: np.ndarray) -> dict[str, np.ndarray]:
    """What a rank holds after it has taken its bytes out of one bucket after another."""
    held = np.zeros(plan.slice_layout.num_bytes, np.uint8)
    for bucket in range(plan.layout.num_buckets):
        first, last = plan.layout.bucket_range(bucket)
        content = version[first:last].copy()  # Nothing outside of this bucket can be read.
        for source, target, num_bytes in plan.copies(bucket):
            held[target : target + num_bytes] = content[source - first : source - first + num_bytes]
    return values_of(held, plan.slice_layout)


LLAMA = (
    SliceRule(r".*(q|k|v)_proj\.weight", cuts=(Cut("tensor", 0, unit=4),)),
    SliceRule(r".*(o|down)_proj\.weight", cuts=(Cut("tensor", 1),)),
    SliceRule(r".*norm\.weight"),
)


def test_rows_columns_and_whole_tensors_by_hand():
    layout = plan_layout(
        [
            ("0.q_proj.weight", "bfloat16", (16, 8)),
            ("0.k_proj.weight", "bfloat16", (8, 8)),
            ("0.o_proj.weight", "float32", (3, 8)),
            ("norm.weight", "float32", (5,)),
        ],
        bucket_bytes=128,
    )
    version = make_version(layout)
    whole = values_of(version, layout)
    plan = plan_slices(layout, LLAMA, {"tensor": MeshRank(1, 4)})
    held = stage(plan, version)
    assert list(held) == list(whole)
    assert np.array_equal(held["0.q_proj.weight"], whole["0.q_proj.weight"][4:8])
    # Two key heads of four rows, four ranks: ranks 0 and 1 share the first head.
    assert np.array_equal(held["0.k_proj.weight"], whole["0.k_proj.weight"][0:4])
    assert np.array_equal(held["0.o_proj.weight"], whole["0.o_proj.weight"][:, 2:4])
    assert np.array_equal(held["norm.weight"], whole["norm.weight"])
    assert plan.slices[2].ranges == ((Range(0, 3),), (Range(2, 4),))
    rows = [copy for bucket in range(layout.num_buckets) for copy in plan.copies(bucket)]
    assert rows[0] == (64, 0, 64)  # One run: rows lie next to each other.
    assert [num_bytes for source, _, num_bytes in rows if source >= layout.tensors[2].start][:3] == [8, 8, 8]
    assert plan.buckets == (0, 2, 3, 4)


def test_fused_projections_are_cut_block_by_block():
    layout = plan_layout([("qkv.weight", "uint8", (12, 2))], 64)
    rule = SliceRule(r"qkv\.weight", cuts=(Cut("tensor", 0, blocks=(8, 2, 2)),))
    version = make_version(layout)
    whole = values_of(version, layout)["qkv.weight"]
    for rank in range(2):
        held = stage(plan_slices(layout, [rule], {"tensor": MeshRank(rank, 2)}), version)
        rows = [*range(4 * rank, 4 * rank + 4), 8 + rank, 10 + rank]
        assert np.array_equal(held["qkv.weight"], whole[rows])


def test_experts_are_owned_by_number_or_cut_where_they_are_stacked():
    names = [f"layers.0.experts.{i}.up.weight" for i in range(4)]
    layout = plan_layout([*((name, "uint8", (2, 4)) for name in names), ("stacked", "uint8", (4, 2, 6))], 64)
    rules = [
        SliceRule(r".*experts\.(?P<number>\d+)\.up\.weight", (Cut("tensor", 1),), (Owned("expert", 4),)),
        SliceRule("stacked", cuts=(Cut("expert", 0), Cut("tensor", 2))),
    ]
    version = make_version(layout)
    whole = values_of(version, layout)
    mesh = {"expert": MeshRank(1, 2), "tensor": MeshRank(0, 2)}
    held = stage(plan_slices(layout, rules, mesh), version)
    assert list(held) == [names[2], names[3], "stacked"]
    assert np.array_equal(held[names[3]], whole[names[3]][:, :2])
    assert np.array_equal(held["stacked"], whole["stacked"][2:4, :, :3])


@settings(max_examples=40)
@given(data=st.data(), tensor_size=st.integers(1, 4), expert_size=st.integers(1, 3), bucket_bytes=st.integers(1, 700))
def test_all_ranks_together_cover_every_value_as_often_as_meant(data, tensor_size, expert_size, bucket_bytes):
    """A value is held by as many ranks as there are in the dimensions that its tensor's rule does not name."""
    sizes = {"tensor": tensor_size, "expert": expert_size}
    shapes, rules, copies_meant = [], [], {}
    for index in range(data.draw(st.integers(1, 5))):
        name = f"t{index}"
        shape = [data.draw(st.integers(1, 4)) for _ in range(data.draw(st.integers(1, 3)))]
        dtype = data.draw(st.sampled_from(["uint8", "bfloat16", "float32"]))
        axes = data.draw(st.permutations(range(len(shape))))
        named = data.draw(st.lists(st.sampled_from(sorted(sizes)), unique=True, max_size=len(shape)))
        cuts = []
        for axis, dimension in zip(axes, named, strict=False):
            blocks = [sizes[dimension] * data.draw(st.integers(0, 3)) for _ in range(data.draw(st.integers(1, 3)))]
            shape[axis] = sum(blocks)
            cuts.append(Cut(dimension, axis, tuple(blocks)))
        shapes.append((name, dtype, tuple(shape)))
        rules.append(SliceRule(name, cuts=tuple(cuts)))
        copies_meant[name] = int(np.prod([size for key, size in sizes.items() if key not in named]))
    layout = plan_layout(shapes, bucket_bytes)
    version = make_version(layout)
    whole = values_of(version, layout)
    covered = {name: np.zeros(values.shape, int) for name, values in whole.items()}
    for tensor_rank, expert_rank in product(range(tensor_size), range(expert_size)):
        mesh = {"tensor": MeshRank(tensor_rank, tensor_size), "expert": MeshRank(expert_rank, expert_size)}
        plan = plan_slices(layout, rules, mesh)
        held = stage(plan, version)
        for kept in plan.slices:
            name = layout.tensors[kept.index].name
            chosen = np.ix_(*([i for low, high in along for i in range(low, high)] for along in kept.ranges))
            covered[name][chosen] += 1
            assert np.array_equal(held[name], whole[name][chosen])
        in_buckets = [bucket for bucket in range(layout.num_buckets) if list(plan.copies(bucket))]
        assert plan.buckets == tuple(in_buckets)
    for name, counts in covered.items():
        assert (counts == copies_meant[name]).all(), name


@given(num_heads=st.sampled_from([1, 2, 4, 8]), size=st.sampled_from([1, 2, 4, 8]), unit=st.integers(1, 3))
def test_fewer_heads_than_ranks_are_shared_by_neighbours(num_heads, size, unit):
    layout = plan_layout([("k", "uint8", (num_heads * unit, 2))], 64)
    counts = np.zeros(num_heads * unit, int)
    starts = []
    for rank in range(size):
        rule = SliceRule("k", cuts=(Cut("tensor", 0, unit=unit),))
        plan = plan_slices(layout, [rule], {"tensor": MeshRank(rank, size)})
        ((low, high),) = plan.slices[0].ranges[0]
        counts[low:high] += 1
        starts.append(low)
    assert counts.tolist() == [max(1, size // num_heads)] * (num_heads * unit)
    assert starts == sorted(starts)


def test_a_manifest_carries_all_that_a_rank_plans_from():
    layout = plan_layout([("0.q_proj.weight", "float32", (8, 4)), ("norm.weight", "float32", (4,))], 64)
    manifest = Manifest(layout, "xxh3_64", (1, 2, 3))
    received = Manifest.from_plain(manifest.to_plain())
    mesh = {"tensor": MeshRank(0, 2)}
    plan = plan_slices(received.layout, LLAMA, mesh)
    assert plan == plan_slices(layout, LLAMA, mesh)
    assert plan.buckets == (0, 2)


def test_a_plan_and_rules_travel_as_messagepack():
    layout = plan_layout([("0.q_proj.weight", "float32", (8, 4))], 64)
    plan = plan_slices(layout, LLAMA, {"tensor": MeshRank(1, 2)})
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(plan), type=SlicePlan) == plan
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(LLAMA), type=tuple[SliceRule, ...]) == LLAMA


@pytest.mark.parametrize(
    ("rules", "mesh", "words"),
    [
        ([], {}, r"tensor experts\.5: no rule says which rank keeps it"),
        ([SliceRule(".*", cuts=(Cut("tensor", 0),))], {}, "mesh has no dimension tensor, only none"),
        ([SliceRule(".*", cuts=(Cut("tensor", 0),))], {"tensor": MeshRank(0, 4)}, "6 units along axis 0 cannot be"),
        ([SliceRule(".*", cuts=(Cut("tensor", 2),))], {"tensor": MeshRank(0, 2)}, "axis 2 of shape"),
        ([SliceRule(".*", cuts=(Cut("tensor", 0, (4, 4)),))], {"tensor": MeshRank(0, 2)}, "do not add up to axis 0"),
        ([SliceRule(".*", cuts=(Cut("tensor", 0, unit=4),))], {"tensor": MeshRank(0, 2)}, "units of 4"),
        ([SliceRule(".*", owned=(Owned("expert", 4),))], {"expert": MeshRank(0, 2)}, "no group `number`"),
        ([SliceRule(r".*(?P<number>\d)", owned=(Owned("e", 4),))], {"e": MeshRank(0, 2)}, "number 5, of only 4"),
        ([SliceRule(r".*(?P<number>\d)", owned=(Owned("e", 9),))], {"e": MeshRank(0, 2)}, "9 cannot be owned by 2"),
    ],
)
def test_what_cannot_be_shared_is_an_error_that_names_the_tensor(rules, mesh, words):
    layout = plan_layout([("experts.5", "float32", (6, 4))], 64)
    with pytest.raises(ValueError, match=words):
        plan_slices(layout, rules, mesh)


def test_a_rank_outside_of_its_mesh_is_refused():
    with pytest.raises(ValueError, match="rank 2 of 2"):
        MeshRank(2, 2)
