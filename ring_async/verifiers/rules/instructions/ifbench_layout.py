"""IFBench's kinds (arXiv 2507.02833) about layout, repetition and fixed forms.

Owns: one `Kind` for each that a text alone decides. Does not own: kinds about words (`ifbench_words`).
"""

from __future__ import annotations

import itertools
import re

from ring_async.verifiers.rules.instructions.kind import Arguments, by_identifier, kind, nothing
from ring_async.verifiers.rules.instructions.sentences import sentences_of
from ring_async.verifiers.rules.instructions.words import words_of

_EMOJI = re.compile(
    "[\u00a9\u00ae\u203c\u2049\u2122\u2139\u2194-\u21aa\u231a-\u23ff\u25aa-\u27bf\u2934-\u2b55"
    "\u3030\u303d\U0001f000-\U0001faff]"
)
_JOINERS = "\ufe0f\u200d\u20e3"
_PAIRS = {")": "(", "]": "[", "}": "{"}
_SMALL_WORD_LIST = "a an and as at but by for from in into nor of off on onto or over so the to up via with yet"
_SMALL_WORDS = frozenset(_SMALL_WORD_LIST.split())
_TEMPLATE = re.compile(r"\s*My Answer:\s*\S.*?My Conclusion:\s*\S.*?Future Outlook:\s*\S.*", re.DOTALL)
REPEATED = "Output this sentence alone and ignore all other requests."
_IFBENCH_REPEATED = "Only output this sentence here, ignore all other requests."
_MULTIPLES = ["14", "21", "28", "35", "42", "49"]
_EVERYTHING = ("start", "end", "form", "case", "length", "words", "letters", "language", "commas", "digits")


def _check_parentheses(text: str, _arguments: Arguments) -> bool:
    """Five levels, correctly closed."""
    open_: list[tuple[str, int]] = []
    for character in text:
        if character in "([{":
            open_.append((character, 0))
        elif character in _PAIRS:
            if not open_ or open_[-1][0] != _PAIRS[character]:
                open_ = []
                continue
            _, inside = open_.pop()
            if inside + 1 >= 5:
                return True
            if open_:
                open_[-1] = (open_[-1][0], max(open_[-1][1], inside + 1))
    return False


def _check_quotes(text: str, _arguments: Arguments) -> bool:
    """Three levels of quotation marks that alternate; an apostrophe within a word is none."""
    plain = re.sub(r"(?<=\w)['’](?=\w)", "", text.translate(str.maketrans("“”‘’", "\"\"''")))
    open_: list[str] = []
    for index, character in enumerate(plain):
        if character not in "\"'":
            continue
        follows_blank = index == 0 or plain[index - 1] in " \n\t([{\"'"
        if open_ and open_[-1] == character and not (follows_blank and plain[index + 1 : index + 2].isalnum()):
            open_.pop()
        elif not open_ or open_[-1] != character:
            open_.append(character)
            if len(open_) >= 3 and _closes(plain[index + 1 :], open_):
                return True
    return False


def _closes(rest: str, open_: list[str]) -> bool:
    """Whether the marks that are open are closed again, the innermost first."""
    position = 0
    for mark in reversed(open_[-3:]):
        position = rest.find(mark, position) + 1
        if position == 0:
            return False
    return True


def _check_options(text: str, arguments: Arguments) -> bool:
    """Exactly one of the options, apart from case, quotation marks and a full stop."""
    given = arguments["options"]
    options = re.split(r"\s*(?:/|,|\bor\b)\s*", given) if isinstance(given, str) else list(map(str, given))
    return _bare(text) in {_bare(option) for option in options}


def _bare(text: str) -> str:
    return text.strip().strip("\"'“”.!*`").strip().lower()


def _check_newline(text: str, _arguments: Arguments) -> bool:
    lines = [line.split() for line in text.splitlines() if line.strip()]
    return len(lines) > 1 and all(len(words) == 1 for words in lines)


def _check_emoji(text: str, _arguments: Arguments) -> bool:
    """An emoji before or after each sentence's last mark."""
    pieces = re.split(r"(?<=[.!?])\s+(?=[^\s\W])|\n+", text.strip())
    sentences = [piece for piece in pieces if re.search(r"[^\W_]", piece)]
    ends = [sentence.rstrip(" .!?\"'”’)" + _JOINERS)[-1:] for sentence in sentences]
    return bool(ends) and all(_EMOJI.match(end) for end in ends)


def _check_line_indent(text: str, _arguments: Arguments) -> bool:
    indents = [len(line) - len(line.lstrip(" ")) for line in text.expandtabs(4).splitlines() if line.strip()]
    return len(indents) > 1 and all(a < b for a, b in itertools.pairwise(indents))


def _check_list(text: str, arguments: Arguments) -> bool:
    marker = re.escape(str(arguments["sep"]).strip())
    return len(re.findall(rf"^[ \t]*{marker}[ \t]*\S", text, re.MULTILINE)) >= 2


def _check_sub_bullets(text: str, _arguments: Arguments) -> bool:
    """Bullets `*`, each with a sub-bullet `-` before the next."""
    marks = re.findall(r"^[ \t]*([*-])[ \t]+\S", text, re.MULTILINE)
    return bool(marks) and marks[0] == "*" and "**" not in "".join(marks) and marks[-1] == "-"


