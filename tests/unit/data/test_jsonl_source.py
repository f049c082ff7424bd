"""Prompts from files: split by question, endless for training, finite for evaluation."""

import json
import sys
from pathlib import Path

import pytest

from ring_async.config.schema import SourceSection
from ring_async.data.files import files_digest
from ring_async.data.jsonl import FileSource
from ring_async.data.registry import make_source
from ring_async.errors import ConfigError


def write_rows(path: Path, rows) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "sums.jsonl", [{"prompt": f"{n} + 1 = ?", "answer": str(n + 1)} for n in range(80)])


def test_rows_become_prompts_with_their_columns(file: Path) -> None:
    source = make_source("sums", SourceSection(kind="jsonl", path=str(file), verifier="math"))
    prompt = source.prompt(0)
    number = int(prompt.text.split()[0])
    assert (prompt.source, prompt.prompt_id) == ("sums", f"sums/sums.jsonl:{number + 1}")
    assert prompt.metadata == {"answer": str(number + 1)}


def test_training_goes_round_in_a_new_order_and_never_meets_the_held_out(file: Path) -> None:
    source = FileSource("sums", str(file))
    held_out = [source.held_out(index).text for index in range(source.num_held_out)]
    with pytest.raises(IndexError, match="no held-out prompt"):
        source.held_out(len(held_out))
    num_train = 80 - len(held_out)
    first = [source.prompt(index).text for index in range(num_train)]
    second = [source.prompt(index).text for index in range(num_train, 2 * num_train)]
    assert held_out
    assert sorted([*first, *held_out]) == sorted(f"{n} + 1 = ?" for n in range(80))
    assert sorted(second) == sorted(first)
    assert second != first


def test_a_folder_is_read_in_order_of_names(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_rows(tmp_path / f"{name}.jsonl", [{"question": f"{name}{n}"} for n in range(40)])
    again = FileSource("s", str(tmp_path)), FileSource("s", str(tmp_path))
    assert again[0].held_out(0).prompt_id.startswith("s/a.jsonl:")
    assert again[0].prompt(17) == again[1].prompt(17)


def test_parquet_rows_read_like_json_lines(tmp_path: Path, file: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "sums.parquet")
    assert FileSource("s", str(tmp_path / "sums.parquet")).prompt(3).text == FileSource("s", str(file)).prompt(3).text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"prompt": "a"}\n{not json', "bad.jsonl:2 is not JSON"),
        ("[1, 2]", "bad.jsonl:1 is not an object"),
        ('{"text": "a"}', "bad.jsonl:1 has no text under prompt or question"),
        ('{"prompt": "a"}', "too few to set some aside"),
    ],
)
def test_bad_files_say_where(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "bad.jsonl").write_text(content)
    with pytest.raises(ConfigError, match=words):
        FileSource("s", str(tmp_path / "bad.jsonl"))


SAVED = Path(__file__).parents[2] / "support" / "saved_dataset"
"""Rows `n + 1 = ?`, n from 0 to 23, as `save_to_disk` of datasets 5.2 wrote them: 16 in train, 8 in test."""


def write_parquet(path: Path, rows) -> Path:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return path


def test_a_dataset_saved_by_datasets_is_read_split_by_split() -> None:
    pytest.importorskip("pyarrow")
    source = FileSource("saved", str(SAVED / "train"), held_out_path=str(SAVED / "test"))
    assert (source.num_prompts, source.num_held_out) == (16, 8)
    assert [source.held_out(index).text for index in range(8)] == [f"{n} + 1 = ?" for n in range(16, 24)]
    assert source.held_out(0).metadata == {"answer": "16 plus one.\n#### 17"}
    with pytest.raises(ConfigError, match=r"holds several splits; give one of .*train, .*test"):
        FileSource("saved", str(SAVED))


def test_files_of_evaluation_are_never_trained_on(tmp_path: Path) -> None:
    train = write_rows(tmp_path / "train.jsonl", [{"prompt": f"{n}?"} for n in range(10)])
    test = write_rows(tmp_path / "test.jsonl", [{"prompt": "3?"}, {"prompt": "a?"}])
    source = FileSource("s", str(train), held_out_path=str(test))
    assert (source.num_prompts, source.num_held_out) == (9, 2)
    assert {source.prompt(index).text for index in range(9)} == {f"{n}?" for n in range(10) if n != 3}


def test_the_same_question_under_another_system_prompt_stays_on_its_side(tmp_path: Path) -> None:
    def chat(system: str, number: int) -> dict:
        turns = [{"role": "system", "content": system}, {"role": "user", "content": f"{number}?"}]
        return {"prompt": turns}

    file = write_rows(
        tmp_path / "chat.jsonl", [chat(system, n) for n in range(60) for system in ("Be brief.", "Be kind.")]
    )
    source = FileSource("s", str(file))
    held_out = {source.held_out(index).text for index in range(source.num_held_out)}
    assert held_out
    assert not held_out & {source.prompt(index).text for index in range(source.num_prompts)}


def test_parquet_of_pandas_nan_is_nothing(tmp_path: Path) -> None:
    nan = float("nan")
    rows = [{"prompt": f"{n}?", "level": nan if n % 2 else 1.5, "info": {"rate": nan}} for n in range(40)]
    source = FileSource("s", str(write_parquet(tmp_path / "p.parquet", rows)))
    assert {source.prompt(index).metadata["level"] for index in range(20)} == {None, 1.5}
    assert source.prompt(0).metadata["info"] == {"rate": None}


def test_a_pattern_means_its_files_in_order(tmp_path: Path) -> None:
    for name in ("train-1", "train-0", "test-0"):
        write_parquet(tmp_path / f"{name}.parquet", [{"prompt": f"{name} {n}"} for n in range(4)])
    source = FileSource("s", f"{tmp_path}/train-*.parquet", held_out_path=f"{tmp_path}/test-*.parquet")
    assert source.num_prompts == 8
    assert [source.held_out(index).text for index in range(4)] == [f"test-0 {n}" for n in range(4)]


def test_without_pyarrow_a_parquet_file_names_the_remedy(tmp_path: Path, monkeypatch) -> None:
    file = write_parquet(tmp_path / "p.parquet", [{"prompt": "?"}])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        ConfigError, match=r"p.parquet needs pyarrow: pip install 'ring-async\[data\]', or give JSON lines"
    ):
        FileSource("s", str(file))


def test_the_digest_follows_the_content_and_not_the_name(tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    first.write_bytes(b"one")
    second.write_bytes(b"one")
    assert files_digest([first]) == files_digest([second])
    second.write_bytes(b"two")
    assert files_digest([first]) != files_digest([second])
    joined = tmp_path / "c.jsonl"
    joined.write_bytes(b"onetwo")
    assert files_digest([joined]) != files_digest([first, second]) != files_digest([second, first])
