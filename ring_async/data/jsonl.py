"""Prompts from files in JSON lines or Parquet: each row is one question with its answer.

Owns: reading, numbering and the held-out split. Does not own scoring. Rows are kept in memory, since a file of prompts
is small compared with a model.

A row has `prompt` (or `question`) and whatever its verifier needs, e.g. `answer`; all other columns become metadata.
Training rows are endless: after the last comes the first, in a new order, the same in every process.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from ring_async.data.split import is_held_out
from ring_async.errors import ConfigError
from ring_async.types import Prompt

_QUESTION_KEYS = ("prompt", "question")


class FileSource:
    """Rows of one file, or of all `.jsonl` and `.parquet` files of a folder in the order of their names.

    A question belongs to a split by a hash of its text, so repeated questions never fall on both sides.

    Raises:
        ConfigError: there is no such file, a row has no question, or there are too few rows for two splits.
    """

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        rows = [self._prompt(place, row) for place, row in _rows(name, Path(path).expanduser())]
        self._held_out = [prompt for prompt in rows if is_held_out(prompt.text)]
        self._train = [prompt for prompt in rows if not is_held_out(prompt.text)]
        if not self._train or not self._held_out:
            raise ConfigError(
                f"sources.{name}.path: {path}: {len(rows)} rows are too few to set some aside for evaluation"
            )
        self._order = lru_cache(maxsize=4)(self._shuffled)

    def prompt(self, index: int) -> Prompt:
        if index < 0:
            raise IndexError(f"source {self.name}: no prompt {index}")
        epoch, place = divmod(index, len(self._train))
        return self._train[self._order(epoch)[place]]

    @property
    def num_prompts(self) -> int:
        return len(self._train)

    @property
    def num_held_out(self) -> int:
        return len(self._held_out)

    def held_out(self, index: int) -> Prompt:
        """The held-out row of this index, in file order. The list ends, so that no row counts twice.

        Raises:
            IndexError: there are not so many held-out rows.
        """
        if not 0 <= index < len(self._held_out):
            raise IndexError(f"source {self.name}: no held-out prompt {index}; there are {len(self._held_out)}")
        return self._held_out[index]

    def _shuffled(self, epoch: int) -> list[int]:
        order = list(range(len(self._train)))
        random.Random(epoch).shuffle(order)
        return order

    def _prompt(self, place: str, row: dict[str, Any]) -> Prompt:
        for key in _QUESTION_KEYS:
            if isinstance(row.get(key), str) and row[key]:
                metadata = {column: value for column, value in row.items() if column != key}
                return Prompt(f"{self.name}/{place}", self.name, row[key], metadata)
        raise ConfigError(f"sources.{self.name}.path: {place} has no text under {' or '.join(_QUESTION_KEYS)}")


def _rows(name: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read all rows, as pairs of (`file:number`, row)."""
    where = f"sources.{name}.path"
    files = sorted(f for f in path.iterdir() if f.suffix in {".jsonl", ".parquet"}) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise ConfigError(f"{where}: {path.absolute()}: no such file, or a folder without .jsonl or .parquet files")
    for file in files:
        read = _parquet_rows if file.suffix == ".parquet" else _json_rows
        for number, row in read(where, file):
            yield f"{file.name}:{number}", row


def _json_rows(where: str, file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ConfigError(f"{where}: {file}:{number} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise ConfigError(f"{where}: {file}:{number} is not an object")
            yield number, row


def _parquet_rows(where: str, file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(f"{where}: {file} needs pyarrow; pip install pyarrow, or give JSON lines") from error
    number = 0
    for batch in parquet.ParquetFile(file).iter_batches():
        for row in batch.to_pylist():
            number += 1
            yield number, row
