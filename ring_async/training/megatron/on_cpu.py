"""Megatron-core where there is no GPU: its modules see a `torch` whose GPU is the CPU.

Owns: that view of `torch`, given to Megatron-core's modules and to nobody else. Megatron-core writes
`device=torch.cuda.current_device()` and `device="cuda"` where it means "the device of this rank"; the processes that
try this trainer without a GPU (tests, `configs/local.yaml`) compute on a CPU, over gloo.

Rejected: replacing functions of `torch` itself, which transformers and others in the process use too.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable
from typing import Any

import torch

_FACTORIES = ("tensor", "zeros", "ones", "empty", "full", "zeros_like", "ones_like", "empty_like", "arange")


class _View(types.ModuleType):
    """A module seen with some of its names replaced."""

    def __init__(self, module: types.ModuleType, replaced: dict[str, Any]) -> None:
        super().__init__(module.__name__)
        self.__dict__.update(replaced)
        self.__dict__["_module"] = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_module"], name)


def compute_on_cpu() -> None:
    """Give every module of Megatron-core that is imported by now the view. Nothing happens where there is a GPU."""
    if torch.cuda.is_available():
        return
    from megatron.core.tensor_parallel import random

    cpu = torch.device("cpu")
    # Its random state is a GPU's, which nothing here draws from: there is no dropout.
    cuda = _View(
        torch.cuda,
        {
            "current_device": lambda: cpu,
            "synchronize": lambda *_: None,
            "get_rng_state": lambda *_: torch.get_rng_state(),
            "manual_seed": lambda _: None,
        },
    )
    replaced: dict[str, Any] = {name: _on_cpu(getattr(torch, name)) for name in _FACTORIES}
    seen = _View(torch, {"cuda": cuda, **replaced})
    for name, module in list(sys.modules.items()):
        if name.startswith("megatron.core") and getattr(module, "torch", None) is torch:
            module.torch = seen  # type: ignore[attr-defined]
    random._get_cuda_rng_state = lambda *_, **__: torch.get_rng_state()
    random._set_cuda_rng_state = lambda state, *_, **__: torch.set_rng_state(state)


def _on_cpu(factory: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(factory)
    def make(*args: Any, **options: Any) -> Any:
        if str(options.get("device", "")).startswith("cuda"):
            options["device"] = "cpu"
        return factory(*args, **options)

    return make
