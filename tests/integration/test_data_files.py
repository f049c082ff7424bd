"""Data files as people have them: `check` reads each, or refuses it with file, line and remedy on one screen."""

import bz2
import codecs
import gzip
import json
import lzma
import pickle
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ring_async.cli.app import main

ROWS = [{"prompt": f"{n} + 2 =", "answer": str(n + 2)} for n in range(40)]
GOOD = "".join(json.dumps(row) + "\n" for row in ROWS)
LAST = len(ROWS) + 1


def with_row(row: dict | str) -> bytes:
    return (GOOD + (row if isinstance(row, str) else json.dumps(row)) + "\n").encode()


def rows_of(make: Callable[[int], dict]) -> bytes:
    return "".join(json.dumps(make(n)) + "\n" for n in range(40)).encode()


READ = {
    "plain": GOOD.encode(),
    "without a last line end": GOOD.rstrip().encode(),
    "lines of Windows": GOOD.replace("\n", "\r\n").encode(),
    "lines of old Macs": GOOD.replace("\n", "\r").encode(),
    "empty lines": GOOD.replace("\n", "\n\n  \n").encode(),
    "UTF-8 with a mark": codecs.BOM_UTF8 + GOOD.encode(),
    "UTF-16": GOOD.encode("utf-16"),
    "UTF-16, big end first": codecs.BOM_UTF16_BE + GOOD.encode("utf-16-be"),
    "UTF-32": GOOD.encode("utf-32"),
    "gzip": gzip.compress(GOOD.encode()),
    "emoji": with_row({"prompt": "😀 ü中 1 + 2 =", "answer": "3"}),
    "a pair of surrogates is one character": with_row('{"prompt": "\\ud83d\\ude00 1 + 2 =", "answer": "3"}'),
    "a line separator within a text": with_row('{"prompt": "a\u2028b 1 + 2 =", "answer": "3"}'),
    "a zero character": with_row({"prompt": "\0 1 + 2 =", "answer": "3"}),
    "answers as integers": rows_of(lambda n: {"prompt": f"{n} + 2 =", "answer": n + 2}),
    "answers as lists": rows_of(lambda n: {"prompt": f"{n} + 2 =", "answer": [str(n + 2)]}),
    "an answer of 97 bits": with_row({"prompt": "big", "answer": 123456789012345678901234567890}),
    "the same rows twice": (GOOD + GOOD).encode(),
    "chats of one turn": rows_of(lambda n: {"prompt": [{"role": "user", "content": f"{n} + 2 ="}], "answer": "3"}),
    "chats with a system": rows_of(
        lambda n: {
            "messages": [{"role": "system", "content": "Add."}, {"role": "user", "content": f"{n} + 2 ="}],
            "answer": "3",
        }
    ),
    "column problem": rows_of(lambda n: {"problem": f"{n} + 2 =", "answer": "3"}),
    "verl": rows_of(lambda n: {"question": f"{n} + 2 =", "reward_model": {"ground_truth": "3", "style": "rule"}}),
}
REFUSED = {
    "latin-1": (
        GOOD.encode() + '{"prompt": "größe", "answer": "3"}\n'.encode("latin-1"),
        f":{LAST} is not UTF-8 (byte 0xf6)",
    ),
    "UTF-16 without a mark": (GOOD.encode("utf-16-le"), ":1 is not JSON"),
    "UTF-16 cut off": (GOOD.encode("utf-16")[:-1], "is not UTF-16"),
    "gzip cut off": (gzip.compress(GOOD.encode())[:-20], "is cut off or damaged"),
    "half a character": (with_row('{"prompt": "bad \\ud83d", "answer": "3"}'), f":{LAST} column prompt: holds U+D83D"),
    "half a character in a note": (
        with_row('{"prompt": "1", "note": "\\udc00"}'),
        f":{LAST} column note: holds U+DC00",
    ),
    "an id of 71 bits": (rows_of(lambda n: {"prompt": str(n), "id": (1 << 70) + n}), ":1 column id: 11805916207174"),
    "NaN": (with_row('{"prompt": "1 + 2 =", "answer": NaN}'), f":{LAST} is not JSON: NaN is not in JSON"),
    "a number beyond floats": (with_row('{"prompt": "1 + 2 =", "answer": 1e999}'), f":{LAST} column answer: inf"),
    "a key twice": (with_row('{"prompt": "1", "prompt": "2", "answer": "3"}'), f":{LAST} is not JSON: 'prompt' stands"),
    "an array": (json.dumps(ROWS).encode(), "jq -c '.[]'"),
    "an object over lines": (json.dumps(ROWS[0], indent=1).encode(), "each line holds one whole object"),
    "text": (b"State the answer: 1 + 2 =\n", ":1 is not JSON"),
    "nothing": (b"", "0 rows"),
    "one row": (json.dumps(ROWS[0]).encode(), "too few to set some aside for evaluation"),
    "one question forty times": (rows_of(lambda n: ROWS[0]), "with 1 different questions"),
    "an empty prompt": (with_row({"prompt": "", "answer": "3"}), f":{LAST} has no text under prompt"),
    "a blank prompt": (with_row({"prompt": " \t", "answer": "3"}), f":{LAST} column prompt is empty"),
    "no answers": (rows_of(lambda n: {"prompt": f"{n}"}), "metadata has no `answer`; mend or remove such rows"),
    "answers of nothing": (rows_of(lambda n: {"prompt": f"{n}", "answer": None}), "metadata has no `answer`"),
    "one row without": (with_row({"prompt": "What is 4 + 5?"}), f"data.jsonl:{LAST}: metadata has no `answer`"),
    "deep": (with_row('{"prompt": "1", "a": ' + "[" * 100_000 + "]" * 100_000 + "}"), f":{LAST} is nested too deeply"),
    "CSV": (("prompt,answer\n" + "1 + 2 =,3\n" * 40).encode(), "csv.DictReader(sys.stdin)"),
    "CSV with semicolons": (("prompt;answer\n" + "1 + 2 =;3\n" * 40).encode(), "delimiter=';'"),
    "tabs": (("prompt\tanswer\n" + "1 + 2 =\t3\n" * 40).encode(), "dialect='excel-tab'"),
    "YAML": (b"- prompt: 1 + 2 =\n  answer: 3\n", "it looks like YAML"),
    "a web page": (b"<!DOCTYPE html>\n<html><body>404</body></html>", "it is a web page"),
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    "Python's repr": ("".join(f"{row}\n" for row in ROWS).encode(), "write json.dumps(row)"),
    "commas between lines": (GOOD.replace("}\n", "},\n").encode(), "no comma stands between lines"),
    "a last row cut off": ((GOOD + '{"prompt": "cut').encode(), "was it copied whole?"),
    "bzip2": (bz2.compress(GOOD.encode()), "unpack it: bunzip2 data.jsonl"),
    "xz": (lzma.compress(GOOD.encode()), "unpack it: unxz data.jsonl"),
    "zip": (b"PK\x03\x04" + b"\0" * 40, "a zip archive"),
    "zstd": (b"\x28\xb5\x2f\xfd" + b"\0" * 40, "unpack it: unzstd data.jsonl"),
    "pickle": (pickle.dumps(ROWS), "a pickle, which is never opened here"),
    "bytes": (b"\0\xff" * 200, "is no text; rows are JSON lines"),
    "rows under a key": (json.dumps({"data": ROWS}).encode(), "jq -c '.data[]'"),
    "ShareGPT": (
        rows_of(lambda n: {"conversations": [{"from": "human", "value": "1"}, {"from": "gpt", "value": "2"}]}),
        "messages are {role: user, content: text}",
    ),
    "a chat as text": (
        rows_of(lambda n: {"prompt": json.dumps([{"role": "user", "content": str(n)}]), "answer": "3"}),
        "jq -c '.prompt |= fromjson'",
    ),
    "a tool's turn": (
        rows_of(lambda n: {"messages": [{"role": "user", "content": "1", "tool_calls": [{"id": "1"}]}], "answer": "3"}),
        "has tool_calls; chat messages here have role and content alone",
    ),
    "an image": (
        rows_of(lambda n: {"messages": [{"role": "user", "content": [{"type": "image_url"}]}], "answer": "3"}),
        "is no text; models here read text alone",
    ),
    "the assistant's turn last": (
        rows_of(lambda n: {"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]}),
        "not the assistant's",
    ),
    "Parquet cut off": (b"PAR1" + b"\0" * 64, "cannot be read behind row 0"),
    "Arrow cut off": (b"\xff\xff\xff\xff" + b"\x10\0\0\0" + b"\0" * 64, "cannot be read behind row 0"),
    "only long prompts": (rows_of(lambda n: {"prompt": f"{n} " * 400, "answer": "3"}), "40 of 40 prompts are too long"),
}


def checked(tmp_path: Path, content: bytes, capsys) -> tuple[int, str, str]:
    file = tmp_path / "data.jsonl"
    file.write_bytes(content)
    with pytest.raises(SystemExit) as end:
        main(["check", "configs/math.yaml", f"sources.math.path={file}"])
    shown = capsys.readouterr()
    return int(end.value.code or 0), shown.out, shown.err


@pytest.mark.parametrize("kind", READ)
def test_a_file_that_can_be_read_is(tmp_path: Path, capsys, kind: str) -> None:
    code, out, _ = checked(tmp_path, READ[kind], capsys)
    assert code == 0
    assert "good" in out


@pytest.mark.parametrize("kind", REFUSED)
def test_a_file_that_cannot_is_refused_on_one_screen(tmp_path: Path, capsys, kind: str) -> None:
    content, words = REFUSED[kind]
    code, out, err = checked(tmp_path, content, capsys)
    assert code == 2
    assert words in err
    assert "Traceback" not in out + err
    assert len((out + err).splitlines()) <= 6
    assert len(out + err) <= 1000


@pytest.mark.parametrize(("note", "words"), [("state.json", "_data_files"), ("dataset_dict.json", "splits")])
def test_a_damaged_note_of_datasets_is_named(tmp_path: Path, capsys, note: str, words: str) -> None:
    (tmp_path / note).write_text("{")
    with pytest.raises(SystemExit):
        main(["check", "configs/math.yaml", f"sources.math.path={tmp_path}"])
    assert f"{note}: holds no `{words}`" in capsys.readouterr().err


def test_some_long_prompts_are_a_warning_with_their_number(tmp_path: Path, capsys) -> None:
    code, _, err = checked(tmp_path, with_row({"prompt": "1 " * 600, "answer": "1"}), capsys)
    assert code == 0
    assert "1 of 41 prompts are too long for the model" in err
    assert "they are passed over" in err


def test_a_source_that_makes_no_prompt_within_its_deadline_is_refused(monkeypatch) -> None:
    from ring_async.config.schema import SourceSection
    from ring_async.data import trial
    from ring_async.errors import ConfigError

    ended = threading.Event()
    monkeypatch.setattr(trial, "make_source", lambda name, section: ended.wait(30))
    with pytest.raises(ConfigError, match=r"sources.s: no prompt within 0.05 s"):
        trial.try_source("s", SourceSection(verifier="v"), deadline_s=0.05)
    ended.set()
