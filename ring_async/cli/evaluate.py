"""`ring-async eval`: how well a checkpoint does on held-out problems.

Owns: the command's options, its progress and its table. Does not own the evaluation (`actors.evaluation`).
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer
from rich.table import Table

from ring_async.cli.options import AsJson, ConfigFile, Overrides, err, out
from ring_async.config.load import load_config
from ring_async.config.schema import Config


def evaluate(
    checkpoint_path: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="A checkpoint, HF folder, or builtin:tiny.")
    ],
    config: ConfigFile,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Score a checkpoint on held-out problems, greedy and at T = 1.

    [bold]Examples[/bold]

      ring-async eval builtin:tiny configs/local.yaml
      ring-async eval runs/latest/checkpoints/100 configs/local.yaml evaluation.checkpoint_problems=1000
    """
    resolved = load_config(config, overrides or [])
    rows = evaluate_model(checkpoint_path, resolved)
    if as_json:
        out.print_plain(rows)
    else:
        print_evaluations({checkpoint_path: rows})


def evaluate_model(model: str, config: Config) -> list[dict[str, Any]]:
    """Evaluate a model and return the rows as plain data; progress and the time left go to stderr."""
    import msgspec
    from rich.progress import Progress

    from ring_async.actors.evaluation import GREEDY_AND_SAMPLED, evaluate_checkpoint
    from ring_async.models import resolve_model_path

    num_answers = config.evaluation.checkpoint_problems * len(GREEDY_AND_SAMPLED)
    with Progress(console=err, transient=True) as progress:
        task = progress.add_task(f"evaluating {model}", total=num_answers)
        evaluating = evaluate_checkpoint(config, resolve_model_path(model), on_answer=lambda: progress.advance(task))
        evaluation = asyncio.run(evaluating)
    return [msgspec.structs.asdict(row) for row in evaluation.rows()]


def print_evaluations(evaluations: dict[str, list[dict[str, Any]]]) -> None:
    """Accuracy on held-out problems, one column for each model."""
    first = next(iter(evaluations.values()))
    num_problems = next(row["num_problems"] for row in first if row["source"] == "all")
    table = Table(title=f"share of {num_problems:,} held-out problems solved")
    table.add_column("source")
    table.add_column("sampling")
    for name in evaluations:
        table.add_column(name, justify="right")
    for index, row in enumerate(first):
        how = "greedy" if row["temperature"] == 0 else f"T = {row['temperature']:g}"
        shown = [f"{rows[index]['accuracy']:.3f}" for rows in evaluations.values()]
        table.add_row(row["source"], how, *shown, style="bold" if row["source"] == "all" else "")
    out.print(table)
