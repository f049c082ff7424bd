"""`ring-async swap | rollback | mixture | set | scale`: change a run while it goes on.

Owns: the commands' options and output, and how a comparison of two verifiers is shown. Does not own the changes
themselves: the run's control API makes them.
"""

from __future__ import annotations

import contextlib
import getpass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ring_async.cli.options import AsJson, Run, Runs, err, out, say
from ring_async.config.load import parse_words
from ring_async.control.client import ControlClient
from ring_async.core.verifier_swap import SwapState
from ring_async.errors import ConfigError, RunError
from ring_async.monitoring.terminal import mixture_line
from ring_async.records.status import read_changes
from ring_async.storage.run_dir import find_run

WAIT_S = 5.0
swap_app = typer.Typer(no_args_is_help=True, help="Change a verifier while the run goes on; the old one never stops.")
rollback_app = typer.Typer(no_args_is_help=True, help="Undo a change while the run goes on.")

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Commit after the shadow without asking.")]


@swap_app.command("verifier")
def swap_verifier(
    what: Annotated[str, typer.Argument(metavar="NAME=USE", help="e.g. logic=reasoning_gym, math=strict.py:Strict")],
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE …]", help="Its options.", show_default=False)
    ] = None,
    *,
    shadow: Annotated[int, typer.Option(min=0, help="Let both judge so many trajectories first, and compare.")] = 0,
    rescore: Annotated[bool, typer.Option("--rescore", help="Judge again what is buffered and untrained.")] = False,
    yes: Yes = False,
    run: Run = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Put another verifier in force, at the border between two groups.

    Every reward actor builds it and judges its golden cases first; if any fails, nothing changes. With --shadow both
    judge for a while and the comparison is shown before you decide.

    [bold]Examples[/bold]

      ring-async swap verifier logic=reasoning_gym
      ring-async swap verifier math=my/strict.py:Strict tolerance=0.01 --shadow 200
      ring-async swap verifier math=my/strict.py:Strict --rescore --yes --json
    """
    name, equals, use = what.partition("=")
    if not equals or not name or not use:
        raise ConfigError(f"{what!r} is not NAME=USE; write for example `logic=my/verifier.py:Strict`")
    client = ControlClient(find_run(runs, run), timeout_s=2 * WAIT_S + 5.0)
    is_asked = shadow > 0 and not yes
    body = {
        "use": _absolute(use), "options": parse_words(options or []), "shadow": shadow, "rescore": rescore,
        "hold": is_asked, "author": _author(),
    }  # fmt: skip
    swap = _follow(client, client.post(f"/v1/verifiers/{name}/swap", body))
    if swap["state"] == SwapState.HELD:
        _show_shadow(swap, err if as_json else out)
        decision = "abort"
        with contextlib.suppress(typer.Abort):  # Ctrl-C at the question counts as no
            decision = "commit" if typer.confirm("Put the new one in force?", err=as_json) else "abort"
        swap = _follow(client, client.post(f"/v1/swaps/{swap['swap_id']}/{decision}"), until_held=False)
        if decision == "abort":
            out.print("called off; the old verifier goes on")
            raise typer.Exit(1)
    _conclude(swap, as_json)


@swap_app.command("abort")
def abort_swap(
    swap_id: Annotated[str, typer.Argument(help="As `swap verifier` showed it, e.g. logic-3.")],
    run: Run = None,
    *,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Call off a swap that is prepared, compared, or waits for an answer that nobody will give.

    [bold]Examples[/bold]

      ring-async swap abort logic-3
    """
    client = ControlClient(find_run(runs, run), timeout_s=2 * WAIT_S + 5.0)
    swap = _follow(client, client.post(f"/v1/swaps/{swap_id}/abort"), until_held=False)
    say(f"{swap_id} is {swap['state']}: {swap['reason']}", swap, as_json)


