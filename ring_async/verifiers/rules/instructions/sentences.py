"""Sentences: where one ends.

Owns: splitting text into sentences, by punctuation and layout. Does not own: words.

A sentence ends with `.`, `!`, `?` (or several) and a blank; with their counterparts in other scripts; with an item of a
list, a heading, or a paragraph. Abbreviations and numbers end none: `Mr. Smith`, `e.g. this`, `3.50`, `1. First`. Those
that can stand at an end (`p.m.`, `etc.`, `U.S.`, `Inc.`) end one before a capital letter. A piece without a word is no
sentence.

`Differs:` from IFEval, which asks a trained model.
"""

from __future__ import annotations

import re

_TITLES = (
    r"(?:Mr|Mrs|Ms|Mx|Dr|Prof|Rev|Hon|Gen|Col|Capt|Lt|Sgt|Sen|Rep|Gov|Pres|Mt|Ft|Mme|Mlle|Hr|Fr"
    r"|vs|cf|e\.g|i\.e|viz|al|ca|approx|Fig|Eq|Vol|pp?|z\.B|bzw)"
)
_NEVER = re.compile(rf"\b(?:{_TITLES}|No(?=\.\s?[0-9]))\.(?=\s|,|$)", re.IGNORECASE)
_INITIAL = re.compile(r"(?<![\w.\ue000])[A-Z]\.(?=\s[A-Z][\w.])")
_OFTEN = re.compile(
    r"\b(?:etc|[ap]\.m|[A-Z](?:\.[A-Z]){1,5}|Inc|Ltd|Co|Corp|Jr|Sr|St|Ave|Rd|Blvd|Dept|Est|Ph\.D|M\.D|B\.A|M\.A"
    r"|Jan|Feb|Mar|Apr|Aug|Sept?|Oct|Nov|Dec|Mon|Tue|Wed|Thu|Fri|Sat|Sun|min|max|hr|hrs|lb|lbs|oz|in|ft)"
    r"\.(?=\s+(?P<next>\S+))"
)
_OPENER_LIST = """
A After All Although An And As At Because Before But By Finally For From He Her Here His How However I If In It Its My
No Now On One Or Our She So Some Still That The Their Then There These They This Those Thus To Today We What When Where
Which While Who Why With Yes Yet You Your
"""
_OPENERS = frozenset(_OPENER_LIST.split())
_TAKES_A_NAME = frozenset({"St", "Mar", "May"})
_END = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’»)\]*_]*+(?=\s|$)|[。！？．।॥؟۔]+[\"'”’»」』）]*")
_ITEM = re.compile(r"[ \t]*(?:[-*+•]|\(?(?:[0-9]{1,3}|[A-Za-z])[.)])[ \t]+(?=\S)")
_HEADING = re.compile(r"[ \t]*#{1,6}[ \t]")
_HIDDEN = "\ue000"
"""Stands for a full stop that ends nothing."""


def sentences_of(text: str) -> list[str]:
    """The sentences, each with its punctuation, without the marks of lists and headings."""
    found: list[str] = []
    for block in _blocks(text):
        start, is_lower = 0, block == block.lower()
        plain = _without_abbreviations(block)
        for end in _END.finditer(plain):
            if not is_lower and _goes_on(plain, end):
                continue
            found.append(plain[start : end.end()])
            start = end.end()
        found.append(plain[start:])
    return [sentence.replace(_HIDDEN, ".").strip() for sentence in found if re.search(r"[^\W_]", sentence)]


def count_sentences(text: str) -> int:
    """Sentences by punctuation and layout; a last one without any counts too."""
    return len(sentences_of(text))


def _blocks(text: str) -> list[str]:
    """Paragraphs, list items and headings, one each; lines of a paragraph are joined."""
    blocks: list[list[str]] = [[]]
    was_apart = False
    for line in text.splitlines():
        item = _ITEM.match(line)
        is_heading = _HEADING.match(line) is not None
        if not line.strip() or item is not None or is_heading or was_apart:
            blocks.append([])
        blocks[-1].append(line[item.end() :] if item is not None else line.lstrip("# \t"))
        was_apart = is_heading
    return [" ".join(block) for block in blocks]


def _without_abbreviations(text: str) -> str:
    """The text with the full stops of abbreviations hidden, where they end no sentence."""

    def hidden(match: re.Match[str]) -> str:
        return match.group().replace(".", _HIDDEN)

    def hidden_unless_end(match: re.Match[str]) -> str:
        following = match["next"].strip("\"'“‘(*_")
        word = following.rstrip(".,;:!?'\"”’)")
        is_name_inside = match.group().isupper() or match.group()[:-1] in _TAKES_A_NAME
        ends = word in _OPENERS if is_name_inside else following[:1].isupper()
        return match.group()[:-1].replace(".", _HIDDEN) + ("." if ends else _HIDDEN)

    return _INITIAL.sub(hidden, _OFTEN.sub(hidden_unless_end, _NEVER.sub(hidden, text)))


def _goes_on(text: str, end: re.Match[str]) -> bool:
    """Whether a closing mark is followed by a small letter: `"Stop!" she said`."""
    if end.group()[-1] not in "\"'”’»)]":
        return False
    following = re.match(r"\s+(\w)", text[end.end() : end.end() + 40])
    return following is not None and following[1].islower()
