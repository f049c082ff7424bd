"""IFEval's kinds (arXiv 2311.07911, Table 1) about layout: lists, sections, JSON, beginnings and ends.

Owns: one `Kind` for each. Does not own: kinds about words (`ifeval_words`).

Patterns take linear time on any text: they run on what a model wrote, and hold the interpreter's lock meanwhile.
`Differs:` a bullet has a blank after its mark and a divider is none; underscores highlight as asterisks do; a section
begins a line, and each number counts once; JSON is RFC 8259's, without NaN and Infinity.
"""

from __future__ import annotations

import json
import re
from typing import NoReturn

from ring_async.verifiers.rules.instructions.kind import Arguments, between, by_identifier, kind, nothing

CONSTRAINED_RESPONSES = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
END_PHRASES = ("Is there anything else I can help with?", "That is all.", "Any other questions?")

_BULLET = re.compile(r"^[ \t]*+[*+-][ \t]+\S", re.MULTILINE)
_RULE = re.compile(r"^[ \t]*+([*_-])[ \t]*+(?:\1[ \t]*+){2,}$", re.MULTILINE)
_HIGHLIGHT = re.compile(
    r"\*\*(?=[^\s*])[^\n*]*(?<=[^\s*])\*\*|\*(?=[^\s*])[^\n*]*(?<=[^\s*])\*"
    r"|(?<![^\W_])__(?=[^\s_])[^\n_]*(?<=[^\s_])__(?![^\W_])|(?<!\w)_(?=[^\s_])[^\n_]*(?<=[^\s_])_(?!\w)"
)
_PLACEHOLDER = re.compile(r"(?<![-*+] (?=\[[xX]\]))\[[^\[\]]*[^\W_][^\[\]]*\](?!\()")
_TITLE = re.compile(r"<<([^\n<>]+)>>")
_FENCE_OPENING = re.compile(r"```(?:json)?", re.IGNORECASE)
_SIX_STARS = re.compile(r"(?<!\*)\*{6}(?!\*)")
_OPENING_QUOTES, _CLOSING_QUOTES = '"“„', '"”“'


def _check_postscript(text: str, arguments: Arguments) -> bool:
    """The marker, anywhere after which something stands. A final stop may be left out where the marker has none."""
    marker = str(arguments["postscript_marker"]).strip()
    if re.fullmatch(r"(?:[A-Za-z]\.)+[A-Za-z]?", marker):
        letters = marker.replace(".", "")
        pattern = r"\.[ \t]?".join(letters) + (r"\." if marker.endswith(".") else r"\.?")
    else:
        pattern = re.escape(marker)
    return re.search(rf"(?<![\w.]){pattern}(?!\w)[\W_]*[^\W_]", text, re.IGNORECASE) is not None


def _check_sections(text: str, arguments: Arguments) -> bool:
    splitter = re.escape(str(arguments["section_spliter"]))
    numbers = re.findall(rf"^[ \t#*_>\"(-]*{splitter}[ \t]*(\d+)", text, re.MULTILINE)
    return len(set(numbers)) >= arguments["num_sections"]


