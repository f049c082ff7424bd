"""Where the loop benchmark runs: on two GPUs with SmolLM2-135M, or in rehearsal on a CPU with the tiny model.

Owns: everything that differs between the two: folders, overrides, engines, devices. Does not own what is measured.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch

from bars import FOLDER
from gpu_loop_distil import SETTINGS
from gpu_loop_fleet import Fleet
from ring_async.engines.base import RolloutEngine
from ring_async.tiny_model.sft import SftSettings

EXAM_SLOTS = 256
SHORT_SLOTS = 1024
"""Responses of some 40 tokens end all the time, and each that begins holds up a step of all others: many at once."""
SERVER_ARGS = {
    "attention_backend": "triton",
    "sampling_backend": "pytorch",
    "grammar_backend": "none",
    "disable_prefill_cuda_graph": True,
    "cuda_graph_bs_decode": [8, 32, 128, 256, 512, 1024],
    "mem_fraction_static": 0.4,
    "max_total_tokens": 400_000,
}
"""What SGLang's kernels, trimmed to one attention backend, need; and a start that is short."""


@dataclass(slots=True)
class Setting:
    """Attributes:
    work: folder of models and runs.
    out: folder for figures and logs.
    config: of the runs that learn.
    cluster: of the run whose server is killed.
    device, dtype: of the model that is distilled, and of weights that are examined.
    learning, speed, kill: overrides of the three kinds of runs.
    write_base_model: makes the model that is distilled.
    make_engine: makes the engine that examines.
    sft: how the model is distilled.
    environment: of runs.
    ray_resources: what `ray start` is told that this host has.
    """

    work: Path
    out: Path
    config: str
    cluster: str
    device: str
    dtype: torch.dtype
    learning: list[str]
    speed: list[str]
    kill: list[str]
    write_base_model: Callable[[Path], Any]
    make_engine: Callable[[Path, Path], RolloutEngine]
    sft: SftSettings
    ray_resources: list[str]
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for folder in (self.work, self.out):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def runs(self) -> Path:
        return self.work / "runs"

    @property
    def base(self) -> Path:
        return self.work / "base"

    @property
    def model(self) -> Path:
        """Distilled."""
        return self.work / "distilled"

    def overrides(self, name: str) -> list[str]:
        """Of a run that learns."""
        return [f"model.path={self.model if self.model.exists() else self.base}", *self.learning]

    def write_base(self) -> None:
        if not (self.base / "config.json").exists():
            self.write_base_model(self.base)

    def use_base(self) -> None:
        """Where nobody distilled: speed does not depend on it."""
        self.write_base()
        shutil.copytree(self.base, self.model)

    def make_exam_engine(self) -> RolloutEngine:
        return self.make_engine(self.base, self.out)

    def checkpoints(self, name: str) -> dict[int, Path]:
        """Folders of a run's checkpoints by their version."""
        found = (self.runs / name / "checkpoints").glob("*/config.json")
        return {int(path.parent.name.rpartition(".")[2]): path.parent for path in found}

    def write(self, figures: dict[str, Any]) -> None:
        (self.out / "figures.json").write_text(json.dumps(figures, indent=1))

    def keep_bars(self) -> None:
        if (FOLDER / "gpu_loop.json").exists():
            shutil.copyfile(FOLDER / "gpu_loop.json", self.out / "gpu_loop.json")

    def engine_pid(self, fleet: Fleet) -> int:
        """The process that samples: an SGLang server, or, where there is none, the rollout itself."""
        for process in psutil.process_iter(["pid", "cmdline"]):
            if "ring_async.engines.sglang.launch" in " ".join(process.info["cmdline"] or ()):
                return int(process.info["pid"])
        actors = fleet.client.get("/v1/status")["actors"]
        return int(next(actor["pid"] for actor in actors if actor["actor_id"] == "rollout-0"))


def gpu_setting(work: Path, out: Path) -> Setting:
    """Two GPUs, SmolLM2-135M-Instruct."""
    from rollout_models import write_smollm2

    def make_engine(folder: Path, log_dir: Path) -> RolloutEngine:
        from ring_async.engines.sglang.engine import SglangEngine

        small = {"max_total_tokens": 100_000, "mem_fraction_static": 0.2, "cuda_graph_bs_decode": [8, 64, EXAM_SLOTS]}
        args = SERVER_ARGS | small
        return SglangEngine("exam", folder, max_running_requests=EXAM_SLOTS, server_args=args, log_dir=log_dir)

    def engine_options(**more: Any) -> str:
        return f"rollout.engine_options={json.dumps({'server_args': SERVER_ARGS} | more)}"

    placement = "placement.cpus={controller: 1, rollout: 2, reward: 1, replay: 1, learner: 2}"
    chance = "verifiers.logic.use=benchmarks/coin.py:Coin"
    long = [engine_options(mean_tokens=1000), "rollout.max_tokens=7936", placement, chance]
    return Setting(
        work=work,
        out=out,
        config="configs/gpu_2x.yaml",
        cluster="configs/cluster.yaml",
        device="cuda:0",
        dtype=torch.bfloat16,
        learning=[
            engine_options(), placement, "reward.num=3", "rollout.max_tokens=128", "budget.token_budget=16384",
            "rollout.group_size=16", f"rollout.max_running_requests={SHORT_SLOTS}",
            "learner.learning_rate=2e-5", "learner.warmup_steps=5",
        ],
        speed=[*long, "budget.token_budget=131072", "learner.token_capacity=8192", "checkpoint.every_versions=10000"],
        kill=[*long, "rollout.num=1", "reward.num=2"],
        write_base_model=write_smollm2,
        make_engine=make_engine,
        sft=SETTINGS,
        ray_resources=[f"--num-cpus={os.cpu_count()}", f"--num-gpus={torch.cuda.device_count()}"],
    )  # fmt: skip


def rehearsal_setting(work: Path, out: Path) -> Setting:
    """A CPU, the tiny model, the embedded engine: the same lines, other figures."""
    from ring_async.engines.embedded.engine import EmbeddedEngine
    from ring_async.models import resolve_model_path

    def make_engine(folder: Path, log_dir: Path) -> RolloutEngine:
        return EmbeddedEngine("exam", folder, max_running_requests=32, num_threads=1, dtype="float32")

    small = [
        "rollout.engine=embedded", "rollout.engine_options={}", "placement.gpus={}", "placement.num_cpus=4",
        "placement.cpus={controller: 0.1, rollout: 0.5, reward: 0.2, replay: 0.2, learner: 0.5}", "reward.num=1",
        "model.dtype=float32", "rollout.max_tokens=56", "rollout.max_running_requests=48", "budget.token_budget=1024",
        "learner.token_capacity=512", "learner.rows_per_microbatch=8",
    ]  # fmt: skip
    chance = "verifiers.logic.use=benchmarks/coin.py:Coin"
    return Setting(
        work=work,
        out=out,
        config="configs/gpu_2x.yaml",
        cluster="configs/cluster.yaml",
        device="cpu",
        dtype=torch.float32,
        learning=[*small, "weights.channel=shm", "learner.learning_rate=1.5e-4"],
        speed=[*small, "weights.channel=shm", chance],
        kill=[*small, "weights.channel=zmq", "rollout.num=1", chance],
        write_base_model=lambda folder: shutil.copytree(resolve_model_path("builtin:tiny"), folder),
        make_engine=make_engine,
        sft=SftSettings(num_tokens=4_000, tokens_per_batch=1536),
        ray_resources=["--num-cpus=4", "--num-gpus=0"],
    )
