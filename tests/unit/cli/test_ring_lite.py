"""configs/ring_lite.yaml: the paper's settings, accepted, placed on 32 hosts of 8 GPUs, and small enough for each."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ling_lite import write_ling_lite
from ring_async.cli.app import app
from ring_async.config.load import load_config
from ring_async.errors import ConfigError
from ring_async.training.memory import model_sizes, rank_memory

ROOT = Path(__file__).parents[3]
CONFIG = "configs/ring_lite.yaml"
MEGATRON = "configs/ring_lite_megatron.yaml"
GIB = 1 << 30


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_it_holds_the_paper_s_settings():
    config = load_config(CONFIG)
    assert config.global_token_budget == 104_857_600 == 256 * 409_600
    assert (config.rollout.group_size, config.rollout.max_tokens, config.rollout.temperature) == (16, 24_576, 1.0)
    assert config.learner.learning_rate == 3e-6
    assert (config.correction.clip_low, config.correction.clip_high) == (0.2, 0.2)
    assert (config.loss.kl_coefficient, config.loss.entropy_coefficient) == (1e-3, 5e-4)
    assert config.learner.parallel.num_ranks + config.rollout.num == 32 * 8


def test_check_says_who_would_run_where_and_what_a_gpu_must_hold(tmp_path: Path):
    model = write_ling_lite(tmp_path / "Ling-lite", max_position_embeddings=32_768)
    words = ["check", CONFIG, f"model.path={model}", f"run.dir={tmp_path}", "--hosts", "32", "--gpus", "8"]
    said = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert said.exit_code == 0, said.output
    lines = said.output.splitlines()
    assert "Φ = 104,857,600 loss tokens" in said.output
    assert any("learner: 64 ranks, about" in line for line in lines)
    assert any(line.startswith("host 0: learner ranks 0–7, 1 controller, 8 replay") for line in lines)
    assert any("learner ranks 8–63; 8 of 8 GPUs" in line for line in lines)
    assert any("8 rollout" in line and line.startswith("hosts") and "–31: " in line for line in lines)


def test_the_other_trainer_takes_the_same_fleet(tmp_path: Path):
    model = write_ling_lite(tmp_path / "Ling-lite", max_position_embeddings=32_768)
    words = ["check", MEGATRON, f"model.path={model}", f"run.dir={tmp_path}", "--hosts", "32"]
    said = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert said.exit_code == 0, said.output
    assert "learner: 64 ranks, about" in said.output
    config = load_config(MEGATRON)
    assert (config.loss.balance_coefficient, config.loss.router_z_coefficient) == (1e-5, 1e-7)
    assert config.loss.kl_coefficient == 1e-3


def test_a_rank_fits_into_80_gb(tmp_path: Path):
    memory = rank_memory(load_config(CONFIG), model_sizes(write_ling_lite(tmp_path)))
    # 16.8B parameters of 16 bytes over 8 slices
    assert memory.state / GIB == pytest.approx(16 * 16.8e9 / 8 / GIB, rel=0.01)
    assert memory.total / GIB < 0.85 * 80e9 / GIB


def test_a_cluster_too_small_for_it_is_refused(tmp_path: Path):
    model = write_ling_lite(tmp_path / "Ling-lite", max_position_embeddings=32_768)
    words = ["check", CONFIG, f"model.path={model}", f"run.dir={tmp_path}", "--hosts", "31"]
    refused = CliRunner().invoke(app, words).exception
    assert isinstance(refused, ConfigError)
    assert str(refused).startswith("placement: no room for one more rollout (CPU 8, GPU 1) on any host")
