"""The files of a file source: which ones a path means, what each of them is, and what all of them hold as one number.

Owns: folders, patterns, datasets saved by Hugging Face `datasets`, and the choice of a reader by a file's first bytes.
Does not own the formats (`json_lines`, `arrow_files`) or what a row means (`rows`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xxhash

from ring_async.data.arrow_files import ARROW_FILE, ARROW_STREAM, PARQUET, arrow_rows
from ring_async.data.json_lines import json_rows
from ring_async.errors import ConfigError

_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet", ".arrow")
_CHUNK_BYTES = 1 << 20


def data_files(where: str, path: str) -> list[Path]:
    """The files that a path means, in the order in which their rows count.

    Args:
        where: the key of the configuration that holds the path, for the errors.
        path: a file; a pattern with `*` in its last part; a folder of files; or a folder that `datasets` saved.

    Raises:
        ConfigError: there is no such file, or the folder holds none that can be read.
    """
    place = Path(path).expanduser()
    if "*" in place.name:
        files = sorted(place.parent.glob(place.name))
    elif place.is_dir():
        files = _folder_files(where, place)
    else:
        files = [place]
    if not files or not all(file.is_file() for file in files):
        missing = next((file for file in files if not file.is_file()), place)
        raise ConfigError(f"{where}: {missing.absolute()}: no such file; rows lie in {', '.join(_SUFFIXES)}")
    return files


def read_rows(where: str, file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a file, with their numbers from 1 on: lines of JSON, rows of Parquet and Arrow.

    Raises:
        ConfigError: the file or a row of it cannot be read; names the file, the line and the remedy.
    """
    try:
        with file.open("rb") as stream:
            head = stream.read(8)
    except OSError as error:
        raise ConfigError(f"{where}: {file}: {error.strerror}") from error
    is_arrow = head.startswith((PARQUET, ARROW_FILE, ARROW_STREAM))
    return arrow_rows(where, file, head) if is_arrow else json_rows(where, file)


def files_digest(files: list[Path]) -> str:
    """A hash of the files' contents, in their order: the same wherever they lie and whatever they are called."""
    digest = xxhash.xxh3_128()
    for file in files:
        digest.update(file.stat().st_size.to_bytes(8, "little"))
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def _folder_files(where: str, folder: Path) -> list[Path]:
    if (splits := folder / "dataset_dict.json").is_file():
        names = ", ".join(str(folder / name) for name in _noted(where, splits, "splits"))
        raise ConfigError(f"{where}: {folder} holds several splits; give one of {names}")
    if (state := folder / "state.json").is_file():  # saved by `datasets`, which notes the order of its files
        return [folder / str(one["filename"]) for one in _noted(where, state, "_data_files") if "filename" in one]
    files = sorted(file for file in folder.iterdir() if file.name.endswith(_SUFFIXES))
    if not files:
        below = sorted({file.parent for suffix in _SUFFIXES for file in folder.glob(f"*/*{suffix}")})
        hint = f"; give one of {', '.join(map(str, below))}" if below else ""
        raise ConfigError(f"{where}: {folder.absolute()} is a folder without {', '.join(_SUFFIXES)}{hint}")
    return files


def _noted(where: str, file: Path, key: str) -> list[Any]:
    """The list that `datasets` noted beside its files.

    Raises:
        ConfigError: the note is damaged.
    """
    try:
        return list(json.loads(file.read_text())[key])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{where}: {file}: holds no `{key}`, which `datasets` writes ({type(error).__name__}); save the dataset "
            "again, or give its data files themselves"
        ) from error
