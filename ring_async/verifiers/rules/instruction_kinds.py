"""The 25 kinds of verifiable instruction of IFEval (arXiv 2311.07911, Table 1): how each is checked, drawn and worded.

Owns: one `Kind` for each. Does not own: which of them a prompt has (`data.instruction`), or the reward (`instruction`).

Patterns take linear time on any text: they run on what a model wrote, and hold the interpreter's lock meanwhile.
Identifiers and argument names are the data set's own, so its files can be used as they are. Checks take the response as
it is; the loose mode's variants are `instruction`'s. `Differs:` sentences are split by punctuation followed by space,
not by a trained model, and languages are told apart by langid.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Arguments = Mapping[str, Any]

LANGUAGES = {
    "en": "English", "es": "Spanish", "pt": "Portuguese", "ar": "Arabic", "hi": "Hindi", "fr": "French",
    "ru": "Russian", "de": "German", "ja": "Japanese", "it": "Italian", "bn": "Bengali", "uk": "Ukrainian",
    "th": "Thai", "ur": "Urdu", "ta": "Tamil", "te": "Telugu", "bg": "Bulgarian", "ko": "Korean", "pl": "Polish",
    "he": "Hebrew", "fa": "Persian", "vi": "Vietnamese", "ne": "Nepali", "sw": "Swahili", "kn": "Kannada",
    "mr": "Marathi", "gu": "Gujarati", "pa": "Punjabi", "ml": "Malayalam", "fi": "Finnish",
}  # fmt: skip
CONSTRAINED_RESPONSES = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
WORDS = (
    *("river", "garden", "winter", "music", "bridge", "window", "market", "story", "forest", "teacher"),
    *("silver", "engine", "island", "letter", "morning", "paper", "summer", "travel", "village", "weather"),
    *("candle", "harbor", "kitchen", "library", "mountain", "ocean", "picture", "question", "shadow", "thunder"),
)
END_PHRASES = ("Is there anything else I can help with?", "That is all.", "Any other questions?")

_ABBREVIATIONS = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|e\.g|i\.e|No|Inc|Ltd|Co|[A-Z])\.")
_SENTENCE_END = re.compile(r"(?<![.!?。！？])[.!?。！？]++[\"')\]]*+(?=\s|$)|[。！？]")
_DIVIDER = re.compile(r"\s?\*\*\*\s?")
_BULLET = re.compile(r"^[ \t]*+(?:\*(?!\*)|-(?!-))[ \t]*+\S", re.MULTILINE)
_HIGHLIGHT = re.compile(r"\*\*([^\n*]+)\*\*|\*([^\n*]+)\*")
_PLACEHOLDER = re.compile(r"\[[^\[\]]*\]")
_TITLE = re.compile(r"<<([^\n<>]+)>>")
_FENCE_OPENING = re.compile(r"```(?:json)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of instruction.

    Attributes:
        identifier: as in IFEval.
        check: whether a response follows it.
        draw: its arguments, at random.
        word: the instruction in English.
        claims: aspects of a response it settles; two kinds that claim the same one can contradict each other.
    """

    identifier: str
    check: Callable[[str, Arguments], bool]
    draw: Callable[[random.Random], dict[str, Any]]
    word: Callable[[Arguments], str]
    claims: frozenset[str]


def count_words(text: str) -> int:
    return len(re.findall(r"\w+", text))


def count_sentences(text: str) -> int:
    """Sentences by punctuation; a last one without any counts too."""
    plain = _ABBREVIATIONS.sub(lambda match: match.group().replace(".", ""), text).strip()
    if not plain:
        return 0
    ends = list(_SENTENCE_END.finditer(plain))
    rest = plain[ends[-1].end() :] if ends else plain
    return len(ends) + bool(re.search(r"\w", rest))


def language_of(text: str) -> str:
    """Its most likely language, as ISO 639-1."""
    import py3langid  # loads its model on the first call

    return str(py3langid.classify(text)[0])


