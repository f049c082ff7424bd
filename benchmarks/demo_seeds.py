"""The learning claim: five fixed seeds, fixed policy versions, fixed held-out problems, and two controls.

    make demo-seeds                 (about half an hour on two cores; goes on where it was interrupted)

Each seed trains `configs/local.yaml` for the same number of policy versions and is evaluated, greedy and at T = 1, on
the same held-out problems as the start. Controls: the same with learning rate 0, and supervised training (the start's
recipe, half worked solutions and half guesses) continued for as many tokens as RL trained. Reported: the mean gain over
the start with its 95 % bootstrap interval over seeds and problems. Results lie in build/demo-seeds, the table goes into
docs/learning.md and README.md, the bars into build/bench/demo-seeds.json.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bars import Bar, write_bars
from ring_async.actors.evaluation import evaluate_checkpoint
from ring_async.config.load import load_config
from ring_async.models import resolve_model_path
from ring_async.storage.run_dir import RunDir

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "demo-seeds"
SEEDS = (11, 12, 13, 14, 15)
NUM_SFT = 2
"""Seeds of continued supervised training. Learning rate 0 gets one: its weights cannot move."""

MODES = {"greedy": 0.0, "T = 1": 1.0}
NUM_BOOTSTRAP = 10_000
BAR = 0.15
MARKS = ("<!-- demo-seeds -->", "<!-- /demo-seeds -->")

Scores = dict[str, list[float]]
"""Solved (1) or not (0), by mode, problem by problem."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/local.yaml")
    parser.add_argument("--versions", type=int, default=60)
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    options = parser.parse_args()
    key = fingerprint(options)
    if options.fresh and (FOLDER / key).exists():
        for path in (FOLDER / key).glob("*.json"):
            path.unlink()
    (FOLDER / key).mkdir(parents=True, exist_ok=True)
    experiment = Experiment(options, FOLDER / key)
    start = experiment.scores("start", lambda: "builtin:tiny")
    arms: dict[str, list[Scores]] = {"RL": [], "learning rate 0": [], "SFT continued": []}
    for seed in SEEDS:
        arms["RL"].append(experiment.scores(f"rl-{seed}", lambda seed=seed: experiment.train(f"rl-{seed}", seed)))
    for seed in SEEDS[:1]:
        lr0 = (f"lr0-{seed}", seed, "learner.learning_rate=0")
        arms["learning rate 0"].append(experiment.scores(lr0[0], lambda lr0=lr0: experiment.train(*lr0)))
    for seed in SEEDS[:NUM_SFT]:
        sft = f"sft-{seed}"
        arms["SFT continued"].append(
            experiment.scores(sft, lambda sft=sft, seed=seed: experiment.continue_sft(sft, seed))
        )
    text = tables(options, start, arms)
    print(text)
    publish(text)
    gains = {mode: gain(start[mode], [scores[mode] for scores in arms["RL"]]) for mode in MODES}
    write_bars(
        "demo-seeds",
        {f"lower bound of the gain, {mode}": Bar(low, BAR, "share of problems") for mode, (_, low, _) in gains.items()},
    )


def fingerprint(options: argparse.Namespace) -> str:
    """Names the results of one experiment: another configuration, start or number of versions is another one."""
    content = (ROOT / options.config).read_bytes() + (
        resolve_model_path("builtin:tiny") / "model.safetensors"
    ).read_bytes()
    content += f"{options.versions}/{options.problems}".encode()
    return hashlib.blake2b(content, digest_size=6).hexdigest()


