"""No character of a text reaches a terminal as a command, or a page as an order of its neighbours."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ring_async.printable import printable, printable_line

HOSTILE = {
    "colour and clear": ("\x1b[31m\x1b[2Jred", "␛[31m␛[2Jred"),
    "window title": ("\x1b]0;pwned\x07", "␛]0;pwned␇"),
    "hyperlink (OSC 8)": ("\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\", "␛]8;;http://evil␛\\click␛]8;;␛\\"),
    "clipboard (OSC 52)": ("\x1b]52;c;cm0gLXJm\x07", "␛]52;c;cm0gLXJm␇"),
    "C1 introducer": ("\x9b31mred\x9c", "�31mred�"),
    "carriage return over a line": ("safe\rEVIL", "safe␍EVIL"),
    "backspace and delete": ("rm\x08\x7f", "rm␈␡"),
    "right-to-left override": ("user\u202etxt.exe", "user�txt.exe"),
    "bidi isolate": ("\u2066if admin\u2069", "�if admin�"),
    "invisible tag letters": ("ok\U000e0041\U000e007f", "ok��"),
    "half a surrogate pair": ("\ud83d", "�"),
}


@pytest.mark.parametrize(("text", "shown"), HOSTILE.values(), ids=HOSTILE)
def test_what_a_terminal_would_obey_is_shown_instead(text: str, shown: str):
    assert printable(text) == shown


@pytest.mark.parametrize("text", ["a\tb\nc", "π ≤ ∑ x²", "नमस्ते", "👩‍👩‍👧 می‌خواهم", "שלום", ""])
def test_text_of_people_stays(text: str):
    assert printable(text) == text


def test_one_line_stays_one_line():
    assert printable_line("a\tb\nc\x1b") == "a␉b␊c␛"


@given(st.text(st.characters(codec=None)))
def test_whatever_the_text_nothing_unsafe_is_left_and_no_width_is_gained(text: str):
    shown = printable(text)
    assert len(shown) == len(text)
    assert printable(shown) == shown
    shown.encode()
    kinds = {unicodedata.category(one) for one in shown if one not in "\t\n"}
    assert not kinds & {"Cc", "Cs", "Zl", "Zp"}
    assert not {unicodedata.bidirectional(one) for one in shown} & {
        "LRE",
        "RLE",
        "LRO",
        "RLO",
        "PDF",
        "LRI",
        "RLI",
        "FSI",
        "PDI",
    }
