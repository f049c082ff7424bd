"""IFBench's kinds (arXiv 2507.02833) about words and sentences.

Owns: one `Kind` for each that a text alone decides. Does not own: kinds about layout (`ifbench_layout`), or that are
tasks of their own (`ifbench_tasks`), or that need a dictionary (`ifbench_grammar`) or an atlas (`ifbench_atlas`).

Identifiers and argument names are the data set's own; each check does what the instruction's words say.
"""

from __future__ import annotations

import itertools
import re
import string
from collections import Counter

from ring_async.verifiers.rules.instructions.kind import (
    WORDS,
    Arguments,
    between,
    by_identifier,
    kind,
    nothing,
    one_word,
)
from ring_async.verifiers.rules.instructions.sentences import sentences_of
from ring_async.verifiers.rules.instructions.words import count_words, occurrences, words_of

_CONJUNCTIONS = frozenset({"and", "but", "for", "nor", "or", "so", "yet"})
_PRONOUN_LIST = """
i me we us you he him she her it they them my mine our ours your yours his hers its their theirs myself
ourselves yourself yourselves himself herself itself themselves this that these those who whom whose which
what whoever whomever whatever whichever anybody anyone anything everybody everyone everything nobody nothing
somebody someone something each either neither both all some any none
"""
_STOP_WORD_LIST = """
i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her hers
herself it its itself they them their theirs themselves what which who whom this that these those am is are
was were be been being have has had having do does did doing a an the and but if or because as until while of
at by for with about against between into through during before after above below to from up down in out on
off over under again further then once here there when where why how all any both each few more most other
some such no nor not only own same so than too very s t can will just don should now
"""
_NAME_LIST = """
Emma Liam Sophia Jackson Olivia Noah Ava Lucas Isabella Mason Mia Ethan Charlotte Alexander Amelia Benjamin
Harper Leo Zoe Daniel Chloe Samuel Lily Matthew Grace Owen Abigail Gabriel Ella Jacob Scarlett Nathan Victoria
Elijah Layla Nicholas Audrey David Hannah Christopher Penelope Thomas Nora Andrew Aria Joseph Claire Ryan
Stella Jonathan
"""
_PRONOUNS = frozenset(_PRONOUN_LIST.split())
_STOP_WORDS = frozenset(_STOP_WORD_LIST.split())
_NAMES = _NAME_LIST.split()
_PRIMES = frozenset(n for n in range(2, 100) if all(n % d for d in range(2, n)))
_VOWELS = "aeiou"
_CONSONANT_CLUSTER = re.compile(r"[bcdfghjklmnpqrstvwxyz]{2}")
_NUMBER = re.compile(r"(?<![^\W_])[0-9]+(?:[.,:/][0-9]+)*")
_INTERROBANG = re.compile(r"\?!|!\?|‽")


def _lower_words(text: str) -> list[str]:
    return [word.lower() for word in words_of(text)]


def _first_letters(text: str) -> list[str]:
    return [word[0] for word in _lower_words(text)]


def _check_alphabet(text: str, _arguments: Arguments) -> bool:
    letters = _first_letters(text)
    alphabet = string.ascii_lowercase
    return (
        bool(letters)
        and letters[0] in alphabet
        and all(later == alphabet[(alphabet.find(earlier) + 1) % 26] for earlier, later in itertools.pairwise(letters))
    )


def _check_sentence_types(text: str, _arguments: Arguments) -> bool:
    ends = _ends(text)
    return ends["?"] > 0 and ends["."] == 2 * ends["?"]


def _check_sentence_balance(text: str, _arguments: Arguments) -> bool:
    ends = _ends(text)
    return 0 < ends["."] == ends["?"] == ends["!"]


def _ends(text: str) -> Counter[str]:
    return Counter(sentence.rstrip("\"'”’)*_")[-1:] for sentence in sentences_of(text))


def _check_stop_words(text: str, arguments: Arguments) -> bool:
    words = _lower_words(text)
    return bool(words) and 100 * sum(word in _STOP_WORDS for word in words) <= arguments["percentage"] * len(words)


def _check_overlap(text: str, arguments: Arguments) -> bool:
    given, reference = (
        set(zip(words, words[1:], words[2:], strict=False))
        for words in (_lower_words(text), _lower_words(str(arguments["reference_text"])))
    )
    return bool(given) and abs(100 * len(given & reference) / len(given) - arguments["percentage"]) <= 2


def _check_vowels(text: str, _arguments: Arguments) -> bool:
    """One paragraph, of at most three of the five vowels."""
    return len(text.strip().splitlines()) == 1 and len(set(text.lower()) & set(_VOWELS)) <= 3


def _check_clusters(text: str, _arguments: Arguments) -> bool:
    words = _lower_words(text)
    return bool(words) and all(_CONSONANT_CLUSTER.search(word) for word in words)


def _check_palindromes(text: str, _arguments: Arguments) -> bool:
    return sum(len(word) >= 5 and word == word[::-1] for word in _lower_words(text)) >= 10


