"""The checks of `ring-async check` and `up` before anything is started: whether each configured part can work here.

Owns: which parts are checked. Does not own the parts, nor what each needs. Imports lie inside the functions, since some
take seconds.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from ring_async.cli.options import AsJson, ConfigFile, Overrides, err, out
from ring_async.config.explain import one_line
from ring_async.config.load import load_config
from ring_async.config.schema import Config
from ring_async.core.roster import Role
from ring_async.errors import ConfigError
from ring_async.placement.plan import Room, lines_of, plan_fleet
from ring_async.storage.run_place import check_run_place

if TYPE_CHECKING:
    from ring_async.verifiers.base import Verifier


def check(  # noqa: PLR0917 - Typer passes names
    config: ConfigFile,
    overrides: Overrides = None,
    as_json: AsJson = False,
    hosts: Annotated[int, typer.Option(help="Plan for a cluster of so many hosts; 0: for here.", min=0)] = 0,
    gpus: Annotated[float, typer.Option(help="With --hosts: GPUs of each.", min=0)] = 8,
    cpus: Annotated[float, typer.Option(help="With --hosts: CPUs of each.", min=0)] = 96,
) -> None:
    """Check a configuration and show it resolved, without starting anything.

    With --hosts, it prints who would run where on a cluster that need not exist yet.

    [bold]Examples[/bold]

      ring-async check configs/local.yaml
      ring-async check configs/local.yaml rollout.num=2 --json | jq .rollout
      ring-async check configs/ring_lite.yaml model.path=/models/Ling-lite-1.5 --hosts 32 --gpus 8
    """
    resolved = load_config(config, overrides or [])
    plan = _planned(resolved, hosts, Room(cpus, gpus)) if hosts else []
    check_parts(resolved, is_planned=bool(plan))
    if as_json:
        out.print_plain(resolved.model_dump(mode="json"))
    else:
        out.print(
            f"{config}: good. Φ = {resolved.global_token_budget:,} loss tokens, max_staleness "
            f"{resolved.max_staleness}, {resolved.rollout.num} rollout(s), "
            f"sources {', '.join(resolved.mixture)}"
        )
        if resolved.placement.gpus.get(Role.LEARNER):
            out.print(_learner_memory(resolved))
        for line in plan:
            out.print(line, soft_wrap=True)


def _planned(config: Config, num_hosts: int, room: Room) -> list[str]:
    return list(lines_of(plan_fleet(config, num_hosts, room), room))


def _learner_memory(config: Config) -> str:
    """What the learner's ranks need, in a line."""
    from ring_async.models import resolve_model_path
    from ring_async.training.memory import model_sizes, rank_memory

    memory = rank_memory(config, model_sizes(resolve_model_path(config.model.path)))
    num_ranks = config.learner.parallel.num_ranks
    return f"learner: {num_ranks} rank{'s' * (num_ranks > 1)}, about {memory} on each GPU"


def check_parts(config: Config, *, is_planned: bool = False) -> None:
    """Refuse a configuration whose parts would fail inside an actor.

    Args:
        config: of the run.
        is_planned: whether it is for another cluster, so that this machine's packages and GPUs say nothing.

    Raises:
        ConfigError: one line for each part that cannot work here: its key, why, and what to do.
    """
    if problems := dict.fromkeys(
        part_problems(config, is_planned=is_planned)
    ):  # sources that share a verifier share its problems
        raise ConfigError("\n".join(problems))


