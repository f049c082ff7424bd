"""`examples/gsm8k.yaml` and `examples/dapo_math.yaml` with a few rows of our own in those datasets' columns."""

from pathlib import Path
from typing import Any

import pytest

from ring_async.cli.check import part_problems
from ring_async.config.load import load_config
from ring_async.config.schema import Config
from ring_async.data.registry import make_source
from ring_async.verifiers.base import Response
from ring_async.verifiers.registry import load_verifier

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

SMALL = ("model.path=builtin:tiny", "model.dtype=float32", "rollout.max_tokens=56", "learner.token_capacity=512")


def verl_row(data_source: str, asked: str, truth: str, **extra_info: Any) -> dict[str, Any]:
    """A row in the columns of verl's preprocessing scripts and of DAPO-Math-17k."""
    return {
        "data_source": data_source,
        "prompt": [{"role": "user", "content": asked}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": truth},
        "extra_info": extra_info,
    }


def gsm8k_row(number: int, split: str) -> dict[str, Any]:
    question = f'Ann has {number} pens, buys 3. How many? Put the answer after "####".'
    return verl_row(
        "openai/gsm8k", question, str(number + 3),
        split=split, index=number, question=question, answer=f"{number}+3=<<{number}+3={number + 3}>>",
    )  # fmt: skip


def dapo_row(number: int) -> dict[str, Any]:
    question = f"The last line is Answer: $Answer. Find $x$ in $x - 2 = {number}$."
    return verl_row("math_dapo", question, str(number + 2), index=f"a1b2-{number}")


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def configured(example: str, *overrides: str) -> Config:
    return load_config(Path("examples") / example, [*SMALL, *overrides])


def reward(config: Config, name: str, index: int, text: str) -> float:
    section = config.sources[name]
    verifier: Any = load_verifier(section.verifier, config.verifiers[section.verifier])
    return verifier.score(make_source(name, section).held_out(index), Response(text)).reward


def test_gsm8k_in_verls_columns(tmp_path: Path) -> None:
    train = written(tmp_path / "train.parquet", [gsm8k_row(number, "train") for number in range(12)])
    test = written(tmp_path / "test.parquet", [gsm8k_row(number, "test") for number in range(50, 54)])
    config = configured("gsm8k.yaml", f"sources.gsm8k.path={train}", f"sources.gsm8k.held_out_path={test}")
    assert list(part_problems(config)) == []
    source = make_source("gsm8k", config.sources["gsm8k"])
    assert source.num_prompts == 12
    first = source.held_out(0)
    assert first.text == 'Ann has 50 pens, buys 3. How many? Put the answer after "####".'
    assert first.metadata == {"answer": "53"}
    assert reward(config, "gsm8k", 0, "50 and 3 are 53.\n#### 53") == 1.0
    assert reward(config, "gsm8k", 0, "50 and 3 are 53.\n#### 54") == 0.0


def test_gsm8k_in_its_own_columns(tmp_path: Path) -> None:
    rows = [{"question": f"{n} + 3 = ?", "answer": f"{n}+3={n + 3}\n#### {n + 3}"} for n in range(50)]
    file = written(tmp_path / "train.parquet", rows)
    config = configured(
        "gsm8k.yaml", f"sources.gsm8k.path={file}", "sources.gsm8k.held_out_path=''",
        "sources.gsm8k.columns={prompt: question, answer: answer}",
    )  # fmt: skip
    assert list(part_problems(config)) == []
    first = make_source("gsm8k", config.sources["gsm8k"]).held_out(0)
    number = int(first.text.split()[0])
    assert reward(config, "gsm8k", 0, f"It is {number + 3}") == 1.0
    assert reward(config, "gsm8k", 0, f"It is {number}") == 0.0


def test_dapo_math_in_its_columns(tmp_path: Path) -> None:
    train = written(tmp_path / "dapo.parquet", [dapo_row(number) for number in range(8)])
    aime = written(tmp_path / "aime.parquet", [dapo_row(number) for number in range(100, 103)])
    config = configured("dapo_math.yaml", f"sources.dapo.path={train}", f"sources.dapo.held_out_path={aime}")
    assert list(part_problems(config)) == []
    first = make_source("dapo", config.sources["dapo"]).held_out(0)
    assert first.metadata == {"answer": "102", "ability": "math", "index": "a1b2-100"}
    assert reward(config, "dapo", 0, "x = 100 + 2.\nAnswer: 102") == 1.0
    assert reward(config, "dapo", 0, r"So \boxed{102}") == 1.0
    assert reward(config, "dapo", 0, "Answer: 100") == 0.0
