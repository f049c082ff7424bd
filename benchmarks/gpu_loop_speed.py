"""How fast asynchronous training is beside synchronous, on lengths that are imposed.

Owns: the two runs and what is computed of them. Both have the same GPUs, split in the same way: one generates, the
other trains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bars import Bar
from gpu_loop_fleet import Fleet
from ring_async.telemetry.trace_parts import busy_intervals, busy_overlap

if TYPE_CHECKING:
    from bench_gpu_loop import Loop

RATIO_BAR = 1.8
OVERLAP_BAR = 0.9


async def measure_speed(loop: Loop) -> None:
    """Trained tokens/s of both modes, and how much of the shorter of generating and training went on meanwhile."""
    found = {mode: await _run(loop, mode) for mode in ("async", "sync")}
    if all(one["trained_tokens_per_s"] for one in found.values()):
        ratio = found["async"]["trained_tokens_per_s"] / found["sync"]["trained_tokens_per_s"]
        loop.bars["async over sync, trained tokens/s"] = Bar(ratio, RATIO_BAR, "ratio")
    loop.bars["overlap, async"] = Bar(found["async"]["overlap"], OVERLAP_BAR, "share of the shorter")
    loop.say("speed", found)


async def _run(loop: Loop, mode: str) -> dict[str, Any]:
    options, setting = loop.options, loop.setting
    overrides = [f"model.path={setting.model}", *setting.speed, f"mode={mode}", "stop.policy_versions=100000"]
    async with Fleet(setting.runs, f"speed-{mode}", setting.config, overrides, setting.environment) as fleet:
        start_s = await fleet.until_trains(options.start_s)
        await fleet.until_version(100_000, options.speed_s)
        steps = fleet.steps()
        await fleet.end()
    # Async begins with an empty buffer and the learner compiles: the first third is not steady.
    first = len(steps) // 3
    seconds = steps[-1]["wall_s"] - steps[first]["wall_s"]
    tokens = sum(step["loss_tokens"] for step in steps[first + 1 :])
    busy = {
        name: round(sum(ended - began for began, ended in busy_intervals(fleet.dir.trace_parts, name)), 1)
        for name in ("generate", "train")
    }
    figures = {
        "start_s": round(start_s, 1),
        "versions": len(steps),
        "measured_s": round(seconds, 1),
        "trained_tokens_per_s": round(tokens / seconds) if seconds > 0 else 0,
        "step_s": [round(step["step_s"], 2) for step in steps],
        "wait_batch_s": [round(step["wait_batch_s"], 2) for step in steps],
        "busy_s": busy,
        "overlap": round(busy_overlap(fleet.dir.trace_parts), 3),
    }
    loop.say(f"speed {mode}", figures)
    fleet.keep(setting.out)
    return figures
