"""IFBench's kinds (arXiv 2507.02833) that ask for a list from an atlas: Africa's countries, Europe's northern capitals.

Owns: both lists and their spellings. Does not own: other tasks (`ifbench_tasks`).

`Differs:` from IFBench, which takes any 52 lines in order behind Zimbabwe's for countries, and whose list of capitals
lacks Kyiv: here all 54 members of the United Nations are asked for, and Kyiv may be named or left out.
"""

from __future__ import annotations

import itertools
import re
import unicodedata

from ring_async.verifiers.rules.instructions.kind import Arguments, by_identifier, kind, nothing

_COUNTRIES = """
algeria angola benin botswana burkina_faso burundi cabo_verde/cape_verde cameroon/cameroun
central_african_republic chad comoros
congo/republic_of_the_congo/congo_republic_of_the/congo_brazzaville/republic_of_congo
democratic_republic_of_the_congo/dr_congo/congo_democratic_republic_of_the/congo_kinshasa/drc
cote_divoire/ivory_coast djibouti egypt equatorial_guinea eritrea eswatini/swaziland ethiopia gabon gambia ghana guinea
guinea_bissau kenya lesotho liberia libya madagascar malawi mali mauritania mauritius morocco mozambique namibia niger
nigeria rwanda sao_tome_and_principe senegal seychelles sierra_leone somalia south_africa south_sudan sudan tanzania
togo tunisia uganda zambia zimbabwe
"""
_COUNTRY_OF = {
    spelling: spellings.split("/")[0] for spellings in _COUNTRIES.split() for spelling in spellings.split("/")
}
_DISPUTED = frozenset({"western_sahara", "sahrawi_arab_democratic_republic", "somaliland"})
"""May be listed, need not be."""
_CAPITAL_LIST = """
reykjavik helsinki oslo tallinn stockholm riga moscow copenhagen vilnius minsk dublin berlin amsterdam warsaw london
brussels kyiv prague luxembourg paris vienna bratislava budapest vaduz chisinau bern ljubljana zagreb
"""
_CAPITALS = _CAPITAL_LIST.split()
_SAME_CAPITAL = {"kiev": "kyiv", "berne": "bern", "luxembourg_city": "luxembourg", "kishinev": "chisinau"}
_MARK = re.compile(r"^\s*(?:[-*+•]|\(?\d{1,3}[.):])\s+")


def _folded(name: str) -> str:
    """A name in small ASCII letters with underscores: `Côte d'Ivoire` is `cote_divoire`."""
    letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().casefold()
    words = re.findall(r"[a-z]+", re.sub(r"['`&]", lambda mark: " and " if mark.group() == "&" else "", letters))
    return "_".join(words[1:] if words[:1] == ["the"] else words)


def _check_countries(text: str, _arguments: Arguments) -> bool:
    """Lines from Zimbabwe's on are countries in descending order, all of them."""
    lines = [_folded(_MARK.sub("", line)) for line in text.splitlines()]
    names = list(itertools.dropwhile(lambda name: name != "zimbabwe", filter(None, lines)))
    found = [_COUNTRY_OF.get(name, "" if name in _DISPUTED else "?") for name in names]
    is_descending = all(earlier > later for earlier, later in itertools.pairwise(names))
    return is_descending and set(found) - {""} == set(_COUNTRY_OF.values())


def _check_capitals(text: str, _arguments: Arguments) -> bool:
    named = [_folded(name) for name in text.strip().rstrip(".").split(",")]
    capitals = [_SAME_CAPITAL.get(name, name) for name in named]
    return capitals in (_CAPITALS, [name for name in _CAPITALS if name != "kyiv"])


_ALL = ("words", "letters", "length", "form", "start", "end", "case", "language", "commas", "digits")
"""Claims of kinds that leave a response little freedom."""

KINDS = by_identifier(
    kind(
        "custom:reverse_newline",
        _check_countries,
        nothing,
        lambda _: "List the countries of Africa in reverse alphabetical order, each on a new line.",
        *_ALL,
    ),
    kind(
        "custom:european_capitals_sort",
        _check_capitals,
        nothing,
        lambda _: (
            "Give the names of all capital cities of European countries whose latitude is higher than 45 degrees. List "
            "them without country names, separated by commas, sorted by latitude, from highest to lowest."
        ),
        *_ALL,
    ),
)
