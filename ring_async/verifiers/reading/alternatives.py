"""The plain texts that an answer may stand for.

Owns: putting the steps of reading in order. Does not own: the steps.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ring_async.verifiers.reading.characters import spelled_number
from ring_async.verifiers.reading.latex import plain_latex, without_text_commands
from ring_async.verifiers.reading.numerals import grouped_reading, plain_numbers
from ring_async.verifiers.reading.units import move_currency
from ring_async.verifiers.reading.words import is_words

_SENTENCE = re.compile(
    r"^(?:(?:so|thus|hence|therefore|then|and|the|my|our|final|a|an|his|her|its|of|in|[A-Za-z]{2,})[ ,]+){1,8}"
    r"(?:is|are|equals?(?: to)?|will be|would be)\s*:?\s+(?=\S)",
    re.IGNORECASE,
)
_PREFIX = re.compile(r"^(?:\\approx|≈|approximately|approx\.?|about|roughly|answer\s*:|=)\s*", re.IGNORECASE)


@lru_cache(maxsize=512)
def readings(text: str) -> tuple[str, ...]:
    """The plain texts that an answer may stand for, the likeliest first: a comma may group or separate."""
    plain = plain_latex(text)
    unmarked = without_text_commands(plain)
    sentence = _SENTENCE.match(unmarked)
    if sentence is not None and not is_words(unmarked[sentence.end() :]):
        plain = unmarked[sentence.end() :].strip()
    if _PREFIX.match(unmarked):
        plain = unmarked
    plain = move_currency(_PREFIX.sub("", plain).strip())
    number = spelled_number(without_text_commands(plain).strip())
    if number is not None:
        return (str(number),)
    return tuple(dict.fromkeys(plain_numbers(reading) for reading in (grouped_reading(plain), plain)))
