"""`ring-async samples`: show responses of the model and their rewards, from the run's replay store.

Owns: the choice of groups, and how they are shown. Reads while the run goes on; changes nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.panel import Panel
from rich.text import Text

from ring_async.cli.options import AsJson, RunArgument, Runs, out
from ring_async.config.load import load_config
from ring_async.core.replay.progress import GroupProgress, GroupRecord
from ring_async.engines.tokenizer import decode_response, load_tokenizer
from ring_async.errors import RunError
from ring_async.models import resolve_model_path
from ring_async.storage.replay_store import ReplayStore
from ring_async.storage.run_dir import RunDir, find_run
from ring_async.storage.store_reader import StoreReader

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
    with ExitStack() as stack:
        readers = [stack.enter_context(store.read()) for store in _stores(run_dir, stack)]
        chosen = heapq.nlargest(
            num,
            (
                (record.arrival, index, record, progress)
                for index, reader in enumerate(readers)
                for record, progress in reader.records()
                if group in {"", record.header.group_id}
                and source in {"", record.header.prompt.source}
                and min_reward <= _mean_reward(record) <= max_reward
            ),
            key=lambda one: one[:2],
        )
        tokenizer = load_tokenizer(resolve_model_path(load_config(run_dir.config).model.path)) if chosen else None
        found = [_plain(readers[index], record, progress, tokenizer) for _, index, record, progress in chosen]
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


def _stores(run_dir: RunDir, stack: ExitStack) -> Iterator[ReplayStore]:
    for data in sorted(run_dir.replay.glob("*/data.mdb")):
        store = ReplayStore(data.parent, data.stat().st_size, is_readonly=True)
        stack.callback(store.close)
        yield store


def _mean_reward(record: GroupRecord) -> float:
    rewards = [reward for reward in record.header.rewards if reward is not None]
    return sum(rewards) / max(1, len(rewards))


def _plain(reader: StoreReader, record: GroupRecord, progress: GroupProgress, tokenizer: Any) -> dict[str, Any]:
    header, group = record.header, reader.group(record.header.group_id)
    assert group is not None, "records and groups are one table, in one view"
    stamp = header.verifier
    return {
        "group_id": header.group_id,
        "source": header.prompt.source,
        "prompt_id": header.prompt.prompt_id,
        "prompt": header.prompt.conversation,
        "verifier": {"name": stamp.name, "version": stamp.version, "epoch": stamp.epoch} if stamp else None,
        "engine_id": header.engine_id,
        "seed": header.seed,
        "temperature": header.sampling.temperature,
        "mixture_epoch": header.mixture_epoch,
        "responses": [
            {
                "trajectory_id": one.header.trajectory_id,
                "response": decode_response(tokenizer, one.response_ids),
                "reward": one.header.reward,
                "reward_parts": one.header.reward_parts,
                "advantage": advantage,
                "num_tokens": one.header.num_tokens,
                "finish_reason": one.header.finish_reason,
                "policy_versions": [str(segment.policy_version) for segment in one.header.segments],
                "state": state.state,
            }
            for one, advantage, state in zip(group, record.advantages, progress, strict=True)
        ],
    }


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
