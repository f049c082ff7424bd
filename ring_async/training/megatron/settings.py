"""How the megatron trainer computes, and the sentences that refuse what it cannot do.

Owns: `learner.engine_options` of this trainer, and the limits of a model's shape over ranks. Imports neither torch nor
Megatron-core, since `check` reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from ring_async.config.schema import Config
from ring_async.errors import ConfigError
from ring_async.models import resolve_model_path

_OPTIONS = ("device", "attention")
_ATTENTIONS = ("blocks", "varlen")


def attention_of(config: Config, device: str) -> str:
    """The attention kernel on a device, `cpu` or `cuda…`."""
    is_half = config.model.dtype == "bfloat16"
    default = "varlen" if device.startswith("cuda") and is_half else "blocks"
    return str(config.learner.engine_options.get("attention", default))


def megatron_problems(config: Config, folder: Path | None = None) -> list[str]:
    """Why the megatron trainer cannot follow this configuration, each reason with a remedy.

    Args:
        config: the run's.
        folder: of the model; None: where `model.path` says. One that is not there is no problem of this trainer's.
    """
    if find_spec("megatron") is None or find_spec("megatron.core") is None:
        return ["the package megatron-core is missing: pip install 'ring-async[megatron]', or use hf"]
    problems = list(_ranks_problems(config))
    options = config.learner.engine_options
    if strangers := sorted(options.keys() - set(_OPTIONS)):
        known = ", ".join(_OPTIONS)
        problems.append(f"it takes no learner.engine_options but {known}, not {', '.join(strangers)}; leave them out")
    if options.get("attention", "blocks") not in _ATTENTIONS:
        problems.append(
            f"learner.engine_options.attention is {options['attention']!r}; choose {' or '.join(_ATTENTIONS)}"
        )
    if folder is None:
        try:
            folder = resolve_model_path(config.model.path)
        except ConfigError:
            return problems
    return problems + list(_model_problems(config, folder))


def _ranks_problems(config: Config) -> Iterator[str]:
    parallel = config.learner.parallel
    per_stage = parallel.tensor * parallel.data
    if parallel.shard != 1:
        yield (
            f"it splits the optimizer over data-parallel ranks by itself; learner.parallel.shard is {parallel.shard}, "
            "set it to 1 and use data"
        )
    if per_stage % parallel.expert:
        yield (
            f"the {per_stage} ranks of a stage (tensor · data) cannot share experts {parallel.expert} ways; set "
            "learner.parallel.expert to a divisor"
        )
    if parallel.data > 1 and config.correction.rule == "m2po":
        yield "correction.rule m2po needs a mask over the whole batch, which ranks do not share; use icepop"
    gpus = config.placement.gpus.get("learner", 0)  # type: ignore[call-overload]
    if 0 < gpus < parallel.num_ranks:
        yield (
            f"its {parallel.num_ranks} ranks run on the learner's host, a GPU each; placement.gpus.learner is "
            f"{gpus:g}, set it to {parallel.num_ranks}"
        )


def _model_problems(config: Config, folder: Path) -> Iterator[str]:
    """What a model's shape forbids."""
    from ring_async.models.causal_lm import load_config
    from ring_async.training.megatron.names.families import names_of

    try:
        shape = names_of(load_config(folder)).shape
    except (ConfigError, OSError, ValueError) as error:
        yield str(error)
        return
    parallel = config.learner.parallel
    divided = [
        ("tensor", parallel.tensor, "key-value heads", shape.num_kv_heads),
        ("tensor", parallel.tensor, "rows of its feed-forward parts", shape.feed_forward),
        ("pipeline", parallel.pipeline, "layers", shape.num_layers),
    ]
    if shape.experts is not None:
        divided.append(("expert", parallel.expert, "experts", shape.experts.num_experts))
        if shape.experts.shared_width:
            divided.append(("tensor", parallel.tensor, "rows of its shared experts", shape.experts.shared_width))
    elif parallel.expert > 1:
        yield f"the model has no experts; learner.parallel.expert is {parallel.expert}, set it to 1"
    for key, value, what, count in divided:
        if count % value:
            yield f"the model has {count} {what}; learner.parallel.{key} is {value}, set it to a divisor"


def refuse_problems(config: Config, folder: Path) -> None:
    """Raises:
    ConfigError: the megatron trainer cannot follow this configuration.
    """
    if problems := megatron_problems(config, folder):
        raise ConfigError("\n".join(f"learner.engine: megatron: {problem}" for problem in problems))
