r"""Text that others wrote, made safe to show on a terminal or a page.

Owns: which characters are shown as they are. Does not own markup: HTML is escaped where it is made, and rich's markup
where it is printed.
Invariants: the result holds no character that a terminal obeys (C0, DEL, C1: cursor, colours, window title, clipboard),
none that changes the order or the visibility of its neighbours (bidi controls, zero-width and tag characters), and none
that cannot be encoded (half a surrogate pair). It has as many characters as the text, so that tables keep their shape.

    printable("\x1b[2Jdone\u202e")     # "␛[2Jdone�"
"""

from __future__ import annotations

import re

_KEPT_WHITESPACE = "\t\n"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_UNSAFE = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and line feed, DEL, C1
    "\u00ad\u061c\u180e"  # soft hyphen, Arabic letter mark, Mongolian vowel separator
    "\u200b\u200e\u200f"  # zero-width space, left-to-right and right-to-left mark
    "\u2028-\u202e"  # line and paragraph separator, bidi embeddings and overrides
    "\u2060-\u206f"  # word joiner, invisible operators, bidi isolates, deprecated format characters
    "\ufeff\ufff9-\ufffb"  # byte-order mark, interlinear annotations
    "\ud800-\udfff"
    "\U000e0000-\U000e0fff"  # tags and variation selectors beyond the common ones
    "]"
)
"""Zero-width joiner and non-joiner stay: emoji and Indic scripts need them, and they move nothing."""


def printable(text: str) -> str:
    """The text with each unsafe character replaced: C0 and DEL by their picture (␛ for ESC), others by �.

    Tab and line feed stay. Applying it twice changes nothing more.
    """
    return _UNSAFE.sub(_shown, text)


def printable_line(text: str) -> str:
    """`printable` for places that hold one line: tabs and line feeds become pictures, too."""
    return "".join(chr(0x2400 + ord(one)) if one in _KEPT_WHITESPACE else one for one in printable(text))


def _shown(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\N{SYMBOL FOR DELETE}" if code == 0x7F else _REPLACEMENT