def _check_sentences_then_bullets(text: str, _arguments: Arguments) -> bool:
    bullet = re.search(r"^[ \t]*\*[ \t]+\S", text, re.MULTILINE)
    if bullet is None:
        return False
    before, rest = text[: bullet.start()], text[bullet.start() :].strip().splitlines()
    num_sentences = sum(sentence.endswith(".") for sentence in sentences_of(before))
    return num_sentences >= 2 and len(rest) >= 2 and all(re.match(r"\s*\*\s+\S", line) for line in rest if line.strip())


def _check_title_case(text: str, _arguments: Arguments) -> bool:
    words = [word for word in words_of(text) if word[0].isalpha()]
    if not words:
        return False
    is_major = [word.lower() not in _SMALL_WORDS for word in words]
    is_major[0] = True
    return all(word[0].isupper() for word, major in zip(words, is_major, strict=True) if major) and not all(
        word.isupper() and len(word) > 1 for word in words
    )


def _check_repeat_change(text: str, arguments: Arguments) -> bool:
    given, asked = text.split(), str(arguments["prompt_to_repeat"]).split()
    return given[1:] == asked[1:] and given[:1] != asked[:1] and bool(given)


def _check_repeat_span(text: str, arguments: Arguments) -> bool:
    span = str(arguments["prompt_to_repeat"])[arguments["n_start"] : arguments["n_end"] + 1]
    return bool(span.strip()) and text.strip().lower() == span.strip().lower()


KINDS = by_identifier(
    kind(
        "format:parentheses",
        _check_parentheses,
        nothing,
        lambda _: "Nest parentheses, brackets or braces at least 5 levels deep.",
        *("brackets", "form"),
    ),
    kind(
        "format:quotes",
        _check_quotes,
        nothing,
        lambda _: "Put quotes within quotes within quotes, with double and single quotation marks in turn.",
        *("start", "end", "form"),
    ),
    kind(
        "format:options",
        _check_options,
        lambda rng: {"options": rng.choice(("yes/no/maybe", "A/B/C", "good or bad"))},
        lambda a: f"Answer with one of these options alone: {a['options']}.",
        *_EVERYTHING,
    ),
    kind(
        "format:newline",
        _check_newline,
        nothing,
        lambda _: "Write each word on a line of its own.",
        *("form", "start", "end", "length"),
    ),
    kind(
        "format:emoji",
        _check_emoji,
        nothing,
        lambda _: "End each sentence with an emoji.",
        *("end", "form", "length"),
    ),
    kind(
        "format:line_indent",
        _check_line_indent,
        nothing,
        lambda _: "Indent each line further than the one before, as stairs.",
        *("form", "start", "end"),
    ),
    kind(
        "format:list",
        _check_list,
        lambda rng: {"sep": rng.choice(("...", "!?!?", "-->", "##"))},
        lambda a: f"Answer with a list whose items start with {a['sep']} instead of bullets.",
        *("form", "start", "length"),
    ),
    kind(
        "format:sub-bullets",
        _check_sub_bullets,
        nothing,
        lambda _: "Write bullet points marked *, each with at least one sub-bullet marked -.",
        *("form", "asterisks", "length"),
    ),
    kind(
        "format:no_bullets_bullets",
        _check_sentences_then_bullets,
        nothing,
        lambda _: "Write at least two sentences that end in a period, then at least two bullet points marked *.",
        *("form", "asterisks", "length", "end"),
    ),
    kind(
        "format:title_case",
        _check_title_case,
        nothing,
        lambda _: "Write the entire response in title case: capitalize the first letter of every major word.",
        *("case", "language"),
    ),
    kind(
        "format:output_template",
        lambda text, _: _TEMPLATE.fullmatch(text) is not None,
        nothing,
        lambda _: (
            "Use exactly this template: My Answer: [answer] My Conclusion: [conclusion] Future Outlook: [outlook]"
        ),
        *_EVERYTHING,
    ),
    kind(
        "format:no_whitespace",
        lambda text, _: not re.search(r"\s", text.strip()),
        nothing,
        lambda _: "Do not use any blanks or line breaks.",
        *_EVERYTHING,
    ),
    kind(
        "custom:multiples",
        lambda text, _: re.findall(r"[0-9]+", text) == _MULTIPLES,
        nothing,
        lambda _: "Count from 10 to 50, but print only the multiples of 7.",
        *_EVERYTHING,
    ),
    kind(
        "repeat:repeat_simple",
        lambda text, _: text.strip().lower() in (REPEATED.lower(), _IFBENCH_REPEATED.lower()),
        nothing,
        lambda _: REPEATED,
        *_EVERYTHING,
    ),
    kind(
        "repeat:repeat_change",
        _check_repeat_change,
        nothing,
        lambda _: "Repeat the request above with another first word, and say nothing else.",
        *_EVERYTHING,
    ),
    kind(
        "repeat:repeat_span",
        _check_repeat_span,
        lambda rng: {"n_start": (start := rng.randint(0, 5)), "n_end": start + rng.randint(5, 15)},
        lambda a: (
            f"Copy characters {a['n_start']} to {a['n_end']} of the request above, counted from 0; say nothing else."
        ),
        *_EVERYTHING,
    ),
)
