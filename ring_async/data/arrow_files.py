"""Rows of Parquet and Arrow files, as pairs of (row number, row).

Owns: the two formats, both kinds of Arrow file (datasets saved by Hugging Face `datasets` are Arrow streams), and the
sentences where pyarrow is absent or a file is damaged. Does not own what a row means (`rows`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ring_async.errors import ConfigError

PARQUET = b"PAR1"
ARROW_FILE = b"ARROW1"
ARROW_STREAM = b"\xff\xff\xff\xff"
_ROWS_AT_ONCE = 1024


def arrow_rows(where: str, file: Path, head: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read the rows of a Parquet or Arrow file. A NaN, which pandas writes for what is missing, becomes None.

    Args:
        where: the key of the configuration that names the file, for the errors.
        file: the file.
        head: its first bytes, which tell the format.

    Raises:
        ConfigError: pyarrow is absent, or the file is damaged.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise ConfigError(
            f"{where}: {file} needs pyarrow: pip install 'ring-async[data]', or give JSON lines"
        ) from error
    number = 0
    try:
        for batch in _batches(file, head):
            for row in batch.to_pylist():
                number += 1
                yield number, {column: _missing_as_none(value) for column, value in row.items()}
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f"{where}: {file}: cannot be read behind row {number}: {error}") from error


def _batches(file: Path, head: bytes) -> Iterator[Any]:
    from pyarrow import ipc, memory_map, parquet

    if head.startswith(PARQUET):
        with parquet.ParquetFile(file) as table:
            yield from table.iter_batches(batch_size=_ROWS_AT_ONCE)
        return
    with memory_map(str(file)) as source:
        if head.startswith(ARROW_FILE):
            with ipc.open_file(source) as table:
                yield from (table.get_batch(place) for place in range(table.num_record_batches))
        else:
            with ipc.open_stream(source) as table:
                yield from table


def _missing_as_none(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, dict):
        return {key: _missing_as_none(one) for key, one in value.items()}
    return [_missing_as_none(one) for one in value] if isinstance(value, list) else value