@rollback_app.command("verifier")
def rollback_verifier(
    name: Annotated[str, typer.Argument(help="e.g. math")],
    run: Run = None,
    *,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Go back to the verifier before; what the present one scored and no batch used is judged again.

    [bold]Examples[/bold]

      ring-async rollback verifier math
    """
    client = ControlClient(find_run(runs, run), timeout_s=2 * WAIT_S + 5.0)
    _conclude(_follow(client, client.post(f"/v1/verifiers/{name}/rollback", {"author": _author()})), as_json)


def mixture(
    weights: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SOURCE=WEIGHT …]", help="e.g. math=0.7 code=0.3", show_default=False),
    ] = None,
    *,
    difficulty: Annotated[
        list[str] | None,
        typer.Option(
            "--difficulty",
            metavar="SOURCE=[BY:]LOW:HIGH",
            help="Issue only prompts within; SOURCE=any lifts it. May be given again.",
        ),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option("--source", metavar="NAME=YAML", help="Add a source first; may be given again."),
    ] = None,
    run: Run = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Give the prompt sources new weights, as shares of completed tokens. A source left out gets none.

    --difficulty bounds what is issued of a source, by a number that its prompts carry (BY; default: difficulty) or by
    `observed`: 1 − mean reward of the prompt's last group. Without weights they stay; without anything both are shown.

    [bold]Examples[/bold]

      ring-async mixture
      ring-async mixture chain_sum=0.8 leg_counting=0.2
      ring-async mixture --difficulty chain_sum=num_terms:2:3 --difficulty math=observed:0.2:0.8
      ring-async mixture --difficulty math=any
      ring-async mixture chain_sum=1 spells=1 --source 'spells={task: spell_backward, verifier: logic}'
    """
    client = ControlClient(find_run(runs, run), timeout_s=60.0)
    windows = dict(map(_window, difficulty or []))
    if weights or source or windows:
        body = {"mixture": parse_words(weights or []), "sources": _sources(source or []), "author": _author()}
        status = client.post("/v1/mixture", body | ({"difficulty": windows} if windows else {}))
    else:
        status = client.get("/v1/status")["changes"]
    say(f"mixture {status['mixture_epoch']}: {mixture_line(read_changes(status))}", status, as_json)


def set_knobs(
    words: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE …", show_default=False)] = None,
    *,
    run: Run = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Change settings of a run at work. Without words: list what can be changed, and what was.

    [bold]Examples[/bold]

      ring-async set
      ring-async set learner.learning_rate=5e-5
      ring-async set replay.max_staleness=2 budget.token_budget=8192
    """
    client = ControlClient(find_run(runs, run), timeout_s=320.0)
    if not words:
        _list_tunable(client.get("/v1/knobs"), as_json)
        return
    with err.status("waiting for the border between two steps"):
        status = client.post("/v1/knobs", {"knobs": parse_words(words), "author": _author()})
    say("\n".join(f"{name} = {value}" for name, value in status["knobs"].items()), status, as_json)


def scale(
    role: Annotated[str, typer.Argument(help="rollout or reward")],
    num: Annotated[int, typer.Argument(min=1, help="How many there should be.")],
    *,
    run: Run = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Have more or fewer actors of a role. Those that leave finish what they have or hand it back.

    [bold]Examples[/bold]

      ring-async scale rollout 4
    """
    body = {"role": role, "num": num, "author": _author()}
    status = ControlClient(find_run(runs, run)).post("/v1/scale", body)
    say(f"{role}: {status['scale'][role]} wanted; see: ring-async status", status, as_json)


# -- parts


def _follow(client: ControlClient, swap: dict[str, Any], *, until_held: bool = True) -> dict[str, Any]:
    """Show the progress of a swap until it ends, or waits for a person."""
    with err.status(f"{swap['swap_id']}: {swap['state']}") as line:
        while not (state := SwapState(swap["state"])).is_end and not (until_held and state is SwapState.HELD):
            swap = client.get(f"/v1/swaps/{swap['swap_id']}?wait_s={0.5 if swap['shadow']['wanted'] else WAIT_S}")
            progress = f" {swap['shadow']['trajectories']} of {swap['shadow']['wanted']} trajectories"
            line.update(f"{swap['swap_id']}: {swap['state']}{progress if swap['state'] == SwapState.SHADOWING else ''}")
    return swap


def _conclude(swap: dict[str, Any], as_json: bool) -> None:
    if swap["state"] == SwapState.ABORTED:
        raise RunError(f"nothing changed: {swap['reason']}")
    if not as_json and swap["shadow"]["trajectories"]:
        _show_shadow(swap, out)
    verifier = swap["verifier"]
    text = (
        f"{verifier['name']} is {verifier['use']}, version {verifier['version']}, from epoch {verifier['epoch']} on "
        f"({swap['golden_cases']} golden cases, in force after {swap['commit_s'] * 1e3:.0f} ms)"
    )
    say(text, swap, as_json)


def _show_shadow(swap: dict[str, Any], console: Any) -> None:
    shadow = swap["shadow"]
    table = Table(title=f"{shadow['trajectories']:,} trajectories judged by both: {shadow['agreement']:.1%} the same")
    for column in ("", "before", "after"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("mean reward", f"{shadow['reward_before']:.3f}", f"{shadow['reward_after']:.3f}")
    table.add_row("ms a trajectory", *(f"{shadow[f'seconds_{when}'] * 1e3:.1f}" for when in ("before", "after")))
    if shadow["failures"]:
        table.add_row("groups not judged", "", ", ".join(f"{n} {cause}" for cause, n in shadow["failures"].items()))
    console.print(table)


def _list_tunable(knobs: dict[str, Any], as_json: bool) -> None:
    if as_json:
        out.print_plain(knobs)
        return
    table = Table(title="settings that can change while the run goes on")
    for column in ("setting", "takes effect", "changed to"):
        table.add_column(column)
    for name, when in knobs["tunable"].items():
        table.add_row(name, when, str(knobs["set"].get(name, "")))
    out.print(table)


def _sources(words: list[str]) -> dict[str, Any]:
    """The sources to add, from words `name={section}`."""
    sources = parse_words(words)
    for name, section in sources.items():
        if not isinstance(section, dict):
            raise ConfigError(
                f"--source {name}: not NAME=YAML; write for example 'spells={{task: spell_backward, verifier: logic}}'"
            )
    return sources


def _window(word: str) -> tuple[str, dict[str, Any] | None]:
    """The source and window that a word gives: `source=low:high`, `source=by:low:high` or `source=any`; bounds are
    optional.
    """
    name, _, bounds = word.partition("=")
    if name and bounds == "any":
        return name, None
    *by, low, high = bounds.split(":") if bounds.count(":") in (1, 2) else ("", "", "")
    try:
        window: dict[str, Any] = {key: float(value) for key, value in (("low", low), ("high", high)) if value}
    except ValueError:
        window = {}
    if not name or not window or by == [""]:
        raise ConfigError(
            f"--difficulty {word}: not SOURCE=[BY:]LOW:HIGH; write for example math=0.2:0.8, sums=num_terms:2:4, "
            "math=observed:0.2:0.8 or math=any"
        )
    return name, window | ({"by": by[0]} if by else {})


def _absolute(use: str) -> str:
    """Make a verifier's path absolute: it is relative to this process, but the controller reads the file."""
    place, colon, class_name = use.rpartition(":")
    return f"{Path(place).absolute()}{colon}{class_name}" if place.endswith(".py") else use


def _author() -> str:
    try:
        return getpass.getuser()[:64]
    except OSError:
        return "cli"
