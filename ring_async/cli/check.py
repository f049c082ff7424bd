"""The checks of `ring-async check` and `up` before anything is started: whether each configured part can work here.

Owns: which parts are checked. Does not own the parts, nor what each needs. Imports lie inside the functions, since some
take seconds.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from ring_async.cli.options import AsJson, ConfigFile, Overrides, err, out
from ring_async.config.load import load_config
from ring_async.config.schema import Config
from ring_async.errors import ConfigError


def check(config: ConfigFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check a configuration and show it resolved, without starting anything.

    [bold]Examples[/bold]

      ring-async check configs/local.yaml
      ring-async check configs/local.yaml rollout.num=2 --json | jq .rollout
    """
    resolved = load_config(config, overrides or [])
    check_parts(resolved)
    if as_json:
        out.print_plain(resolved.model_dump(mode="json"))
    else:
        out.print(
            f"{config}: good. Φ = {resolved.global_token_budget:,} loss tokens, max_staleness "
            f"{resolved.max_staleness}, {resolved.rollout.num} rollout(s), "
            f"sources {', '.join(resolved.mixture)}"
        )


def check_parts(config: Config) -> None:
    """Refuse a configuration whose parts would fail inside an actor.

    Raises:
        ConfigError: one line for each part that cannot work here: its key, why, and what to do.
    """
    if problems := list(part_problems(config)):
        raise ConfigError("\n".join(problems))


def part_problems(config: Config) -> Iterator[str]:
    """The reasons why this configuration cannot run here, one line each, as far as they show before anything starts."""
    from ring_async.control.tls import read_certificate
    from ring_async.engines.registry import engine_host_problems, engine_problems
    from ring_async.models import resolve_model_path
    from ring_async.monitoring.services import service_problems
    from ring_async.placement.ray_cluster import has_cluster, problems_here
    from ring_async.training.registry import trainer_problems
    from ring_async.transport.weights.registry import channel_problems

    yield from engine_problems(config)
    if not has_cluster():  # there, `up` asks the hosts that rollouts have places on
        yield from engine_host_problems(config)
    yield from trainer_problems(config)
    yield from channel_problems(config)
    yield from problems_here(config)
    yield from service_problems(config)
    yield from _refusal(lambda: read_certificate(config.control))
    yield from _refusal(lambda: resolve_model_path(config.model.path))
    yield from _refusal(lambda: _check_chat_options(config))
    for name in config.mixture:
        yield from _refusal(functools.partial(_try_source, config, name))


def _refusal(attempt: Callable[[], object]) -> Iterator[str]:
    try:
        attempt()
    except ConfigError as refusal:
        yield str(refusal)


def _try_source(config: Config, name: str) -> None:
    """Make a source and its verifier; refuse a difficulty window that no prompt of the source satisfies, and prompts
    that the verifier or the model cannot read.
    """
    from ring_async.actors.controller.prompt_search import check_window
    from ring_async.data.trial import check_judgeable, check_readable, try_source
    from ring_async.verifiers.registry import load_verifier

    source = config.sources[name]
    made = try_source(name, source)
    if name in config.difficulty:
        check_window(made, config.difficulty[name])
    with contextlib.closing(load_verifier(source.verifier, config.verifiers[source.verifier])) as verifier:
        check_judgeable(made, verifier)
    if warning := check_readable(made, config, lambda: _tokenizer(config.model.path)):
        err.print(f"[yellow]warning:[/yellow] {warning}", highlight=False, soft_wrap=True)


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