def _check_prime_lengths(text: str, _arguments: Arguments) -> bool:
    words = words_of(text)
    return bool(words) and all(sum(map(str.isalnum, word)) in _PRIMES for word in words)


def _check_punctuation(text: str, _arguments: Arguments) -> bool:
    """Each of `. , ! ? ; :` beside an interrobang."""
    rest, found = _INTERROBANG.subn("", text, count=1)
    return found == 1 and set(".,!?;:") <= set(rest)


def _check_last_first(text: str, _arguments: Arguments) -> bool:
    sentences = [words for sentence in sentences_of(text) if (words := _lower_words(sentence))]
    return len(sentences) > 1 and all(a[-1] == b[0] for a, b in itertools.pairwise(sentences))


def _check_paragraph_last_first(text: str, _arguments: Arguments) -> bool:
    paragraphs = [words for line in text.splitlines() if (words := _lower_words(line))]
    return bool(paragraphs) and all(len(words) > 1 and words[0] == words[-1] for words in paragraphs)


def _check_increment(text: str, arguments: Arguments) -> bool:
    lengths = list(map(count_words, sentences_of(text)))
    return len(lengths) > 1 and all(b - a == arguments["small_n"] for a, b in itertools.pairwise(lengths))


def _check_sentence_keyword(text: str, arguments: Arguments) -> bool:
    sentences, number = sentences_of(text), arguments["N"]
    return 1 <= number <= len(sentences) and occurrences(str(arguments["word"]), sentences[number - 1]) > 0


def _check_keyword_position(text: str, arguments: Arguments) -> bool:
    sentences, sentence, position = sentences_of(text), arguments["n"], arguments["m"]
    if not 1 <= sentence <= len(sentences):
        return False
    words = _lower_words(sentences[sentence - 1])
    return 1 <= position <= len(words) and words[position - 1] == str(arguments["keyword"]).lower()


def _check_second_words(text: str, arguments: Arguments) -> bool:
    words, keyword = _lower_words(text), str(arguments["keyword"]).lower()
    return len(words) > 2 and words[1] == words[-2] == keyword


def _check_keyword_counts(text: str, arguments: Arguments) -> bool:
    wanted = zip(range(1, 6), (1, 2, 3, 5, 7), strict=True)
    return all(occurrences(str(arguments[f"keyword{index}"]), text) == count for index, count in wanted)


def _check_alliteration(text: str, _arguments: Arguments) -> bool:
    """Each sentence's longest run of words with one first letter is longer than the one before."""
    runs = [
        max(len(list(run)) for _, run in itertools.groupby(letters))
        for sentence in sentences_of(text)
        if (letters := _first_letters(sentence))
    ]
    return len(runs) > 1 and all(earlier < later for earlier, later in itertools.pairwise(runs))


def _check_sentence_alphabet(text: str, _arguments: Arguments) -> bool:
    return [letters[0] for sentence in sentences_of(text) if (letters := _first_letters(sentence))] == list(
        string.ascii_lowercase
    )


_ALL = ("words", "letters", "length", "form", "start", "end", "case", "language")
"""Claims of kinds that leave a response little freedom."""

