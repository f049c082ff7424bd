"""The whole loop on two GPUs, SGLang and NCCL: what it learns, how fast it is, what a dead server costs.

    make bench-gpu-loop                                              two GPUs, 8 minutes
    python benchmarks/bench_gpu_loop.py --parts distil async         a part of it; --work keeps what later parts need
    python benchmarks/bench_gpu_loop.py --rehearse                   every line on a CPU, figures without meaning

distil: SmolLM2-135M learns on programmatic solutions how answers look, half of them worked out, half guessed.
async, sync: `configs/gpu_2x.yaml` for the same number of versions, or as many as fit into the time; in the middle of
    the asynchronous run `swap verifier --shadow 64` and `mixture`. Both have the same two GPUs, split in the same way.
    Held-out accuracy at the newest version that both have a checkpoint of.
speed: imposed lengths (log-normal, mean 1,000, at most 7,936), rewards by lot; trained tokens/s of both modes.
kill: `configs/cluster.yaml` through RAY_ADDRESS; the SGLang server is killed while responses are under way.

Figures are written as they come; logs and figures of every run are kept in --out ($OUT).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import tempfile
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import torch

from bars import Bar, write_bars
from gpu_loop_exam import Exam, accuracy, gain
from gpu_loop_fleet import Fleet, log
from gpu_loop_kill import measure_kill
from gpu_loop_setting import Setting, gpu_setting, rehearsal_setting
from gpu_loop_speed import measure_speed
from plugin_site import make_plugin_found
from ring_async.config.load import load_config
from ring_async.storage.audit import audit

PARTS = ("distil", "async", "sync", "speed", "kill")
GAIN_BAR = 0.15
CHECKPOINT_VERSIONS = 10


class Loop:
    """What the parts share: the setting, the figures so far, the examination."""

    def __init__(self, setting: Setting, options: argparse.Namespace) -> None:
        self.setting, self.options = setting, options
        self.figures: dict[str, Any] = {}
        self.bars: dict[str, Bar] = {}
        self.scores: dict[str, dict[str, list[float]]] = {}
        self.exam: Exam | None = None

    def say(self, key: str, value: Any) -> None:
        """Print a figure and write all there are."""
        log(f"{key}: {value}")
        self.figures[key] = value
        self.setting.write(self.figures)
        if self.bars:
            write_bars("gpu_loop", self.bars)
            self.setting.keep_bars()

    # -- what it learns

    async def distil(self) -> None:
        from gpu_loop_distil import Distillation

        setting = self.setting
        if setting.model.exists():
            log(f"distil: {setting.model} is there already")
            return
        await asyncio.to_thread(setting.write_base)
        distillation = await asyncio.to_thread(Distillation, setting.base, setting.device, setting.sft)
        done = asyncio.create_task(asyncio.to_thread(distillation.run, setting.model, self.options.distil_s))
        await asyncio.gather(self.start_exam(), done)
        self.say("distil", done.result())
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # the fleet's actors use this GPU, too

    async def start_exam(self) -> None:
        """An engine of its own beside the fleet's, for all models; it computes only when it examines."""
        if self.exam is None:
            setting = self.setting
            config = load_config(setting.config, setting.overrides("exam"))
            exam = Exam(
                config, setting.make_exam_engine(), setting.base, self.options.problems, dtype=setting.dtype,
                device=setting.device,
            )  # fmt: skip
            await exam.start()
            self.exam = exam

    async def take_exam(self, name: str, folder: Path) -> None:
        try:
            await self.start_exam()
            assert self.exam is not None
            began_s = time.monotonic()
            self.scores[name] = await self.exam.take(folder)
        except Exception:  # the other figures go on without it
            traceback.print_exc()
            return
        self.say(f"accuracy {name}", accuracy(self.scores[name]) | {"seconds": round(time.monotonic() - began_s, 1)})

    async def take_exams(self) -> None:
        """Of the start, and of the asynchronous run's newest checkpoint, if there is one already."""
        if "start" not in self.scores:
            await self.take_exam("start", self.setting.model)
        if checkpoints := self.setting.checkpoints("async"):
            await self.take_exam(f"async at version {max(checkpoints)}", checkpoints[max(checkpoints)])

    async def learn(self, mode: str) -> None:
        """Train for the versions, or the seconds, that are given; the first checkpoints are examined by `compare`."""
        options, setting = self.options, self.setting
        num_versions = options.versions
        overrides = [
            *setting.overrides(mode), f"mode={mode}", f"stop.policy_versions={num_versions}",
            f"checkpoint.every_versions={CHECKPOINT_VERSIONS}", "checkpoint.keep=20",
        ]  # fmt: skip
        fleet = Fleet(setting.runs, mode, setting.config, overrides, setting.environment)
        async with fleet:
            async with asyncio.TaskGroup() as group:
                start = group.create_task(fleet.until_trains(options.start_s))
                group.create_task(self.take_exams())  # while the fleet starts
            self.say(f"{mode}: first version after s", round(start.result(), 1))
            began_s, seconds = time.monotonic(), options.async_s if mode == "async" else options.sync_s
            if mode == "async":
                await self.change(fleet, num_versions, seconds)
            await fleet.until_version(num_versions, seconds - (time.monotonic() - began_s))
            await fleet.end()
        self.say(f"{mode}: run", self.summary(fleet, time.monotonic() - began_s))
        self.say(f"{mode}: audit", audit(fleet.dir.path).to_text()[-600:])
        if mode == "async":
            await self.look_for_changes(fleet)
        fleet.keep(setting.out)

    async def change(self, fleet: Fleet, num_versions: int, seconds: float) -> None:
        """The two changes of a run at work."""
        await fleet.until_version(num_versions // 4, seconds / 3)
        swap = await fleet.command(
            "swap", "verifier", "logic=reasoning_gym", "--shadow", "64", "--yes", "--json", timeout_s=60.0
        )
        self.say("swap verifier --shadow 64", swap)
        self.say("mixture", await fleet.command("mixture", "chain_sum=2", "leg_counting=1", timeout_s=60.0))

    async def look_for_changes(self, fleet: Fleet) -> None:
        await fleet.command("report")
        report = fleet.dir.report.read_text() if fleet.dir.report.exists() else ""
        kinds = [event["kind"] for event in fleet.events()]
        self.say(
            "changes seen",
            {
                "events": {kind: kinds.count(kind) for kind in sorted(set(kinds)) if "swap" in kind or "mix" in kind},
                "verifier_epochs": sorted({step["verifier_epoch"] for step in fleet.steps()}),
                "mixture_epochs": sorted({step["mixture_epoch"] for step in fleet.steps()}),
                "in report": {word: word in report for word in ("swap", "mixture")},
            },
        )

    def summary(self, fleet: Fleet, seconds: float) -> dict[str, Any]:
        steps = fleet.steps()
        mean = lambda name, part: round(sum(step[name] for step in part) / len(part), 4)  # noqa: E731
        return {
            "versions": len(steps), "seconds": round(seconds, 1), "loss_tokens": sum(s["loss_tokens"] for s in steps),
            "reward_first_5": mean("reward_mean", steps[:5]), "reward_last_5": mean("reward_mean", steps[-5:]),
            "step_s": mean("step_s", steps), "wait_batch_s": mean("wait_batch_s", steps),
            "publish_s": mean("publish_s", steps), "staleness_mean": mean("staleness_mean", steps),
            "behavior_ratio_masked": mean("behavior_ratio_masked", steps),
        }  # fmt: skip

    async def compare(self) -> None:
        """Examine both runs at the newest version that both have a checkpoint of; one alone at its newest."""
        found = {mode: self.setting.checkpoints(mode) for mode in ("async", "sync")}
        found = {mode: checkpoints for mode, checkpoints in found.items() if checkpoints}
        common = set.intersection(*(set(checkpoints) for checkpoints in found.values())) if found else set()
        if not common:
            log("compare: there is no version that both runs have a checkpoint of")
            return
        number = max(common)
        self.say("compared at version", number)
        if "start" not in self.scores:
            await self.take_exam("start", self.setting.model)
        for mode, checkpoints in found.items():
            await self.take_exam(mode, checkpoints[number])
            if mode in self.scores and "start" in self.scores:
                gains = {
                    kind: gain(self.scores["start"][kind], self.scores[mode][kind]) for kind in ("T = 1", "greedy")
                }
                self.bars[f"{mode}: gain over the start, T = 1"] = Bar(gains["T = 1"][0], GAIN_BAR, "share of problems")
                self.say(f"{mode}: gain over the start [mean, low, high]", gains)


@contextlib.asynccontextmanager
async def closing(loop: Loop) -> AsyncIterator[None]:
    try:
        yield
    finally:
        if loop.exam is not None:
            await loop.exam.close()
            loop.exam = None


async def measure(loop: Loop, parts: list[str]) -> None:
    """One part after the other; a part that fails does not take the others with it."""

    async def attempt(name: str, part: Callable[[], Awaitable[None]]) -> None:
        began_s = time.monotonic()
        try:
            await part()
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            loop.say(f"{name}: failed", f"{type(error).__name__}: {error}"[:500])
        log(f"part {name}: {time.monotonic() - began_s:.0f} s")

    async with closing(loop):
        if {"distil", "async", "sync"} & set(parts):
            await attempt("distil", loop.distil)
        for mode in ("async", "sync"):
            if mode in parts:
                await attempt(mode, lambda mode=mode: loop.learn(mode))
        if {"async", "sync"} & set(parts):
            await attempt("compare", loop.compare)
    if {"speed", "kill"} & set(parts) and not loop.setting.model.exists():
        await attempt("base model", lambda: asyncio.to_thread(loop.setting.use_base))
    if "speed" in parts:
        await attempt("speed", lambda: measure_speed(loop))
    if "kill" in parts:
        await attempt("kill", lambda: measure_kill(loop))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["distil", "async", "sync"], choices=PARTS)
    parser.add_argument("--distil-s", type=float, default=75.0)
    parser.add_argument("--async-s", type=float, default=90.0, help="after the first version")
    parser.add_argument("--sync-s", type=float, default=90.0, help="after the first version")
    parser.add_argument("--speed-s", type=float, default=75.0, help="of each mode, after the first version")
    parser.add_argument("--start-s", type=float, default=180.0, help="longest wait for a run's first version")
    parser.add_argument("--versions", type=int, default=60, help="of the runs that learn")
    parser.add_argument("--problems", type=int, default=1024, help="held out")
    parser.add_argument("--work", type=Path, default=None, help="folder for models and runs; default: a fresh one")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "build/bench/gpu_loop")))
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with the tiny model")
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="gpu-loop-"))
    make_plugin_found(work / "site")
    setting = rehearsal_setting(work, options.out) if options.rehearse else gpu_setting(work, options.out)
    loop = Loop(setting, options)
    asyncio.run(measure(loop, options.parts))
    write_bars("gpu_loop", loop.bars)


if __name__ == "__main__":
    main()
