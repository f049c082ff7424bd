"""`ring-async samples`: show responses of the model and their rewards, from the run's replay store.

Owns: the command's options, and how groups are shown. Does not own the choice of groups (`monitoring.samples`).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.panel import Panel
from rich.text import Text

from ring_async.cli.options import AsJson, RunArgument, Runs, out
from ring_async.errors import RunError
from ring_async.monitoring.samples import Choice, read_samples
from ring_async.storage.run_dir import find_run

_SHOWN_CHARACTERS = 600


def samples(
    run: RunArgument = None,
    *,
    runs: Runs = Path("runs"),
    num: Annotated[int, typer.Option("--num", "-n", min=1, help="How many groups, the newest first.")] = 3,
    group: Annotated[str, typer.Option(help="This group alone, by its id.")] = "",
    source: Annotated[str, typer.Option(help="Groups of this prompt source alone.")] = "",
    min_reward: Annotated[float, typer.Option(help="Groups whose mean reward is at least this.")] = float("-inf"),
    max_reward: Annotated[float, typer.Option(help="Groups whose mean reward is at most this.")] = float("inf"),
    as_json: AsJson = False,
) -> None:
    """Read prompts, responses, rewards and where they came from.

    Shows groups whose text is kept: those not yet trained, and those trained since the last checkpoint.

    [bold]Examples[/bold]

      ring-async samples
      ring-async samples mine --source chain_sum --max-reward 0.2 -n 10
      ring-async samples --group g000042
      ring-async samples --json | jq '.[].responses[].reward'
    """
    run_dir = find_run(runs, run)
    bounds = (min_reward, max_reward)
    least, most = (None if math.isinf(bound) else bound for bound in bounds)
    choice = Choice(num=num, group=group, source=source, min_reward=least, max_reward=most)
    found = read_samples(run_dir, choice)
    if group and not found:
        raise RunError(
            f"{run_dir.path}: no group {group!r} whose text is kept; see those there are: ring-async samples"
        )
    if as_json:
        out.print_plain(found)
    elif not found:
        out.print("no group is kept that fits; text goes when a checkpoint covers the batch it was trained in")
    for one in found if not as_json else ():
        out.print(_panel(one))


def _panel(group: dict[str, Any]) -> Panel:
    """A panel with one response; text that the model wrote is never read as markup."""
    text = Text(group["prompt"].strip() + "\n", style="bold")
    for response in group["responses"]:
        reward = "–" if response["reward"] is None else f"{response['reward']:.3f}"
        versions = "→".join(dict.fromkeys(response["policy_versions"]))
        text.append(f"\n{reward}", style="green" if (response["reward"] or 0) > 0 else "red")
        text.append(
            f"  advantage {response['advantage']:+.3f}  {response['num_tokens']} tokens  {response['finish_reason']}  "
            f"version {versions}  {response['state']}\n",
            style="dim",
        )
        shown = response["response"].strip()
        text.append(shown[:_SHOWN_CHARACTERS] + (" …" if len(shown) > _SHOWN_CHARACTERS else "") + "\n", style="")
    stamp = group["verifier"]
    judged = f"{stamp['name']} {stamp['version']} epoch {stamp['epoch']}" if stamp else "not judged"
    title = Text(f"{group['group_id']}  {group['source']}  {judged}  {group['engine_id']}")
    return Panel(text, title=title, title_align="left")