def _check_json(text: str, _arguments: Arguments) -> bool:
    stripped = text.strip()
    opening = _FENCE_OPENING.match(stripped)
    if opening is not None and stripped.endswith("```"):
        stripped = stripped[opening.end() : -3]
    try:
        json.loads(stripped, parse_int=str, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _check_title(text: str, _arguments: Arguments) -> bool:
    """Something in double angular brackets that is no pair of shift operators: `x << 3 >> 2`."""
    return any(
        any(map(str.isalpha, title)) or (title.strip() == title and title.isalnum()) for title in _TITLE.findall(text)
    )


def _check_two_responses(text: str, _arguments: Arguments) -> bool:
    parts = [part.strip() for part in _SIX_STARS.split(text)]
    parts = [part for index, part in enumerate(parts) if part or 0 < index < len(parts) - 1]
    return len(parts) == 2 and all(parts) and _words_of(parts[0]) != _words_of(parts[1])


def _words_of(text: str) -> list[str]:
    return text.casefold().split()


def _check_constrained(text: str, _arguments: Arguments) -> bool:
    """One of the options, not several."""
    return sum(option in text for option in CONSTRAINED_RESPONSES) == 1


def _check_repetition(text: str, arguments: Arguments) -> bool:
    """The request first, whatever blanks and line breaks."""
    return " ".join(_words_of(text)).startswith(" ".join(_words_of(str(arguments["prompt_to_repeat"]))))


def _check_quotation(text: str, _arguments: Arguments) -> bool:
    """One pair of quotation marks around everything; further pairs may stand within."""
    stripped = text.strip()
    if len(stripped) < 3 or stripped[0] not in _OPENING_QUOTES or stripped[-1] not in _CLOSING_QUOTES:
        return False
    depth, inside = 1, stripped[1:-1]
    for index, character in enumerate(inside):
        if character not in '"“”„':
            continue
        before = inside[index - 1] if index else " "
        opens = (
            character == "„"
            or (character == "“" and stripped[0] != "„")
            or (character == '"' and before in " \n\t([{—-")
        )
        depth += 1 if opens else -1
        if depth == 0:
            return False
    return bool(inside.strip())


KINDS = by_identifier(
    kind(
        "detectable_content:number_placeholders",
        lambda text, a: len(_PLACEHOLDER.findall(text)) >= a["num_placeholders"],
        between(1, 3, "num_placeholders"),
        lambda a: (
            f"The response must contain at least {a['num_placeholders']} placeholders in square brackets, "
            "such as [address]."
        ),
        "brackets",
    ),
    kind(
        "detectable_content:postscript",
        _check_postscript,
        lambda rng: {"postscript_marker": rng.choice(("P.S.", "P.P.S"))},
        lambda a: f"At the end of your response, add a postscript starting with {a['postscript_marker']}",
        "end",
    ),
    kind(
        "detectable_format:number_bullet_lists",
        lambda text, a: len(_BULLET.findall(_RULE.sub("", text))) == a["num_bullets"],
        between(2, 5, "num_bullets"),
        lambda a: (
            f"Your answer must contain exactly {a['num_bullets']} bullet points, written in markdown such as: "
            "* This is a point."
        ),
        *("form", "asterisks", "length"),
    ),
    kind(
        "detectable_format:constrained_response",
        _check_constrained,
        nothing,
        lambda _: f"Answer with one of these: {', '.join(map(repr, CONSTRAINED_RESPONSES))}.",
        *("form", "length", "start", "end", "case", "words", "letters", "language"),
    ),
    kind(
        "detectable_format:number_highlighted_sections",
        lambda text, a: len(_HIGHLIGHT.findall(text)) >= a["num_highlights"],
        between(1, 3, "num_highlights"),
        lambda a: (
            f"Highlight at least {a['num_highlights']} sections in your answer with markdown, such as "
            "*highlighted section*."
        ),
        "asterisks",
    ),
    kind(
        "detectable_format:multiple_sections",
        _check_sections,
        lambda rng: {"section_spliter": rng.choice(("Section", "SECTION")), "num_sections": rng.randint(2, 4)},
        lambda a: (
            f"Your response must have {a['num_sections']} sections. Mark the beginning of each with "
            f"{a['section_spliter']} X, such as {a['section_spliter']} 1."
        ),
        *("form", "start", "case", "length"),
    ),
    kind(
        "detectable_format:json_format",
        _check_json,
        nothing,
        lambda _: "Wrap the entire output in JSON format; markdown ticks are allowed.",
        *("form", "start", "end", "case", "length", "asterisks", "brackets"),
    ),
    kind(
        "detectable_format:title",
        _check_title,
        nothing,
        lambda _: "Your answer must contain a title, wrapped in double angular brackets, such as <<a poem>>.",
        "title",
    ),
    kind(
        "combination:two_responses",
        _check_two_responses,
        nothing,
        lambda _: "Give two different responses, separated by six asterisk symbols: ******.",
        *("form", "asterisks", "start"),
    ),
    kind(
        "combination:repeat_prompt",
        _check_repetition,
        nothing,
        lambda _: "First repeat the request above word for word, without change, then give your answer.",
        *("start", "form", "case", "length", "words", "letters", "language", "commas"),
    ),
    kind(
        "startend:end_checker",
        lambda text, a: text.strip().strip('"“”').lower().endswith(str(a["end_phrase"]).strip().lower()),
        lambda rng: {"end_phrase": rng.choice(END_PHRASES)},
        lambda a: f"Finish your response with this exact phrase, and nothing after it: {a['end_phrase']}",
        *("end", "words", "letters"),
    ),
    kind(
        "startend:quotation",
        _check_quotation,
        nothing,
        lambda _: "Wrap your entire response with double quotation marks.",
        *("start", "end"),
    ),
)