KINDS = by_identifier(
    kind(
        "count:word_count_range",
        lambda text, a: a["min_words"] <= count_words(text) <= a["max_words"],
        lambda rng: {"min_words": (low := rng.randint(20, 60)), "max_words": low + rng.randint(5, 20)},
        lambda a: f"The response must have between {a['min_words']} and {a['max_words']} words.",
        "length",
    ),
    kind(
        "count:unique_word_count",
        lambda text, a: len(set(_lower_words(text))) >= a["N"],
        between(15, 40, "N"),
        lambda a: f"Use at least {a['N']} different words.",
        "length",
    ),
    kind(
        "count:conjunctions",
        lambda text, a: len(_CONJUNCTIONS & set(_lower_words(text))) >= a["small_n"],
        between(2, 5, "small_n"),
        lambda a: f"Use at least {a['small_n']} different coordinating conjunctions.",
        *("words", "length"),
    ),
    kind(
        "count:person_names",
        lambda text, a: sum(re.search(rf"\b{name}\b", text) is not None for name in _NAMES) >= a["N"],
        between(2, 5, "N"),
        lambda a: f"Mention at least {a['N']} different people by a name from this list: {', '.join(_NAMES)}.",
        *("words", "length", "case"),
    ),
    kind(
        "count:numbers",
        lambda text, a: len(_NUMBER.findall(text)) == a["N"],
        between(1, 6, "N"),
        lambda a: f"Include exactly {a['N']} numbers, written in digits.",
        *("digits", "form"),
    ),
    kind(
        "count:pronouns",
        lambda text, a: sum(part in _PRONOUNS for part in re.split(r"[^a-z]+", text.lower())) >= a["N"],
        between(5, 15, "N"),
        lambda a: f"Use at least {a['N']} pronouns.",
        *("words", "length"),
    ),
    kind(
        "count:punctuation",
        _check_punctuation,
        nothing,
        lambda _: "Use each of the marks . , ! ? ; : at least once, and an interrobang (?!) as well.",
        *("commas", "length", "form"),
    ),
    kind(
        "count:keywords_multiple",
        _check_keyword_counts,
        lambda rng: {f"keyword{index + 1}": word for index, word in enumerate(rng.sample(WORDS, 5))},
        lambda a: (
            f"Use the word {a['keyword1']} once, {a['keyword2']} twice, {a['keyword3']} three times, "
            f"{a['keyword4']} five times and {a['keyword5']} seven times."
        ),
        *("words", "length"),
    ),
    kind(
        "ratio:stop_words",
        _check_stop_words,
        lambda rng: {"percentage": rng.choice((20, 30, 40, 50))},
        lambda a: f"Stop words must be no more than {a['percentage']}% of all words.",
        *("words", "language"),
    ),
    kind(
        "ratio:sentence_type",
        _check_sentence_types,
        nothing,
        lambda _: "Write exactly two declarative sentences for each question.",
        *("length", "form"),
    ),
    kind(
        "ratio:sentence_balance",
        _check_sentence_balance,
        nothing,
        lambda _: "Write as many declarative sentences as questions, and as many exclamations.",
        *("length", "form"),
    ),
    kind(
        "ratio:overlap",
        _check_overlap,
        lambda rng: {"reference_text": " ".join(rng.sample(WORDS, 12)), "percentage": rng.choice((25, 50, 75))},
        lambda a: (
            f"{a['percentage']}% (give or take 2) of the sequences of three words in your response must occur in this "
            f"text: {a['reference_text']}"
        ),
        *_ALL,
    ),
    kind(
        "words:alphabet",
        _check_alphabet,
        nothing,
        lambda _: "Each word must start with the next letter of the alphabet, with A after Z.",
        *_ALL,
    ),
    kind(
        "words:vowel",
        _check_vowels,
        nothing,
        lambda _: "Write one paragraph that uses at most three of the vowels a, e, i, o and u.",
        *_ALL,
    ),
    kind(
        "words:consonants",
        _check_clusters,
        nothing,
        lambda _: "Each word must have at least two consonants side by side.",
        *_ALL,
    ),
    kind(
        "words:palindrome",
        _check_palindromes,
        nothing,
        lambda _: "Include at least 10 words of at least 5 letters that read the same backwards.",
        *("words", "length", "language"),
    ),
    kind(
        "words:prime_lengths",
        _check_prime_lengths,
        nothing,
        lambda _: "Use only words whose number of letters is a prime number.",
        *_ALL,
    ),
    kind(
        "words:repeats",
        lambda text, a: max(Counter(_lower_words(text)).values(), default=0) <= a["small_n"],
        between(2, 4, "small_n"),
        lambda a: f"Use no word more than {a['small_n']} times.",
        *("words", "length"),
    ),
    kind(
        "words:last_first",
        _check_last_first,
        nothing,
        lambda _: "The last word of each sentence must be the first word of the next; write at least two.",
        *("start", "end", "length", "form", "words"),
    ),
    kind(
        "words:paragraph_last_first",
        _check_paragraph_last_first,
        nothing,
        lambda _: "Each paragraph must end with the word it starts with; put each on a line of its own.",
        *("start", "end", "form"),
    ),
    kind(
        "words:no_consecutive",
        lambda text, _: all(a != b for a, b in itertools.pairwise(_first_letters(text))),
        nothing,
        lambda _: "No two words in a row may start with the same letter.",
        *_ALL,
    ),
    kind(
        "words:keywords_specific_position",
        _check_keyword_position,
        lambda rng: {"keyword": rng.choice(WORDS), "n": rng.randint(1, 3), "m": rng.randint(2, 6)},
        lambda a: f"Word {a['m']} of sentence {a['n']} must be {a['keyword']}.",
        *("words", "start", "length", "form"),
    ),
    kind(
        "words:words_position",
        _check_second_words,
        one_word("keyword"),
        lambda a: f"The second word and the last word but one of your response must be {a['keyword']}.",
        *("words", "start", "end"),
    ),
    kind(
        "sentence:keyword",
        _check_sentence_keyword,
        lambda rng: {"word": rng.choice(WORDS), "N": rng.randint(2, 5)},
        lambda a: f"Sentence {a['N']} must contain the word {a['word']}.",
        *("words", "length", "form"),
    ),
    kind(
        "sentence:increment",
        _check_increment,
        between(1, 3, "small_n"),
        lambda a: f"Each sentence must have exactly {a['small_n']} more words than the one before; write at least two.",
        *("length", "form", "end"),
    ),
    kind(
        "sentence:alliteration_increment",
        _check_alliteration,
        nothing,
        lambda _: "Each sentence must have a longer run of words with one first letter than the sentence before.",
        *_ALL,
    ),
    kind(
        "custom:sentence_alphabet",
        _check_sentence_alphabet,
        nothing,
        lambda _: "Tell a story of 26 sentences that start with the letters of the alphabet, in order.",
        *_ALL,
    ),
)
