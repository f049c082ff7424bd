"""IFBench's kinds (arXiv 2507.02833) that need a dictionary of English: a verb first, syllables in turn.

Owns: both kinds. Does not own: the dictionaries (lemminflect's parts of speech, syllapy's syllables, both offline).

`Differs:` from IFBench in `words:start_verb`, where a trained tagger decides: here a word that the dictionary has as a
verb is one, unless it may be something else and the word behind it makes it that (`Water is wet`, `Thanks a lot`).
"""

from __future__ import annotations

import itertools
import re

from ring_async.verifiers.rules.instructions.kind import Arguments, by_identifier, kind, nothing
from ring_async.verifiers.rules.instructions.words import words_of

_BEHIND_A_NOUN_LIST = """
is are was were has have had can could will would may might must should shall does did of who which
"""
_BEHIND_A_NOUN = frozenset(_BEHIND_A_NOUN_LIST.split())
_SELDOM_VERB_LIST = "please thanks well like right okay ok own even still back down out up better last long no"
_SELDOM_VERBS = frozenset(_SELDOM_VERB_LIST.split())
"""Words that the dictionary has as verbs, and that at the beginning of a text are none."""
_ENDINGS = re.compile(r"(?:n['’]t|['’](?:s|re|ve|ll|d|m))$")


def _check_verb(text: str, _arguments: Arguments) -> bool:
    words = [word.lower() for word in words_of(text)[:4] if not word.isdigit()][:2]
    if not words:
        return False
    first = _ENDINGS.sub("", words[0]) or words[0]
    parts = _parts_of_speech(first)
    if first in _SELDOM_VERBS or not parts & {"VERB", "AUX"}:
        return False
    if "AUX" in parts or parts == {"VERB"} or first.endswith("ing"):
        return True
    if first.endswith("s") and not first.endswith("ss") and "NOUN" in parts:  # `Thanks`, `Dreams come true`
        return False
    return len(words) == 1 or not _is_behind_a_noun(words[1])


def _is_behind_a_noun(word: str) -> bool:
    """Whether a word follows a noun rather than an imperative: `is`, `of`, `flows`."""
    return word in _BEHIND_A_NOUN or (word.endswith("s") and _parts_of_speech(word) == {"VERB"})


def _parts_of_speech(word: str) -> set[str]:
    from lemminflect import getAllLemmas  # 0.2 s, and only where this kind is asked for

    if word in ("can", "could", "may", "might", "must", "shall", "should", "will", "would"):
        return {"AUX"}
    return set(getAllLemmas(word))


def _check_syllables(text: str, _arguments: Arguments) -> bool:
    counts = [_syllables(word) for word in words_of(text)]
    return bool(counts) and 0 not in counts and all(a % 2 != b % 2 for a, b in itertools.pairwise(counts))


def _syllables(word: str) -> int:
    """The syllables of a word, or of the parts of a compound; 0 where they are not known (digits)."""
    import syllapy

    counts = [syllapy.count(part) for part in word.replace("’", "'").split("-")]
    return sum(counts) if all(counts) else 0


KINDS = by_identifier(
    kind(
        "words:start_verb",
        _check_verb,
        nothing,
        lambda _: "The response must start with a verb.",
        *("start", "language"),
    ),
    kind(
        "words:odd_even_syllables",
        _check_syllables,
        nothing,
        lambda _: "Alternate between words with odd and even numbers of syllables.",
        *("words", "letters", "length", "form", "start", "end", "case", "language", "digits"),
    ),
)
