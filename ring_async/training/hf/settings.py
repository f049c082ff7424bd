"""How the hf trainer computes on its device: which kernels, in which precision, and what it computes twice.

Owns: `learner.engine_options`, their defaults by device, and the sentences that refuse settings. Does not own the
kernels (`attention`, `varlen`, `head`). Imports no torch, since `check` reads it.

| | CPU | GPU |
|---|---|---|
| attention | `blocks` (`hf.attention`) | `varlen` (`hf.varlen`) |
| compile | `none` | `inductor`: every decoder layer |
| head | float32 | bfloat16 products into float32, in chunks (`hf.head`) |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ring_async.config.schema import Config
from ring_async.errors import ConfigError

_OPTIONS = ("device", "attention", "compile", "head")
_ATTENTIONS = ("blocks", "varlen")
_HEADS = ("float32", "chunked")
_ALIGNMENT = 128
"""Of the tokens of a forward on a GPU, whose products are slower at odd sizes."""


@dataclass(frozen=True, slots=True)
class ForwardSettings:
    """How one model scores.

    Attributes:
        attention: which attention function.
        compile: torch.compile's backend for decoder layers; None: they run as they are.
        head: `float32`: all in float32, cut if it is large. `chunked`: see `hf.head`.
        bfloat16: whether products run in bfloat16.
        recompute: share of the decoder layers whose activations are computed again.
        padded_multiple: a forward's tokens are padded to a multiple of it.
    """

    attention: Literal["blocks", "varlen"] = "blocks"
    compile: str | None = None
    head: Literal["float32", "chunked"] = "float32"
    bfloat16: bool = False
    recompute: float = 0.0
    padded_multiple: int = 1

    def num_padded(self, num_tokens: int) -> int:
        """Tokens of padding behind `num_tokens`."""
        return -num_tokens % self.padded_multiple


def forward_settings(config: Config, device: str) -> ForwardSettings:
    """The settings of a run's learner on a device, `cpu` or `cuda…`."""
    learner = config.learner
    options = learner.engine_options
    is_gpu = device.startswith("cuda")
    compiled = str(options.get("compile", "inductor" if is_gpu else "none"))
    bfloat16 = config.model.dtype == "bfloat16"
    return ForwardSettings(
        # The kernel of `varlen_attn` takes half precision alone.
        attention=options.get("attention", "varlen" if is_gpu and bfloat16 else "blocks"),
        compile=None if compiled == "none" else compiled,
        head=options.get("head", "chunked" if is_gpu and bfloat16 else "float32"),
        bfloat16=bfloat16,
        recompute=learner.recompute,
        padded_multiple=_ALIGNMENT if is_gpu else 1,
    )


def default_device() -> str:
    """`cuda` where there is a GPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def device_of(config: Config, rank: int = 0) -> str:
    """The device that a rank computes on, by its name in torch; of GPUs, the rank's own."""
    device = str(config.learner.engine_options.get("device") or default_device())
    return f"cuda:{rank}" if device == "cuda" and config.learner.parallel.num_ranks > 1 else device


def hf_problems(config: Config) -> list[str]:
    """Why the hf trainer cannot follow this configuration, each reason with a remedy."""
    learner, options = config.learner, config.learner.engine_options
    parallel = learner.parallel
    problems = [
        f"it does not split {what}; learner.parallel.{key} is {value}, set it to 1 and use shard"
        for key, value, what in (
            ("data", parallel.data, "batches over whole copies of the model"),
            ("tensor", parallel.tensor, "matrix products"),
            ("pipeline", parallel.pipeline, "layers over stages"),
            ("expert", parallel.expert, "experts over ranks"),
        )
        if value != 1
    ]
    problems += [
        f"it has no loss on routers; loss.{key} is {value:g}, set it to 0 or use megatron"
        for key, value in (
            ("balance_coefficient", config.loss.balance_coefficient),
            ("router_z_coefficient", config.loss.router_z_coefficient),
        )
        if value
    ]
    if parallel.num_ranks > 1 and config.correction.rule == "m2po":
        problems.append("correction.rule m2po needs a mask over the whole batch, which ranks do not share; use icepop")
    gpus = config.placement.gpus.get("learner", 0)  # type: ignore[call-overload]
    if 0 < gpus < parallel.num_ranks and parallel.num_ranks > 1:  # one rank may share its GPU with a rollout
        problems.append(
            f"its {parallel.num_ranks} ranks run on the learner's host, a GPU each; placement.gpus.learner is "
            f"{gpus:g}, set it to {parallel.num_ranks}"
        )
    if strangers := sorted(options.keys() - set(_OPTIONS)):
        known = ", ".join(_OPTIONS)
        problems.append(f"it takes no learner.engine_options but {known}, not {', '.join(strangers)}; leave them out")
    problems += [
        f"learner.engine_options.{key} is {options[key]!r}; choose {' or '.join(values)}"
        for key, values in (("attention", _ATTENTIONS), ("head", _HEADS))
        if key in options and options[key] not in values
    ]
    return problems


def refuse_problems(config: Config) -> None:
    """Raises:
    ConfigError: the hf trainer cannot follow this configuration.
    """
    if problems := hf_problems(config):
        raise ConfigError("\n".join(f"learner.engine: hf: {problem}" for problem in problems))
