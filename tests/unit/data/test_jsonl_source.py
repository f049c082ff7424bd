"""Prompts from files: split by question, endless for training, finite for evaluation."""

import json
from pathlib import Path

import pytest

from ring_async.config.schema import SourceSection
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
