"""Verdicts of this tree beside those of another one, slice by slice in turn: ratios that hold on a busy machine.

    git worktree add /tmp/before e6ef151
    python benchmarks/rewards_in_turn.py /tmp/before --rounds 15

Each tree runs in a process of its own, with its own `bench_rewards` for prompts and the stub judge, and scores for
0.8 s when asked. Prints, for each verifier, the medians over the rounds of this tree's rate over the other's, and of
the other's CPU time for a verdict over this one's (all processes of the tree counted): above 1, this one is better.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).resolve().parents[1]
SLICE_S = 0.8
_INSTRUCTION = {"instructions": [{"id": "punctuation:no_comma"}, {"id": "detectable_format:title"}]}
_TESTS = {"tests": [{"stdin": "3 4", "stdout": "7"}, {"stdin": "1 1", "stdout": "2"}]}
_PROGRAM = "```python\nprint(sum(map(int, input().split())))\n```"
VERIFIERS: dict[str, tuple[str, dict[str, Any], tuple[Any, ...]]] = {
    "math, text": ("math", {}, ("?", {"answer": "\\frac{1}{2}"}, "\\boxed{\\frac12}")),
    "math, algebra": ("math", {}, ("?", {"answer": "x^2+2x+1"}, "\\boxed{(x+1)^2}")),
    "stem": ("stem", {}, ("?", {"answer": "36 km/h"}, "\\boxed{10 m/s}", "\\boxed{9 m/s}")),
    "logic": ("reasoning_gym", {}, ()),
    "instruction": ("instruction", {"mode": "loose"}, ("?", _INSTRUCTION, "<<A>> b, c", "none")),
    "code": ("code", {}, ("?", _TESTS, _PROGRAM)),
    "judge, stub": ("judge", {"base_url": "", "model": "stub", "cache_size": 0}, ("?", {}, "a")),
    "judge, cached": ("judge", {"base_url": "", "model": "stub"}, ("?", {}, "a", "b")),
    "reward model": ("reward_model", {"path": ""}, ("?", {}, "the " * 60, "the")),
}


def serve() -> None:
    """One tree: a line with a verifier's name in, its verdicts, seconds and CPU seconds out."""
    sys.path.insert(0, str(Path.cwd() / "benchmarks"))
    import bench_rewards as bench
    from ring_async.config.schema import VerifierSection
    from ring_async.verifiers.registry import make_verifier
    from ring_async.verifiers.scoring import score_group

    made: dict[str, Any] = {}

    async def score(verifier: Any, cases: list[Any]) -> tuple[int, float, float]:
        await score_group(verifier, *cases[0], 30.0)
        count, cpu_s, began_s = 0, _cpu_s(), time.perf_counter()
        while time.perf_counter() - began_s < SLICE_S:
            prompt, responses = cases[count // bench.GROUP_SIZE % len(cases)]
            count += len(await score_group(verifier, prompt, responses, 30.0))
        return count, time.perf_counter() - began_s, _cpu_s() - cpu_s

    with tempfile.TemporaryDirectory() as folder, bench.stub_judge() as judge_url:
        bench.write_small_reward_model(Path(folder))
        print("ready", flush=True)
        for line in sys.stdin:
            name = line.strip()
            if name not in made:
                use, options, case = VERIFIERS[name]
                places = {"base_url": judge_url, "path": folder}
                options = options | {key: places[key] for key, value in options.items() if value == ""}
                verifier = make_verifier("bench", VerifierSection(use=use, options=options), num_workers=2)
                made[name] = (verifier, [bench.group(*case)] if case else bench.logic_cases())
            print(json.dumps(asyncio.run(score(*made[name]))), flush=True)
        for verifier, _ in made.values():
            verifier.close()


def _cpu_s() -> float:
    """CPU seconds of this process and all below it, ended children included."""
    total = 0.0
    for process in [own := psutil.Process(), *own.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def start(tree: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), "--serve"],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    while process.stdout.readline().strip() != "ready":
        assert process.poll() is None, f"{tree} does not start"
    return process


def ask(process: subprocess.Popen[str], name: str) -> tuple[int, float, float]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{name}\n")
    process.stdin.flush()
    count, seconds, cpu_s = json.loads(process.stdout.readline())
    return count, seconds, cpu_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="a worktree of another commit")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", nargs="*", default=list(VERIFIERS), help="names as printed")
    options = parser.parse_args()
    other, ours = start(options.other.resolve()), start(HERE)
    print("verifier         rate  CPU time")
    for name in options.only:
        rates, costs = [], []
        for turn in range(options.rounds):
            sides = (other, ours) if turn % 2 == 0 else (ours, other)
            found = {side: ask(side, name) for side in sides}
            (n1, s1, c1), (n2, s2, c2) = found[other], found[ours]
            rates.append((n2 / s2) / (n1 / s1))
            costs.append((c1 / n1) / max(c2 / n2, 1e-9))
        print(f"{name:15} {statistics.median(rates):5.2f} {statistics.median(costs):9.2f}", flush=True)
    for process in (other, ours):
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["--serve"] else main()
