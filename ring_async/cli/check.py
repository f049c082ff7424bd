"""The checks of `ring-async check` and `up` before anything is started: whether each configured part can work here.

Owns: which parts are checked. Does not own the parts, nor what each needs. Imports lie inside the functions, since some
take seconds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

from ring_async.cli.options import AsJson, ConfigFile, Overrides, out
from ring_async.config.explain import one_line
from ring_async.config.load import load_config
from ring_async.config.schema import Config
from ring_async.errors import ConfigError
from ring_async.storage.run_place import check_run_place


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
    if problems := dict.fromkeys(part_problems(config)):  # sources that share a verifier share its problems
        raise ConfigError("\n".join(problems))


def part_problems(config: Config) -> Iterator[str]:
    """The reasons why this configuration cannot run here, one line each, as far as they show before anything starts."""
    from ring_async.control.tls import read_certificate
    from ring_async.engines.registry import engine_host_problems, engine_problems
    from ring_async.placement.ray_cluster import has_cluster, problems_here
    from ring_async.training.registry import trainer_problems
    from ring_async.transport.weights.registry import channel_problems

    yield from engine_problems(config)
    if not has_cluster():  # there, `up` asks the hosts that rollouts have places on
        yield from engine_host_problems(config)
    yield from trainer_problems(config)
    yield from channel_problems(config)
    yield from problems_here(config)
    if config.monitoring.grafana_url:
        yield (
            f"monitoring.grafana_url: {config.monitoring.grafana_url}: not here, because nothing in this release talks "
            "to Grafana; leave it empty"
        )
    yield from _refusal("control", lambda: read_certificate(config.control))
    yield from _refusal("model", functools.partial(_try_model, config))
    yield from _refusal("run.dir", lambda: check_run_place(Path(config.run.dir) / config.run.name))
    scheduled = [name for step in config.mixture_schedule for name in step.mixture]
    for name in dict.fromkeys([*config.mixture, *scheduled]):
        yield from _refusal(f"sources.{name}", functools.partial(_try_source, config, name))
        verifier = config.sources[name].verifier
        yield from _refusal(f"verifiers.{verifier}", functools.partial(_try_verifier, config, verifier))


def _refusal(key: str, attempt: Callable[[], object]) -> Iterator[str]:
    """The lines of a refusal; an error that a part did not foresee is one too, and names the section it came from."""
    try:
        attempt()
    except ConfigError as refusal:
        yield from str(refusal).splitlines()
    except Exception as error:
        text = one_line(str(error))
        yield f"{key}: cannot be made with these settings: {type(error).__name__}: {text}; check its keys and options"


def _try_model(config: Config) -> None:
    from ring_async.data.prompt_room import check_response_room
    from ring_async.models import resolve_model_path

    check_response_room(config, resolve_model_path(config.model.path))


def _try_source(config: Config, name: str) -> None:
    """Make a source; refuse one whose prompts do not fit, and a difficulty window that none of them satisfies."""
    from ring_async.actors.controller.prompt_search import check_window
    from ring_async.data.prompt_room import check_prompt_room
    from ring_async.data.registry import make_source

    made = make_source(name, config.sources[name])
    check_prompt_room(made, config)
    if name in config.difficulty:
        check_window(made, config.difficulty[name])


def _try_verifier(config: Config, name: str) -> None:
    from ring_async.verifiers.registry import make_verifier

    make_verifier(name, config.verifiers[name]).close()