def _compare(count: int, relation: str, bound: int) -> bool:
    """`Raises: ValueError` for a relation that IFEval does not know."""
    if relation == "at least":
        return count >= bound
    if relation == "less than":
        return count < bound
    raise ValueError(f"relation {relation!r} is neither 'at least' nor 'less than'")


def _occurrences(word: str, text: str) -> int:
    return len(re.findall(re.escape(word), text, re.IGNORECASE))


def _has_word(word: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None


def _paragraphs(text: str) -> list[str]:
    """Parts between `***` dividers; empty ones at either end do not count."""
    parts = [part.strip() for part in _DIVIDER.split(text)]
    return parts[not parts[0] : len(parts) - (not parts[-1])] if len(parts) > 1 else parts


def _check_paragraphs(text: str, arguments: Arguments) -> bool:
    parts = _paragraphs(text)
    return all(parts) and len(parts) == arguments["num_paragraphs"]


def _check_nth_paragraph(text: str, arguments: Arguments) -> bool:
    parts = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
    nth = arguments["nth_paragraph"]
    if len(parts) != arguments["num_paragraphs"] or nth > len(parts):
        return False
    first = re.match(r"[\"'(*_]*([\w'-]+)", parts[nth - 1])
    return first is not None and first.group(1).lower() == str(arguments["first_word"]).lower()


def _check_postscript(text: str, arguments: Arguments) -> bool:
    letters = r"[ \t]?".join(
        re.escape(letter) + r"\." for letter in str(arguments["postscript_marker"]).replace(".", "")
    )
    return re.search(rf"^[ \t]*+{letters}\s*+\S", text, re.IGNORECASE | re.MULTILINE) is not None


def _check_sections(text: str, arguments: Arguments) -> bool:
    pattern = rf"(?:^|\s){re.escape(str(arguments['section_spliter']))}\s++\d+"
    return len(re.findall(pattern, text)) >= arguments["num_sections"]


def _check_json(text: str, _arguments: Arguments) -> bool:
    stripped = text.strip()
    opening = _FENCE_OPENING.match(stripped)
    if opening is not None and stripped.endswith("```"):
        stripped = stripped[opening.end() : -3]
    try:
        json.loads(stripped)
    except (ValueError, RecursionError):
        return False
    return True


def _check_two_responses(text: str, _arguments: Arguments) -> bool:
    parts = [part.strip() for part in text.split("******")]
    parts = [part for index, part in enumerate(parts) if part or 0 < index < len(parts) - 1]
    return len(parts) == 2 and all(parts) and parts[0] != parts[1]


def _check_quotation(text: str, _arguments: Arguments) -> bool:
    stripped = text.strip()
    return len(stripped) > 1 and stripped[0] == stripped[-1] == '"'


def _check_capital_words(text: str, arguments: Arguments) -> bool:
    words = [word for word in re.findall(r"[^\W\d_][\w'-]*", text) if word.isupper()]
    return _compare(len(words), arguments["capital_relation"], arguments["capital_frequency"])


def _at_most(low: int, high: int, name: str) -> Callable[[random.Random], dict[str, Any]]:
    return lambda rng: {name: rng.randint(low, high)}


def _related(name: str, low: int, high: int, relation: str = "relation") -> Callable[[random.Random], dict[str, Any]]:
    return lambda rng: {relation: rng.choice(("at least", "less than")), name: rng.randint(low, high)}


def _nothing(_rng: random.Random) -> dict[str, Any]:
    return {}


def _kind(
    identifier: str,
    check: Callable[[str, Arguments], bool],
    draw: Callable[[random.Random], dict[str, Any]],
    word: Callable[[Arguments], str],
    *claims: str,
) -> Kind:
    return Kind(identifier, check, draw, word, frozenset(claims) | {identifier})


KINDS: Mapping[str, Kind] = {
    kind.identifier: kind
    for kind in (
        _kind(
            "keywords:existence",
            lambda text, a: all(_occurrences(word, text) > 0 for word in a["keywords"]),
            lambda rng: {"keywords": rng.sample(WORDS, 2)},
            lambda a: f"Include the keywords {' and '.join(a['keywords'])} in your response.",
            "words",
        ),
        _kind(
            "keywords:frequency",
            lambda text, a: _compare(_occurrences(a["keyword"], text), a["relation"], a["frequency"]),
            lambda rng: {"keyword": rng.choice(WORDS), **_related("frequency", 2, 4)(rng)},
            lambda a: f"The word {a['keyword']} should appear {a['relation']} {a['frequency']} times in your response.",
            "words",
        ),
        _kind(
            "keywords:forbidden_words",
            lambda text, a: not any(_has_word(word, text) for word in a["forbidden_words"]),
            lambda rng: {"forbidden_words": rng.sample(WORDS, 3)},
            lambda a: f"Do not use any of these words: {', '.join(a['forbidden_words'])}.",
            "words",
        ),
        _kind(
            "keywords:letter_frequency",
            lambda text, a: _compare(
                text.lower().count(str(a["letter"]).lower()), a["let_relation"], a["let_frequency"]
            ),
            lambda rng: {"letter": rng.choice("abcdhkmpvw"), **_related("let_frequency", 3, 8, "let_relation")(rng)},
            lambda a: f"The letter {a['letter']} should appear {a['let_relation']} {a['let_frequency']} times.",
            *("letters", "length"),
        ),
        _kind(
            "language:response_language",
            lambda text, a: language_of(text) == a["language"],
            lambda rng: {"language": rng.choice(sorted(set(LANGUAGES) - {"en"}))},
            lambda a: (
                f"Your entire response should be in {LANGUAGES.get(a['language'], a['language'])}, "
                "no other language is allowed."
            ),
            *("language", "case", "words", "letters", "start", "end", "length", "form"),
        ),
        _kind(
            "length_constraints:number_sentences",
            lambda text, a: _compare(count_sentences(text), a["relation"], a["num_sentences"]),
            _related("num_sentences", 3, 8),
            lambda a: f"Your response should contain {a['relation']} {a['num_sentences']} sentences.",
            "length",
        ),
        _kind(
            "length_constraints:number_paragraphs",
            _check_paragraphs,
            _at_most(2, 4, "num_paragraphs"),
            lambda a: f"Write {a['num_paragraphs']} paragraphs, separated by the markdown divider ***.",
            "form",
        ),
        _kind(
            "length_constraints:number_words",
            lambda text, a: _compare(count_words(text), a["relation"], a["num_words"]),
            _related("num_words", 10, 60),
            lambda a: f"Answer with {a['relation']} {a['num_words']} words.",
            "length",
        ),
        _kind(
            "length_constraints:nth_paragraph_first_word",
            _check_nth_paragraph,
            lambda rng: {"num_paragraphs": 3, "nth_paragraph": rng.randint(1, 3), "first_word": rng.choice(WORDS)},
            lambda a: (
                f"Write {a['num_paragraphs']} paragraphs, separated by two new lines and nothing else. Paragraph "
                f"{a['nth_paragraph']} must start with the word {a['first_word']}."
            ),
            *("form", "start", "words"),
        ),
        _kind(
            "detectable_content:number_placeholders",
            lambda text, a: len(_PLACEHOLDER.findall(text)) >= a["num_placeholders"],
            _at_most(1, 3, "num_placeholders"),
            lambda a: (
                f"The response must contain at least {a['num_placeholders']} placeholders in square brackets, "
                "such as [address]."
            ),
            "brackets",
        ),
        _kind(
            "detectable_content:postscript",
            _check_postscript,
            lambda rng: {"postscript_marker": rng.choice(("P.S.", "P.P.S"))},
            lambda a: f"At the end of your response, add a postscript starting with {a['postscript_marker']}",
            "end",
        ),
        _kind(
            "detectable_format:number_bullet_lists",
            lambda text, a: len(_BULLET.findall(text)) == a["num_bullets"],
            _at_most(2, 5, "num_bullets"),
            lambda a: (
                f"Your answer must contain exactly {a['num_bullets']} bullet points, written in markdown such as: "
                "* This is a point."
            ),
            *("form", "asterisks"),
        ),
        _kind(
            "detectable_format:constrained_response",
            lambda text, _: any(option in text for option in CONSTRAINED_RESPONSES),
            _nothing,
            lambda _: f"Answer with one of these: {', '.join(map(repr, CONSTRAINED_RESPONSES))}.",
            *("form", "length", "start", "end", "case", "words", "letters"),
        ),
        _kind(
            "detectable_format:number_highlighted_sections",
            lambda text, a: (
                sum(bool((bold or plain).strip()) for bold, plain in _HIGHLIGHT.findall(text)) >= a["num_highlights"]
            ),
            _at_most(1, 3, "num_highlights"),
            lambda a: (
                f"Highlight at least {a['num_highlights']} sections in your answer with markdown, such as "
                "*highlighted section*."
            ),
            "asterisks",
        ),
        _kind(
            "detectable_format:multiple_sections",
            _check_sections,
            lambda rng: {"section_spliter": rng.choice(("Section", "SECTION")), "num_sections": rng.randint(2, 4)},
            lambda a: (
                f"Your response must have {a['num_sections']} sections. Mark the beginning of each with "
                f"{a['section_spliter']} X, such as {a['section_spliter']} 1."
            ),
            *("form", "start", "case"),
        ),
        _kind(
            "detectable_format:json_format",
            _check_json,
            _nothing,
            lambda _: "Wrap the entire output in JSON format; markdown ticks are allowed.",
            *("form", "start", "end", "case", "length", "asterisks", "brackets"),
        ),
        _kind(
            "detectable_format:title",
            lambda text, _: any(title.strip() for title in _TITLE.findall(text)),
            _nothing,
            lambda _: "Your answer must contain a title, wrapped in double angular brackets, such as <<a poem>>.",
            "title",
        ),
        _kind(
            "combination:two_responses",
            _check_two_responses,
            _nothing,
            lambda _: "Give two different responses, separated by six asterisk symbols: ******.",
            *("form", "asterisks", "start"),
        ),
        _kind(
            "combination:repeat_prompt",
            lambda text, a: text.strip().lower().startswith(str(a["prompt_to_repeat"]).strip().lower()),
            _nothing,
            lambda _: "First repeat the request above word for word, without change, then give your answer.",
            *("start", "form", "case", "length", "words", "letters", "language"),
        ),
        _kind(
            "startend:end_checker",
            lambda text, a: text.strip().strip('"').lower().endswith(str(a["end_phrase"]).strip().lower()),
            lambda rng: {"end_phrase": rng.choice(END_PHRASES)},
            lambda a: f"Finish your response with this exact phrase, and nothing after it: {a['end_phrase']}",
            *("end", "words", "letters"),
        ),
        _kind(
            "startend:quotation",
            _check_quotation,
            _nothing,
            lambda _: "Wrap your entire response with double quotation marks.",
            *("start", "end"),
        ),
        _kind(
            "change_case:capital_word_frequency",
            _check_capital_words,
            _related("capital_frequency", 2, 6, "capital_relation"),
            lambda a: (
                f"Words with all capital letters should appear {a['capital_relation']} "
                f"{a['capital_frequency']} times in your response."
            ),
            "case",
        ),
        _kind(
            "change_case:english_capital",
            lambda text, _: text.isupper() and language_of(text.lower()) == "en",
            _nothing,
            lambda _: "Your entire response should be in English, and in all capital letters.",
            *("case", "language"),
        ),
        _kind(
            "change_case:english_lowercase",
            lambda text, _: text.islower() and language_of(text) == "en",
            _nothing,
            lambda _: "Your entire response should be in English, and in all lowercase letters.",
            *("case", "language"),
        ),
        _kind(
            "punctuation:no_comma",
            lambda text, _: "," not in text,
            _nothing,
            lambda _: "Do not use any commas in your response.",
            "commas",
        ),
    )
}
