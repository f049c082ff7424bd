"""`ring-async data inspect`: look at prompts before a model does.

Owns: what is shown of a prompt. Does not own the sources.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.panel import Panel
from rich.text import Text

from ring_async.cli.options import AsJson, ConfigFile, out
from ring_async.config.load import load_config
from ring_async.data.registry import make_source
from ring_async.errors import ConfigError

app = typer.Typer(no_args_is_help=True, help="Look at prompt sources.")


@app.callback()
def data() -> None:
    """Look at prompt sources."""


@app.command()
def inspect(
    config: ConfigFile = Path("configs/local.yaml"),
    source: Annotated[str, typer.Argument(help="Which of `sources`; default: all of them.", show_default=False)] = "",
    *,
    num: Annotated[int, typer.Option("--num", "-n", min=1, help="How many prompts of each source.")] = 3,
    first: Annotated[int, typer.Option("--from", min=0, help="Number of the first one.")] = 0,
    held_out: Annotated[bool, typer.Option("--held-out", help="The held-out split, as `eval` asks it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show prompts of a configured source, with the data that its verifier gets.

    Prompt number n is the same in every process and every run.

    [bold]Examples[/bold]

      ring-async data inspect configs/local.yaml
      ring-async data inspect configs/local.yaml chain_sum -n 10 --from 100
      ring-async data inspect configs/local.yaml chain_sum --held-out --json
    """
    resolved = load_config(config)
    if source and source not in resolved.sources:
        raise ConfigError(f"{config}: no source is called {source!r}; sources are {', '.join(resolved.sources)}")
    found: list[dict[str, Any]] = []
    for name in [source] if source else resolved.sources:
        section = resolved.sources[name]
        made = make_source(name, section)
        ask = made.held_out if held_out else made.prompt
        for index in range(first, first + num):
            try:
                prompt = ask(index)
            except IndexError:
                break
            found.append(
                {
                    "source": name,
                    "index": index,
                    "prompt_id": prompt.prompt_id,
                    "verifier": section.verifier,
                    "weight": resolved.mixture.get(name, 0.0),
                    "prompt": prompt.text,
                    "messages": [msgspec.structs.asdict(message) for message in prompt.messages],
                    "metadata": prompt.metadata,
                }
            )
    if as_json:
        out.print_plain(found)
        return
    for one in found:
        turns = [f"{message['role']}: {message['content'].strip()}" for message in one["messages"]]
        text = Text("\n".join(turns or [one["prompt"].strip()]) + "\n")
        text.append(f"\n{json.dumps(one['metadata'], default=str, ensure_ascii=False)}", style="dim")
        title = Text(f"{one['prompt_id']}  judged by {one['verifier']}  weight {one['weight']:g}")
        out.print(Panel(text, title=title, title_align="left"))
