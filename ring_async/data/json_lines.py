"""JSON lines as pairs of (line number, object), in UTF-8, or in whatever a byte order mark at the beginning says.

Owns: encodings, line ends, compression by gzip, and the sentence about a line that cannot be read. Does not own what a
row means (`rows`).
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ring_async.data.other_formats import line_hint, packed_sentence
from ring_async.errors import ConfigError

_GZIP = b"\x1f\x8b"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks. UTF-32's little-endian one begins with UTF-16's, so it comes first."""


def json_rows(where: str, file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read the objects of a file, one a line; empty lines are passed over.

    Args:
        where: the key of the configuration that names the file, for the errors.
        file: JSON lines, also compressed by gzip.

    Raises:
        ConfigError: a line is not text, not JSON, or no object; names file, line and remedy.
    """
    with _opened(file) as stream:
        head = stream.read(16)
    if packed := packed_sentence(head, file.name):
        raise ConfigError(f"{where}: {file} {packed}")
    encoding = next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8")
    number = 0
    with _opened(file) as stream, io.TextIOWrapper(stream, encoding=encoding) as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, _parsed(f"{where}: {file}:{number}", line, number, file.name)
        except UnicodeDecodeError as error:
            raise ConfigError(_encoding_sentence(where, file, encoding, error)) from error
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ConfigError(f"{where}: {file}: is cut off or damaged behind line {number}: {error}") from error


def _opened(file: Path) -> IO[bytes]:
    with file.open("rb") as stream:
        is_gzip = stream.read(2) == _GZIP
    return gzip.open(file) if is_gzip else file.open("rb")  # type: ignore[return-value]


def _parsed(place: str, line: str, number: int, name: str) -> dict[str, Any]:
    try:
        row = _DECODER.decode(line)
    except RecursionError:
        raise ConfigError(f"{place} is nested too deeply to be read") from None
    except ValueError as error:
        hint = line_hint(line, number, name)
        raise ConfigError(f"{place} is not JSON: {error}" + (f"; {hint}" if hint else "")) from error
    if not isinstance(row, dict):
        hint = "; write its elements a line each: jq -c '.[]' FILE > ROWS.jsonl" if isinstance(row, list) else ""
        raise ConfigError(f"{place} is not an object{hint}")
    return row


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not in JSON; write null, or text")


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands twice in one object; remove one")
    return found


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_without_repetition)
"""One for all lines: `json.loads` would make a new one for each."""


def _encoding_sentence(where: str, file: Path, encoding: str, error: UnicodeDecodeError) -> str:
    """Which line is not text of this encoding, and how to convert the file. The decoder itself counts no lines."""
    with _opened(file) as stream:
        content = stream.read()
    try:
        content.decode(encoding)
    except UnicodeDecodeError as again:
        error = again
    if b"\0" in content[:1024] and encoding == "utf-8":
        return f"{where}: {file}: is no text; rows are JSON lines (also packed by gzip), Parquet or Arrow"
    line = content.count(b"\n", 0, error.start) + 1
    return (
        f"{where}: {file}:{line} is not {encoding.upper()} (byte {content[error.start]:#04x}); convert the file, for "
        f"example: iconv -f LATIN1 -t UTF-8 {file.name} > utf8-{file.name}"
    )