class Experiment:
    """Trains and scores one arm after another; what is scored already is read back."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.config = load_config(ROOT / options.config, [f"stop.policy_versions={options.versions}"])

    def scores(self, name: str, make: Callable[[], str | Path]) -> Scores:
        path = self.folder / f"{name}.json"
        if not path.exists():
            model = make()
            evaluation = asyncio.run(
                evaluate_checkpoint(self.config, resolve_model_path(str(model)), num_problems=self.options.problems)
            )
            scores = {
                mode: [float(one.is_solved) for one in evaluation.select(temperature)]
                for mode, temperature in MODES.items()
            }
            path.write_text(json.dumps(scores))
        scores = json.loads(path.read_text())
        print(f"{name:10} " + "  ".join(f"{mode} {np.mean(scores[mode]):.3f}" for mode in MODES), flush=True)
        return scores

    def train(self, name: str, seed: int, *overrides: str) -> str:
        """A whole run of the fleet; returns its last checkpoint."""
        runs = self.folder / "runs"
        subprocess.run(["rm", "-rf", str(runs / name)], check=True)
        words = ["up", self.options.config, f"run.name={name}", f"run.dir={runs}", f"seed={seed}",
                 f"stop.policy_versions={self.options.versions}", *overrides]  # fmt: skip
        subprocess.run(
            [sys.executable, "-m", "ring_async.cli.app", *words], check=True, stdout=subprocess.DEVNULL, cwd=ROOT
        )
        return json.loads(RunDir(runs / name).outcome.read_text())["checkpoint"]

    def continue_sft(self, name: str, seed: int) -> Path:
        """The start's own recipe, continued for as many tokens as RL trained, at a tenth of its learning rates."""
        import torch
        from transformers import AutoModelForCausalLM

        from ring_async.engines.tokenizer import load_tokenizer
        from ring_async.tiny_model.domains import DOMAINS
        from ring_async.tiny_model.model import save
        from ring_async.tiny_model.sft import SftSettings, continued, train

        start = resolve_model_path("builtin:tiny")
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
        tokenizer = load_tokenizer(start)
        num_tokens = self.options.versions * self.config.global_token_budget
        settings = continued(SftSettings(num_tokens=num_tokens, seed=seed))
        settings = dataclasses.replace(settings, first_index=1_000_000 * (1 + SEEDS.index(seed)))
        train(model, tokenizer, DOMAINS, settings)
        out = self.folder / "models" / name
        save(model, tokenizer, out)
        return out


def gain(start: list[float], seeds: list[list[float]]) -> tuple[float, float, float]:
    """Mean gain over the start, and its 95 % interval from resampling seeds and problems."""
    difference = np.asarray(seeds) - np.asarray(start)
    rng = np.random.default_rng(0)
    num_seeds, num_problems = difference.shape
    means = np.empty(NUM_BOOTSTRAP)
    for index in range(NUM_BOOTSTRAP):
        chosen = difference[rng.integers(num_seeds, size=num_seeds)]
        means[index] = chosen[:, rng.integers(num_problems, size=num_problems)].mean()
    low, high = np.quantile(means, (0.025, 0.975))
    return float(difference.mean()), float(low), float(high)


def tables(options: argparse.Namespace, start: Scores, arms: dict[str, list[Scores]]) -> str:
    lines = [
        f"{options.problems:,} held-out problems, {options.versions} policy versions, seeds "
        f"{', '.join(map(str, SEEDS))}; gain over the start with its 95 % bootstrap interval over seeds and problems.",
        "",
        "| | " + " | ".join(f"{mode}: solved, each seed | gain [95 %]" for mode in MODES) + " |",
        "|---|" + "---|---|" * len(MODES),
        "| start | " + " | ".join(f"{np.mean(start[mode]):.3f} | " for mode in MODES) + " |",
    ]
    for name, seeds in arms.items():
        cells = []
        for mode in MODES:
            each = " ".join(f"{np.mean(scores[mode]):.3f}" for scores in seeds)
            mean, low, high = gain(start[mode], [scores[mode] for scores in seeds])
            cells.append(f"{each} | {mean:+.3f} [{low:+.3f}, {high:+.3f}]")
        lines.append(f"| {'**RL**' if name == 'RL' else name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def publish(text: str) -> None:
    """Put the table between the marks of README.md and docs/learning.md."""
    for path in (ROOT / "README.md", ROOT / "docs" / "learning.md"):
        if not path.exists() or MARKS[0] not in (content := path.read_text()):
            continue
        before, _, rest = content.partition(MARKS[0])
        _, _, after = rest.partition(MARKS[1])
        path.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}")


if __name__ == "__main__":
    main()
