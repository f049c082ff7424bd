"""IFEval's kinds (arXiv 2311.07911, Table 1) about words, letters, case, language and length.

Owns: one `Kind` for each. Does not own: kinds about layout (`ifeval_layout`).

Identifiers and argument names are the data set's own, so its files can be used as they are. Each check does what the
instruction's words say. `Differs:` a keyword is a word, not any run of letters; words and sentences are those a reader
counts; short texts are told apart by their commonest words.
"""

from __future__ import annotations

import re
import unicodedata

from ring_async.verifiers.rules.instructions.kind import (
    WORDS,
    Arguments,
    between,
    by_identifier,
    compare,
    kind,
    nothing,
    related,
)
from ring_async.verifiers.rules.instructions.languages import LANGUAGES, is_in_language
from ring_async.verifiers.rules.instructions.sentences import count_sentences
from ring_async.verifiers.rules.instructions.words import count_words, has_word, occurrences, words_of

_DIVIDER = re.compile(r"(?<!\S)\*\*\*(?!\S)")


def _check_paragraphs(text: str, arguments: Arguments) -> bool:
    """Parts between `***` dividers; empty ones at either end do not count."""
    parts = [part.strip() for part in _DIVIDER.split(text)]
    if len(parts) > 1:
        parts = parts[not parts[0] : len(parts) - (not parts[-1])]
    return all(parts) and len(parts) == arguments["num_paragraphs"]


def _check_nth_paragraph(text: str, arguments: Arguments) -> bool:
    parts = [part for part in re.split(r"\n\s*\n", text) if part.strip()]
    nth = arguments["nth_paragraph"]
    if len(parts) != arguments["num_paragraphs"] or not 1 <= nth <= len(parts):
        return False
    first = re.match(r"[\W_]*([\w'’-]+)", parts[nth - 1])
    return first is not None and first.group(1).strip("'’-_").lower() == str(arguments["first_word"]).lower()


def _check_capital_words(text: str, arguments: Arguments) -> bool:
    """Words in capitals: `NASA`, `NASA's`, and in `ESA-led` the part that is."""
    count = 0
    for word in words_of(text):
        parts = [part for part in re.split(r"['’‐-]", word) if part]
        if word.isupper():
            count += 1
        else:
            count += any(part.isupper() and len(part) > 1 for part in parts)
    return compare(count, arguments["capital_relation"], arguments["capital_frequency"])


def _count_letter(text: str, letter: str) -> int:
    return unicodedata.normalize("NFC", text).lower().count(unicodedata.normalize("NFC", letter).lower())


KINDS = by_identifier(
    kind(
        "keywords:existence",
        lambda text, a: all(occurrences(word, text) > 0 for word in a["keywords"]),
        lambda rng: {"keywords": rng.sample(WORDS, 2)},
        lambda a: f"Include the keywords {' and '.join(a['keywords'])} in your response.",
        "words",
    ),
    kind(
        "keywords:frequency",
        lambda text, a: compare(occurrences(a["keyword"], text), a["relation"], a["frequency"]),
        lambda rng: {"keyword": rng.choice(WORDS), **related("frequency", 2, 4)(rng)},
        lambda a: f"The word {a['keyword']} should appear {a['relation']} {a['frequency']} times in your response.",
        "words",
    ),
    kind(
        "keywords:forbidden_words",
        lambda text, a: not any(has_word(word, text) for word in a["forbidden_words"]),
        lambda rng: {"forbidden_words": rng.sample(WORDS, 3)},
        lambda a: f"Do not use any of these words: {', '.join(a['forbidden_words'])}.",
        "words",
    ),
    kind(
        "keywords:letter_frequency",
        lambda text, a: compare(_count_letter(text, str(a["letter"])), a["let_relation"], a["let_frequency"]),
        lambda rng: {"letter": rng.choice("abcdhkmpvw"), **related("let_frequency", 3, 8, "let_relation")(rng)},
        lambda a: f"The letter {a['letter']} should appear {a['let_relation']} {a['let_frequency']} times.",
        *("letters", "length"),
    ),
    kind(
        "language:response_language",
        lambda text, a: is_in_language(text, str(a["language"])),
        lambda rng: {"language": rng.choice(sorted(set(LANGUAGES) - {"en"}))},
        lambda a: (
            f"Your entire response should be in {LANGUAGES.get(a['language'], a['language'])}, "
            "no other language is allowed."
        ),
        *("language", "case", "words", "letters", "start", "end", "length", "form"),
    ),
    kind(
        "length_constraints:number_sentences",
        lambda text, a: compare(count_sentences(text), a["relation"], a["num_sentences"]),
        related("num_sentences", 3, 8),
        lambda a: f"Your response should contain {a['relation']} {a['num_sentences']} sentences.",
        "length",
    ),
    kind(
        "length_constraints:number_paragraphs",
        _check_paragraphs,
        between(2, 4, "num_paragraphs"),
        lambda a: f"Write {a['num_paragraphs']} paragraphs, separated by the markdown divider ***.",
        *("form", "length"),
    ),
    kind(
        "length_constraints:number_words",
        lambda text, a: compare(count_words(text), a["relation"], a["num_words"]),
        related("num_words", 10, 60),
        lambda a: f"Answer with {a['relation']} {a['num_words']} words.",
        "length",
    ),
    kind(
        "length_constraints:nth_paragraph_first_word",
        _check_nth_paragraph,
        lambda rng: {"num_paragraphs": 3, "nth_paragraph": rng.randint(1, 3), "first_word": rng.choice(WORDS)},
        lambda a: (
            f"Write {a['num_paragraphs']} paragraphs, separated by two new lines and nothing else. Paragraph "
            f"{a['nth_paragraph']} must start with the word {a['first_word']}."
        ),
        *("form", "start", "words", "length"),
    ),
    kind(
        "change_case:capital_word_frequency",
        _check_capital_words,
        related("capital_frequency", 2, 6, "capital_relation"),
        lambda a: (
            f"Words with all capital letters should appear {a['capital_relation']} "
            f"{a['capital_frequency']} times in your response."
        ),
        "case",
    ),
    kind(
        "change_case:english_capital",
        lambda text, _: text.isupper() and is_in_language(text, "en"),
        nothing,
        lambda _: "Your entire response should be in English, and in all capital letters.",
        *("case", "language"),
    ),
    kind(
        "change_case:english_lowercase",
        lambda text, _: text.islower() and is_in_language(text, "en"),
        nothing,
        lambda _: "Your entire response should be in English, and in all lowercase letters.",
        *("case", "language"),
    ),
    kind(
        "punctuation:no_comma",
        lambda text, _: "," not in text,
        nothing,
        lambda _: "Do not use any commas in your response.",
        "commas",
    ),
)
