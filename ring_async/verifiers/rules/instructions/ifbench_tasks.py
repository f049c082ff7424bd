"""IFBench's kinds (arXiv 2507.02833) that are tasks of their own: tables, lists, reversed sentences, quotations.

Owns: one `Kind` for each that a text alone decides. Does not own: kinds about words (`ifbench_words`) or layout
(`ifbench_layout`).

Identifiers are the data set's own; each check does what the instruction's words say. A table may stand in a code fence.
"""

from __future__ import annotations

import csv
import datetime
import itertools
import re

from ring_async.verifiers.rules.instructions.kind import Arguments, between, by_identifier, kind, nothing
from ring_async.verifiers.rules.instructions.sentences import sentences_of
from ring_async.verifiers.rules.instructions.words import words_of

_JAPANESE = re.compile(r"[\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uff66-\uff9f々ー]+")
_FENCE = re.compile(r"\A\s*```\w*\n(.*?)\n?```\s*\Z", re.DOTALL)
_QUOTATION = re.compile(r'"[^"]*"|“[^”]*”')
_HEADING = re.compile(r"^(?:#{1,6} .*|<h[1-6]>.*</h[1-6]>)$", re.MULTILINE | re.IGNORECASE)
_THESIS = re.compile(r"<(i|em)>\s*[^\s<](?:(?!</?\1>).)*</\1>", re.DOTALL | re.IGNORECASE)
_OPTION = re.compile(r"\(?(?:[A-Ea-e]|[1-5])[).:]\s*\S|[-*•]\s+\S")
_QUOTED_FIELD = re.compile(r'(?:^|[,\t])"([^"]*)"(?=[,\t]|$)', re.MULTILINE)
_NAPOLEON = (datetime.date(1793, 1, 1), datetime.date(1815, 12, 31))
"""From the siege of Toulon to Waterloo."""


def _check_japanese(text: str, arguments: Arguments) -> bool:
    every = words_of(text)[arguments["N"] - 1 :: arguments["N"]]
    return bool(every) and all(_JAPANESE.fullmatch(word) for word in every)


def _check_three_equal_sentences(text: str, _arguments: Arguments) -> bool:
    sentences = [sentence.strip() for sentence in sentences_of(text)]
    words = [word.lower() for sentence in sentences for word in words_of(sentence)]
    return len(sentences) == 3 and len(set(map(len, sentences))) == 1 and len(set(words)) == len(words)


def _check_quotations_explained(text: str, _arguments: Arguments) -> bool:
    ends = [(match.start(), match.end()) for match in _QUOTATION.finditer(text)]
    explanations = [text[end:begin] for (_, end), (begin, _) in itertools.pairwise([*ends, (len(text), 0)])]
    return bool(ends) and all(words_of(explanation) for explanation in explanations)


def _check_theses(text: str, _arguments: Arguments) -> bool:
    """What follows each heading, or else each paragraph, begins with a thesis and goes on behind it."""
    parts = _HEADING.split(text)[1:] if _HEADING.search(text) else re.split(r"\n\s*\n", text)
    sections = [part.strip() for part in parts if part.strip()]
    return bool(sections) and all(
        (thesis := _THESIS.match(section)) is not None and bool(words_of(section[thesis.end() :]))
        for section in sections
    )


def _table(text: str, delimiter: str) -> tuple[str, list[list[str]]]:
    """The text of a table without its fence, and its rows; no rows if it is none."""
    fenced = _FENCE.match(text)
    content = (fenced.group(1) if fenced else text).strip("\n")
    try:
        return content, list(csv.reader(content.splitlines(), delimiter=delimiter, skipinitialspace=True, strict=True))
    except csv.Error:
        return content, []


def _is_table(rows: list[list[str]], columns: list[str], num_rows: int) -> bool:
    return (
        len(rows) == num_rows + 1
        and [name.strip() for name in rows[0]] == columns
        and all(len(row) == len(columns) and all(field.strip() for field in row) for row in rows)
    )


def _check_city_table(text: str, _arguments: Arguments) -> bool:
    return _is_table(_table(text, ",")[1], ["ID", "Country", "City", "Year", "Count"], 7)


def _check_product_table(text: str, _arguments: Arguments) -> bool:
    content, rows = _table(text, ",")
    quoted = _QUOTED_FIELD.findall(content.partition("\n")[2])
    has_special = any(not (one.isalnum() or one.isspace()) for field in quoted for one in field)
    return has_special and _is_table(rows, ["ProductID", "Category", "Brand", "Price", "Stock"], 14)


