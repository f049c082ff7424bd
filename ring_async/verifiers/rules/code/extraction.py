"""Where in a response the program stands.

Owns: fences of every kind, and which of several is meant. Does not own: running it.

A fence is three or more backticks or tildes, at any indentation, also behind `>` of a quotation. It ends with a line of
at least as many, unless that line lies within a string of the program; or with the response. What was thought
(`<think>…</think>`) is not the answer; thoughts without an end have no answer after them.

Of several blocks the last one in a known language counts, since models correct themselves, before any without a
language, which are outputs as often as programs. Where a function is asked for, blocks that define it come first; where
input is given, blocks that read it: what follows them is an example of use.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ring_async.sandbox.program import Language, Program

_PYTHON_LABELS = "python py python3 python2 py3 pypy pypy3 ipython sage"
_CPP_LABELS = "cpp c++ cxx cc c hpp h c++11 c++14 c++17 c++20 c++23 cpp11 cpp14 cpp17 cpp20 cpp23"
_LANGUAGES: Mapping[str, Language] = {
    **dict.fromkeys(_PYTHON_LABELS.split(), "python"),
    **dict.fromkeys(_CPP_LABELS.split(), "cpp"),
}  # type: ignore[dict-item]
_OPENING = re.compile(r"(?P<indent>[ \t>]*)(?P<item>(?:[-*+]|\d{1,3}[.)])[ \t]+)?(?P<ticks>`{3,}|~{3,})(?P<info>.*)")
_LABEL = re.compile(r"[\s{.]*([A-Za-z+#]+[\w+#]*)?")
_ONE_LINE = re.compile(r"```[ \t]*([\w+#]+)[ \t]+(?=\S)([^`\n]+)```")
_LATE_OPENING = re.compile(r"(?<!`)`{3,}[A-Za-z+#]+[\w+#]*$")
_STRINGS = re.compile(r"#[^\n]*|(?P<quotes>\"{3}|'{3})|\"(?:[^\"\\\n]|\\.)*\"?|'(?:[^'\\\n]|\\.)*'?", re.DOTALL)
_BARE_PYTHON = re.compile(
    r"(?:import|from|def|class|for|while|if|with)\s|try:|print\s?\(|@\w|#!|\"{3}|[A-Za-z_]\w*(?:\s?,\s?[A-Za-z_]\w*)*\s?=(?!=)"
)
_BARE_CPP = re.compile(r"#\s?include\b|using namespace\b|int main\s?\(")
_READS_INPUT = re.compile(
    r"\binput\s?\(|\bstdin\b|\bopen\s?\(\s?0|\bfileinput\b|\bread\s?\(\s?0|\bcin\b|\bscanf\b|\bgetline\b|\bgetchar\b|\bgets\b"
)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its label in lower case, empty where it has none, and its source."""

    label: str
    source: str

    @property
    def language(self) -> Language | None:
        return _LANGUAGES.get(self.label)


def extract_program(
    text: str, language: Language | None = None, *, function: str = "", reads_input: bool = False
) -> Program | None:
    """The program of a response, or None.

    Args:
        text: the response.
        language: what it must be in; None: what the fence says, else Python.
        function: what will be called, `solve` or `Solution.solve`; empty: nothing.
        reads_input: whether it will be given input.
    """
    answer = _without_thoughts(text)
    blocks = [block for block in _blocks(answer) if not block.label or block.language]
    fitting = [block for block in blocks if language is None or block.language in (None, language)]
    labelled = [block for block in fitting if block.label]
    preferred = _defining(labelled, function) or _defining(fitting, function) if function else []
    if reads_input and not function:
        preferred = [block for block in labelled or fitting if _READS_INPUT.search(block.source)]
    for candidates in (preferred, labelled, fitting):
        if candidates:
            last = candidates[-1]
            return Program(last.source, language or last.language or "python")
    return None


def bare_program(text: str, language: Language | None = None) -> Program | None:
    """A response without any fence that begins as a program does; None for prose."""
    answer = _without_thoughts(text).strip()
    if "```" in answer or "~~~" in answer:
        return None
    if language != "python" and _BARE_CPP.match(answer):
        return Program(answer + "\n", "cpp")
    if language != "cpp" and _BARE_PYTHON.match(answer):
        return Program(answer + "\n", "python")
    return None


