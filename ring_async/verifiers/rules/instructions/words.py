"""Words: what one is, and where one occurs.

Owns: counting and finding words. Does not own: sentences.

A word is what a reader counts as one: `don't`, `state-of-the-art`, `3.14`, `1,000`, `U.S.` and `a_b` are one each,
`and/or`, `8-4` and `4,0` are two. Patterns take linear time on any text.
"""

from __future__ import annotations

import re
import unicodedata

_WORD = re.compile(
    r"\w+(?:(?:['’ʼ‐‑]|(?<![0-9])-|-(?![0-9])|(?<=[0-9]),(?=[0-9]{3}(?![0-9]))|(?<=[0-9])[.:](?=[0-9])"
    r"|(?<=\b\w)\.(?=\w\b))\w+)*"
)
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
"""Scripts that put no blanks between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""


def words_of(text: str) -> list[str]:
    return _WORD.findall(text)


def count_words(text: str) -> int:
    return len(words_of(text))


def occurrences(word: str, text: str, *, with_plurals: bool = True) -> int:
    """How often a word or phrase occurs, as such and not within another word, in either case.

    `cats` is an occurrence of `cat`, `reward` is none of `war`. In scripts without blanks between words any occurrence
    counts.
    """
    word, text = (unicodedata.normalize("NFC", part) for part in (word.strip(), text))
    if not word:
        return 0
    if _UNSPACED.search(word):
        return text.count(word)
    before = r"(?<![^\W_])" if word[0].isalnum() else ""
    after = r"(?![^\W_])" if word[-1].isalnum() else ""
    plural = r"(?:['’]s|e?s)?" if with_plurals and word[-1].isalpha() else ""
    phrase = r"\s+".join(map(re.escape, word.split()))
    return len(re.findall(f"{before}{phrase}{plural}{after}", text, re.IGNORECASE))


def has_word(word: str, text: str) -> bool:
    """Whether exactly this word or phrase occurs, not a plural of it."""
    return occurrences(word, text, with_plurals=False) > 0