def _check_student_table(text: str, _arguments: Arguments) -> bool:
    content, rows = _table(text, "\t")
    fields = [field for line in content.splitlines() for field in line.split("\t")]
    is_quoted = all(len(field) > 2 and field[0] == field[-1] == '"' for field in fields)
    return is_quoted and _is_table(rows, ["StudentID", "Subject", "Grade", "Semester", "Score"], 3)


def _check_words_reversed(text: str, _arguments: Arguments) -> bool:
    return "bald eagle" in " ".join(word.lower() for word in reversed(words_of(text)))


def _check_letters_reversed(text: str, _arguments: Arguments) -> bool:
    return "bald eagle" in text[::-1].lower()


def _check_questions(text: str, _arguments: Arguments) -> bool:
    """Four blocks that begin with the label; of each, the lines up to the first option are the question."""
    before, *blocks = re.split(r"(?m)^[^\w\n]*(?=Question\b)", text.strip())
    lengths = []
    for block in blocks:
        lines = [line.strip() for line in block.splitlines() if line.strip()]
        is_option = [_OPTION.match(line) is not None for line in lines]
        num_asked = is_option.index(True) if True in is_option else len(lines)
        if is_option[num_asked:] != [True] * 5:
            return False
        lengths.append(len(" ".join(lines[:num_asked])))
    return not before.strip() and len(lengths) == 4 and all(a < b for a, b in itertools.pairwise(lengths))


def _check_dates(text: str, _arguments: Arguments) -> bool:
    """Nothing but dates of the years in which Napoleon fought."""
    items = [item.strip() for item in text.strip().rstrip(".").split(",")]
    if len(items) < 2 or not all(re.fullmatch(r"\d{4}-\d{2}-\d{2}", item) for item in items):
        return False
    try:
        return all(_NAPOLEON[0] <= datetime.date.fromisoformat(item) <= _NAPOLEON[1] for item in items)
    except ValueError:
        return False


_ALL = ("words", "letters", "length", "form", "start", "end", "case", "language", "commas", "digits")
"""Claims of kinds that leave a response little freedom."""

KINDS = by_identifier(
    kind(
        "count:words_japanese",
        _check_japanese,
        between(2, 5, "N"),
        lambda a: f"Every word at a multiple of {a['N']} (word {a['N']}, {2 * a['N']} and so on) must be in Japanese.",
        *_ALL,
    ),
    kind(
        "ratio:sentence_words",
        _check_three_equal_sentences,
        nothing,
        lambda _: "Respond with three sentences that have the same number of characters, and no word in common.",
        *_ALL,
    ),
    kind(
        "format:quote_unquote",
        _check_quotations_explained,
        nothing,
        lambda _: "Quote at least one phrase; every quoted phrase must be followed by an explanation without quotes.",
        *("form", "start", "end", "length"),
    ),
    kind(
        "format:thesis",
        _check_theses,
        nothing,
        lambda _: "Each section must begin with a thesis statement in italics; use HTML for the italics.",
        *("form", "start"),
    ),
    kind(
        "custom:csv_city",
        _check_city_table,
        nothing,
        lambda _: 'Generate CSV data, comma delimited: columns "ID", "Country", "City", "Year", "Count", and 7 rows.',
        *_ALL,
    ),
    kind(
        "custom:csv_special_character",
        _check_product_table,
        nothing,
        lambda _: (
            'Generate CSV data, comma delimited: columns "ProductID", "Category", "Brand", "Price", "Stock", and 14 '
            "rows. One field contains a special character and stands in double quotes."
        ),
        *_ALL,
    ),
    kind(
        "custom:csv_quotes",
        _check_student_table,
        nothing,
        lambda _: (
            'Generate CSV data, tab delimited: columns "StudentID", "Subject", "Grade", "Semester", "Score", and '
            "3 rows. Each field stands in double quotes."
        ),
        *_ALL,
    ),
    kind(
        "custom:word_reverse",
        _check_words_reversed,
        nothing,
        lambda _: "What animal is the national symbol of the US? Answer in a sentence, its words in reverse order.",
        *_ALL,
    ),
    kind(
        "custom:character_reverse",
        _check_letters_reversed,
        nothing,
        lambda _: "What animal is the national symbol of the US? Answer in a sentence, its letters in reverse order.",
        *_ALL,
    ),
    kind(
        "custom:mcq_count_length",
        _check_questions,
        nothing,
        lambda _: (
            "Generate 4 multiple choice questions with 5 options each. Each begins with the label Question, and each "
            "is longer than the one before. Do not explain."
        ),
        *_ALL,
    ),
    kind(
        "custom:date_format_list",
        _check_dates,
        nothing,
        lambda _: "List the start dates of Napoleon's battles as YYYY-MM-DD, separated by commas. Do not explain.",
        *_ALL,
    ),
)
