"""Megatron-core's process groups for a learner's ranks, made and given up with the engine.

Owns: `parallel_state`, which Megatron-core keeps once a process. Does not own joining the learner's ranks
(`training.ranks`).
"""

from __future__ import annotations

import os

import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

from ring_async.config.learning import ParallelSection
from ring_async.training.megatron.on_cpu import compute_on_cpu
from ring_async.training.megatron.places import Place, place_of
from ring_async.training.ranks import COLLECTIVE_TIMEOUT_S, Ranks


def make_groups(ranks: Ranks, parallel: ParallelSection) -> Place:
    """Make the groups of a learner's ranks; returns the place of this one.

    A rank alone gets a process group of its own, since Megatron-core asks for one.
    """
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")  # the order in which it overlaps sums with products
    compute_on_cpu()
    if not dist.is_initialized():
        backend = "nccl" if ranks.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel(
        parallel.tensor,
        parallel.pipeline,
        expert_model_parallel_size=parallel.expert,
        expert_tensor_parallel_size=1,
        distributed_timeout_minutes=int(COLLECTIVE_TIMEOUT_S / 60),
        create_gloo_process_groups=False,
    )
    model_parallel_cuda_manual_seed(0)
    place = place_of(ranks.rank, parallel)
    assert place.tensor == parallel_state.get_tensor_model_parallel_rank()
    assert place.data == parallel_state.get_data_parallel_rank()
    assert place.pipeline == parallel_state.get_pipeline_model_parallel_rank()
    assert place.expert == parallel_state.get_expert_model_parallel_rank()
    return place


def give_up_groups(ranks: Ranks) -> None:
    """Give the groups up; a rank alone gives up its process group too. Idempotent."""
    parallel_state.destroy_model_parallel()
    if ranks.is_alone and dist.is_initialized():
        dist.destroy_process_group()
