"""Files that are no JSON lines: what each is, by its first bytes or its first bad line, and how to make rows of it.

Owns: sentences for people. Does not own: reading any format (`json_lines`, `arrow_files`).
"""

from __future__ import annotations

import re

_PACKED = (
    (b"BZh", "packed by bzip2; unpack it: bunzip2 {name}"),
    (b"\xfd7zXZ\x00", "packed by xz; unpack it: unxz {name}"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd; unpack it: unzstd {name}"),
    (b"PK\x03\x04", "a zip archive (or a spreadsheet, which is one); unpack it, or export its rows as JSON lines"),
    (b"7z\xbc\xaf", "packed by 7-Zip; unpack it: 7z x {name}"),
    (b"SQLite format 3\x00", "a database of SQLite; export its rows: sqlite3 -json {name} 'SELECT …' | jq -c '.[]'"),
    (b"\x93NUMPY", "an array of numpy; rows are JSON lines, Parquet or Arrow"),
    (b"\x89HDF", "a file of HDF5; rows are JSON lines, Parquet or Arrow"),
    (b"Obj\x01", "a file of Avro; rows are JSON lines, Parquet or Arrow"),
    *((bytes((0x80, version)), "a pickle, which is never opened here; write JSON lines") for version in range(2, 6)),
)
_CSV_TO_LINES = (
    'python -c "import csv, json, sys; [print(json.dumps(row)) for row in csv.DictReader(sys.stdin{dialect})]" '
    "< {name} > rows.jsonl"
)
_LFS = "version https://git-lfs"


def packed_sentence(head: bytes, name: str) -> str:
    """What a file is that begins with these bytes, and what to do; empty where it may be text.

    Args:
        head: the first 16 bytes or more.
        name: of the file, for the command.
    """
    for mark, sentence in _PACKED:
        if head.startswith(mark):
            return "is " + sentence.format(name=name)
    return ""


def line_hint(line: str, number: int, name: str) -> str:
    """What a line that is no JSON was meant to be, and what to do; empty where nothing is known.

    Args:
        line: as read.
        number: of the line, from 1.
        name: of the file, for the command.
    """
    text = line.strip()
    if text in ("{", "["):
        return "each line holds one whole object: jq -c . FILE > ROWS.jsonl"
    if text.startswith(_LFS):
        return "it is the pointer that Git LFS leaves for a file: git lfs pull"
    if re.match(r"<(?:!doctype|html|\?xml|[a-z]+>)", text, re.IGNORECASE):
        return "it is a web page or XML; if it was downloaded, look what the address answers"
    if re.match(r"\{\s*'", text):
        return "it is Python's way to write an object; write json.dumps(row), not str(row)"
    if text.startswith("{") and text.endswith("},"):
        return "no comma stands between lines"
    if text.startswith("{") and not text.endswith("}") and not line.endswith("\n"):
        return "the file ends within this row; was it copied whole?"
    if number == 1 and text.startswith(("- ", "---")):
        return "it looks like YAML; each line holds one JSON object"
    if number == 1 and not text.startswith(("{", "[", '"')) and re.search(r"[^\s,;\t][,;\t]\S", text):
        return f"it looks like CSV: {_CSV_TO_LINES.format(name=name, dialect=_dialect(text))}"
    return ""


def _dialect(header: str) -> str:
    separator = max(",;\t", key=header.count)
    return {",": "", ";": ", delimiter=';'", "\t": ", dialect='excel-tab'"}[separator]
