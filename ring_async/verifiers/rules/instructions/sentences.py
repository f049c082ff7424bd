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

_TITLE_LIST = """
mr mrs ms mx dr prof rev hon gen col capt lt sgt sen rep gov pres mt ft mme mlle hr fr vs cf e.g i.e viz al ca approx
fig eq vol p pp z.b bzw
"""
_OFTEN_LIST = """
etc a.m p.m inc ltd co corp jr sr st ave rd blvd dept est ph.d m.d b.a m.a jan feb mar apr aug sep sept oct nov dec mon
tue wed thu fri sat sun min max hr hrs lb lbs oz in
"""
_NEVER_ENDS = frozenset(_TITLE_LIST.split())
_MAY_END = frozenset(_OFTEN_LIST.split())
_DOTTED = re.compile(r"(?<![\w.])(?P<word>\w+(?:\.\w+)*)\.(?=(?:\s+(?P<next>\S+)|,|$))")
_INITIALS = re.compile(r"[A-Z](?:\.[A-Z])+")
_OPENER_LIST = """
A After All Although An And As At Because Before But By Finally For From He Her Here His How However I If In It Its My
No Now On One Or Our She So Some Still That The Their Then There These They This Those Thus To Today We What When Where
Which While Who Why With Yes Yet You Your
"""
_OPENERS = frozenset(_OPENER_LIST.split())
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
    return _DOTTED.sub(_hidden_unless_end, text)


def _hidden_unless_end(match: re.Match[str]) -> str:
    word, following = match["word"], (match["next"] or "").strip("\"'“‘(*_")
    is_initials = _INITIALS.fullmatch(word) is not None
    if word.lower() in _NEVER_ENDS:
        ends = False
    elif word.lower() == "no":
        ends = not following[:1].isdigit()
    elif len(word) == 1:
        ends = not (word.isupper() and following[:1].isupper() and len(following) > 1)
    elif is_initials or word == "St":
        ends = match["next"] is None or following.rstrip(".,;:!?'\"”’)") in _OPENERS
    elif word.lower() in _MAY_END:
        ends = match["next"] is None or following[:1].isupper()
    else:
        return match.group()
    return word.replace(".", _HIDDEN) + ("." if ends else _HIDDEN)


def _goes_on(text: str, end: re.Match[str]) -> bool:
    """Whether a closing mark is followed by a small letter: `"Stop!" she said`."""
    if end.group()[-1] not in "\"'”’»)]":
        return False
    following = re.match(r"\s+(\w)", text[end.end() : end.end() + 40])
    return following is not None and following[1].islower()