def _without_thoughts(text: str) -> str:
    _, closing, rest = text.rpartition("</think>")
    return rest if closing else text.partition("<think>")[0]


def _defining(blocks: list[Block], function: str) -> list[Block]:
    name = re.escape(function.rpartition(".")[2])
    pattern = re.compile(
        rf"^[ \t]*(?:async[ \t]+)?def[ \t]+{name}\b|^{name}[ \t]*=|\bimport[ \t]+{name}\b", re.MULTILINE
    )
    return [block for block in blocks if pattern.search(block.source)]


def _blocks(text: str) -> Iterator[Block]:
    """Blocks in order. Time grows with the length of the text alone."""
    lines = text.lstrip("\ufeff").splitlines()
    last_ends = {quotes: _last_end(lines, quotes) for quotes in ("'" * 3, '"' * 3)}
    index = 0
    while index < len(lines):
        opening = _OPENING.fullmatch(lines[index])
        if opening is None or "`" in opening["info"]:
            yield from (Block(label.lower(), f"{source}\n") for label, source in _ONE_LINE.findall(lines[index]))
            late = _LATE_OPENING.search(lines[index])
            opening = _OPENING.fullmatch(late.group()) if late else None
            if opening is None:
                index += 1
                continue
        label = _LABEL.match(opening["info"])
        name = ((label and label[1]) or "").lower()
        body, index = _body(lines, index + 1, opening, {} if _LANGUAGES.get(name) == "cpp" else last_ends)
        yield Block(name, body)


def _last_end(lines: list[str], quotes: str) -> int:
    """The last line with these quotation marks that has a closing fence after it; −1 for none."""
    has_closing = False
    for index in range(len(lines) - 1, -1, -1):
        if has_closing and quotes in lines[index]:
            return index
        has_closing = has_closing or lines[index].strip(" \t>")[:3] in ("```", "~~~")
    return -1


def _body(lines: list[str], start: int, opening: re.Match[str], last_ends: Mapping[str, int]) -> tuple[str, int]:
    """The text of a fenced block and the line after it.

    A closing fence within a string that ends later, before another closing fence, belongs to the string.
    """
    ticks = opening["ticks"]
    closing = re.compile(rf"[ \t>]*{re.escape(ticks[0])}{{{len(ticks)},}}\s*(?:</\w+>\s*)?")
    depth = len(opening["indent"].expandtabs()) + len((opening["item"] or "").expandtabs())
    quotes = opening["indent"].count(">")
    kept: list[str] = []
    open_string = ""
    for index in range(start, len(lines)):
        is_within_string = bool(open_string) and last_ends.get(open_string, -1) > index
        if not is_within_string and closing.fullmatch(lines[index]):
            return _source(kept), index + 1
        line = _undented(lines[index], depth, quotes)
        if not is_within_string and line.rstrip().endswith(ticks) and line.count(ticks) == 1:
            return _source([*kept, line.rstrip().removesuffix(ticks)]), index + 1
        kept.append(line)
        open_string = _open_string(line, open_string) if last_ends else ""
    return _source(kept), len(lines)


def _source(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _undented(line: str, depth: int, quotes: int) -> str:
    """A line without the quotation marks and the indentation of its fence."""
    for _ in range(quotes):
        line = re.sub(r"^[ \t]*>[ \t]?", "", line, count=1)
    if quotes:
        return line
    expanded = line.expandtabs() if line[:1] == "\t" and depth else line
    return expanded[min(depth, len(expanded) - len(expanded.lstrip(" "))) :]


def _open_string(line: str, before: str) -> str:
    """The quotation marks of the triple-quoted string that is open after this line; empty for none."""
    position = 0
    if before:
        end = line.find(before)
        if end < 0:
            return before
        position = end + 3
    while match := _STRINGS.search(line, position):
        position = match.end()
        if quotes := match["quotes"]:
            end = line.find(quotes, position)
            if end < 0:
                return quotes
            position = end + 3
    return ""
