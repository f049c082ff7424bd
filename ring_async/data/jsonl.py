"""Prompts from files (JSON lines, Parquet, Arrow): each row is one question with its answer.

Owns: numbering and the held-out split. Does not own reading (`files`), what a row means (`rows`), or scoring. Rows are
kept in memory, since a file of prompts is small compared with a model.

Training rows are endless: after the last comes the first, in a new order, the same in every process.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import lru_cache

from ring_async.data.files import data_files, read_rows
from ring_async.data.rows import NoPromptError, prompt_of
from ring_async.data.split import is_held_out, question_of
from ring_async.errors import ConfigError
from ring_async.types import Prompt


class FileSource:
    """Rows of files, split into training and held-out ones.

    A question belongs to a split by a hash of its text, so repeated questions never fall on both sides. With files of
    their own for evaluation, all rows train but those whose question is also held out.

        FileSource("gsm8k", "train.parquet", held_out_path="test.parquet").prompt(0)

    Args:
        name: of the source.
        path: see `files.data_files`.
        columns: see `rows.prompt_of`.
        held_out_path: files of evaluation alone; empty: an eighth of the questions of `path`.

    Raises:
        ConfigError: there is no such file, a row is no prompt, or there are too few questions for two splits.
    """

    def __init__(self, name: str, path: str, columns: Mapping[str, str] | None = None, held_out_path: str = "") -> None:
        self.name = name
        rows = self._read(path, "path", columns or {})
        if held_out_path:
            self._held_out = self._read(held_out_path, "held_out_path", columns or {})
            asked = {question_of(prompt) for prompt in self._held_out}
            self._train = [prompt for prompt in rows if question_of(prompt) not in asked]
        else:
            self._held_out, self._train = [], []
            for prompt in rows:
                (self._held_out if is_held_out(question_of(prompt)) else self._train).append(prompt)
        if not self._train or not self._held_out:
            num_questions = len({question_of(prompt) for prompt in rows})
            raise ConfigError(
                f"sources.{name}.path: {path}: {len(rows)} rows with {num_questions} different questions are too few "
                "to set some aside for evaluation; add rows, or give files of evaluation's own in "
                f"sources.{name}.held_out_path"
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

    def _read(self, path: str, key: str, columns: Mapping[str, str]) -> list[Prompt]:
        where = f"sources.{self.name}.{key}"
        prompts = []
        for file in data_files(where, path):
            for number, row in read_rows(where, file):
                try:
                    prompts.append(prompt_of(row, f"{self.name}/{file.name}:{number}", self.name, columns))
                except NoPromptError as error:
                    raise ConfigError(f"{where}: {file}:{number} {error}") from error
        return prompts