def part_problems(config: Config, *, is_planned: bool = False) -> Iterator[str]:
    """The reasons why this configuration cannot run here, one line each, as far as they show before anything starts.

    Arguments as for `check_parts`.
    """
    from ring_async.control.tls import read_certificate
    from ring_async.engines.registry import engine_host_problems, engine_problems
    from ring_async.models import resolve_model_path
    from ring_async.monitoring.services import service_problems
    from ring_async.placement.ray_cluster import has_cluster, problems_here
    from ring_async.training.registry import trainer_problems
    from ring_async.transport.weights.registry import channel_host_problems, channel_problems

    yield from engine_problems(config)
    is_here = not has_cluster() and not is_planned  # on a cluster, `up` asks the hosts that actors have places on
    if is_here:
        yield from engine_host_problems(config)
    yield from trainer_problems(config)
    yield from channel_problems(config)
    if is_here:
        yield from channel_host_problems(config)
        yield from problems_here(config)
    of_services: list[str] = []
    yield from _refusal("monitoring", lambda: of_services.extend(service_problems(config)))
    yield from of_services
    yield from _refusal("control", lambda: read_certificate(config.control))
    yield from _refusal("run.dir", lambda: check_run_place(Path(config.run.dir) / config.run.name))
    yield from _refusal("replay", functools.partial(_try_rules, config))
    without_model = list(_refusal("model", lambda: resolve_model_path(config.model.path)))
    yield from without_model
    if not without_model:
        yield from _refusal("model.chat_template_options", lambda: _check_chat_options(config))
    scheduled = [name for step in config.mixture_schedule for name in step.mixture]
    for name in dict.fromkeys([*config.mixture, *scheduled]):
        yield from _refusal(f"sources.{name}", functools.partial(_try_source, config, name, bool(without_model)))


def _refusal(key: str, attempt: Callable[[], object]) -> Iterator[str]:
    """The lines of a refusal; an error that a part did not foresee is one too, and names the section it came from."""
    try:
        attempt()
    except ConfigError as refusal:
        yield from str(refusal).splitlines()
    except Exception as error:
        text = one_line(str(error))
        yield f"{key}: cannot be made with these settings: {type(error).__name__}: {text}; check its keys and options"


def _try_rules(config: Config) -> None:
    """Refuse settings of admission and replay under which no batch would ever be made."""
    from ring_async.actors.controller.dispatcher import admission_rules
    from ring_async.actors.replay.rules import buffer_rules
    from ring_async.core.replay.buffer_rules import check_rules

    admission_rules(config).check()
    check_rules(buffer_rules(config))


def _try_source(config: Config, name: str, without_model: bool) -> None:
    """Make a source and its verifier; refuse a difficulty window that no prompt of the source satisfies, and prompts
    that the verifier or the model cannot read.
    """
    from ring_async.actors.controller.prompt_search import check_window
    from ring_async.data.trial import check_judgeable, check_readable, try_source

    source = config.sources[name]
    made = try_source(name, source)
    if name in config.difficulty:
        check_window(made, config.difficulty[name])
    with contextlib.closing(_loaded_verifier(config, source.verifier)) as verifier:
        check_judgeable(made, verifier)
    if without_model:
        return
    if warning := check_readable(made, config, lambda: _tokenizer(config.model.path)):
        err.print(Text.assemble(("warning: ", "yellow"), warning), soft_wrap=True)


def _loaded_verifier(config: Config, name: str) -> Verifier:
    """The verifier in this process, without workers.

    Raises:
        ConfigError: it cannot be made; an error that its maker did not foresee names the verifier, not a source.
    """
    from ring_async.verifiers.registry import load_verifier

    try:
        return load_verifier(name, config.verifiers[name])
    except ConfigError:
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {one_line(str(error))}"
        raise ConfigError(f"verifiers.{name}.options: {text}; docs/verifiers.md has the options") from error


def _check_chat_options(config: Config) -> None:
    from ring_async.engines.tokenizer import chat_option_problems

    options = config.model.chat_template_options
    if options and (problems := list(chat_option_problems(_tokenizer(config.model.path), options))):
        raise ConfigError("\n".join(problems))


@functools.cache
def _tokenizer(model_path: str) -> Any:
    from ring_async.engines.tokenizer import load_tokenizer
    from ring_async.models import resolve_model_path

    return load_tokenizer(resolve_model_path(model_path))
