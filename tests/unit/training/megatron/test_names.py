"""Which rectangle of which tensor lies where: the blocks of all ranks are the whole model, once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ring_async.config.learning import ParallelSection
from ring_async.errors import ConfigError
from ring_async.models.causal_lm import make_causal_lm
from ring_async.models.file_tensors import file_tensors
from ring_async.training.megatron.names.families import names_of
from ring_async.training.megatron.places import place_of
from tiny_models import FAMILIES

LAYOUTS = [
    ParallelSection(),
    ParallelSection(tensor=2),
    ParallelSection(pipeline=2, data=3),
    ParallelSection(tensor=2, pipeline=2, data=2, expert=4),
    ParallelSection(data=2, expert=2),
]


@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_are_those_of_transformers_files(family: str):
    names = names_of(FAMILIES[family])
    with torch.device("meta"):
        model = make_causal_lm(FAMILIES[family])
    theirs = {
        tensor.name: tensor.shape
        for name, parameter in model.named_parameters()
        for tensor in file_tensors(name, tuple(parameter.shape))
    }
    ours = {block.name: block.shape for one in names.of_rank(place_of(0, LAYOUTS[0])) for block in one.blocks}
    assert ours == theirs


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda one: f"{one.tensor}x{one.pipeline}x{one.data}x{one.expert}")
@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_of_all_ranks_cover_every_tensor_once_and_ranks_that_agree_hold_the_same(
    family: str, layout: ParallelSection
):
    names = names_of(FAMILIES[family])
    covered: dict[str, np.ndarray] = {}
    seen = set()
    for rank in range(layout.num_ranks):
        for mapped in names.of_rank(place_of(rank, layout)):
            taken: set[tuple[int | None, int]] = set()
            for block in mapped.blocks:
                rows = {(block.expert, block.at + row) for row in range(len(block.rows))}
                assert not taken & rows, f"{mapped.name}: two blocks in one place"
                taken |= rows
                count = covered.setdefault(block.name, np.zeros(block.shape, int))
                if (block.name, block.rows, block.columns) not in seen:
                    seen.add((block.name, block.rows, block.columns))
                    block.of_tensor(count)[...] += 1  # type: ignore[arg-type]
    assert all((count == 1).all() for count in covered.values())


def test_a_group_s_queries_come_before_its_key_and_value():
    names = names_of(FAMILIES["qwen3"])  # 4 heads and 2 groups of width 8
    (second,) = (
        mapped
        for mapped in names.of_rank(place_of(1, ParallelSection(tensor=2)))
        if mapped.name == "decoder.layers.0.self_attention.linear_qkv.weight"
    )
    found = [(block.name.rsplit(".", 2)[1], block.rows, block.at) for block in second.blocks]
    assert found == [("q_proj", range(16, 32), 0), ("k_proj", range(8, 16), 16), ("v_proj", range(8, 16), 24)]


def test_a_vocabulary_that_ranks_cannot_halve_leaves_the_last_one_fewer_rows():
    shape = names_of(FAMILIES["llama"]).shape
    assert [shape.rows_of_vocabulary(rank, 2) for rank in (0, 1)] == [range(7), range(7, 13)]


def test_ranks_of_a_stage_go_by_tensor_then_data_and_experts_cut_across():
    layout = ParallelSection(tensor=2, data=2, expert=2, pipeline=2)
    places = [place_of(rank, layout) for rank in range(8)]
    assert [one.tensor for one in places] == [0, 1] * 4
    assert [one.data for one in places] == [0, 0, 1, 1] * 2
    assert [one.expert for one in places] == [0, 1] * 4
    assert [one.pipeline for one in places] == [0] * 4 + [1] * 4
    assert [one.leads_rows for one in places] == [False] * 4 + [True, False] * 2


def test_a_model_of_another_family_is_refused_with_those_there_are():
    config = FAMILIES["llama"].__class__(attention_bias=True)
    with pytest.raises(ConfigError, match="llama with attention_bias is not built for megatron; use hf"):
        names_of(config)
    config.model_type = "gpt2"
    with pytest.raises(ConfigError, match="megatron knows no gpt2, but bailing_moe, llama, qwen2"):
        names_of(config)
