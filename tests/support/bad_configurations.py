"""Configurations that are wrong: made from the schema, whatever it holds, and written by hand.

    python -m tests.support.bad_configurations --seed 7 --number 300      # prints what `check` says of each

Owns: the configurations, and what must be true of the answer. Does not own how `check` is called.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rich.cells import cell_len

from ring_async.config.explain import schema_fields
from ring_async.testing.builders import make_config_mapping
from tests.support.check_in_process import check

ROWS, COLUMNS = 24, 100
_NAMES = {"sources": "sums", "mixture": "sums", "verifiers": "exact", "difficulty": "sums"}
_HUGE = 10**400


@dataclass(frozen=True)
class BadConfiguration:
    """A configuration with one fault.

    Attributes:
        name: says the key and the kind of fault.
        values: the configuration.
        key: the dotted key that the answer must name.
        is_surely_bad: False where the value may be one that the key takes (`true` as text, say).
    """

    name: str
    values: dict[str, Any]
    key: str
    is_surely_bad: bool = True


def all_from_schema() -> list[BadConfiguration]:
    """Every fault of every field, in the order of the schema."""
    return [bad for key, field in schema_fields() for bad in _faults(key, field)]


def drawn_from_schema(number: int, seed: int) -> list[BadConfiguration]:
    """`number` of them, at least one for each key where `number` allows, the same for the same seed."""
    draw = random.Random(seed)
    everything = all_from_schema()
    draw.shuffle(everything)
    first_of_each = {bad.key.rpartition(".")[0] + bad.name.split()[0]: bad for bad in everything}
    ordered = [*first_of_each.values(), *everything]
    return list({bad.name: bad for bad in ordered}.values())[:number]


def problems_of(output: str, exit_code: object, *, key: str = "", must_fail: bool = True) -> list[str]:
    """What is wrong with the answer of `check` to a bad configuration; empty if nothing is."""
    found = []
    if exit_code != 2 and (must_fail or exit_code != 0):
        found.append(f"exit code {exit_code}, not 2")
    rows = sum(max(1, -(-cell_len(line) // COLUMNS)) for line in output.splitlines())
    if rows > ROWS:
        found.append(f"{rows} rows of {COLUMNS} columns")
    if "Traceback" in output:
        found.append("a traceback")
    if any(not (each.isprintable() or each == "\n") for each in output.replace("\t", "")):
        found.append("control characters")
    if exit_code == 2 and key and not _names(output, key):
        found.append(f"does not name {key}")
    if exit_code == 2 and not any(sign in output for sign in _REMEDIES):
        found.append("no remedy")
    return found


_REMEDIES = ("; ", "did you mean", "must be", "(", "unknown key", "does not divide", "is smaller than")
"""How a remedy begins: advice behind a semicolon, the nearest name, the bound, the key's description."""


def _names(output: str, key: str) -> bool:
    """The key itself or, of a fault inside a value, the key above it."""
    return key in output or key.rpartition(".")[0] in output


# -- from the schema


def _faults(key: str, field: FieldInfo) -> Iterator[BadConfiguration]:
    parts = _named(key).split(".")
    dotted = ".".join(parts)

    def bad(kind: str, value: Any, *, surely: bool = True, at: list[str] | None = None) -> BadConfiguration:
        where = at or parts
        return BadConfiguration(f"{dotted} {kind}", _with(where, value), ".".join(where), surely)

    last = parts[-1]
    neighbour = [*parts[:-1], last + "s" if not last.endswith("s") else last[:-1]]
    yield bad("unknown neighbour", 1, at=neighbour)
    kinds = _kinds(field.annotation)
    if "section" in kinds:
        yield bad("value for a section", 3)
        yield bad("list for a section", [1])
        yield bad("text for a section", "x")
        return
    if type(None) not in kinds:
        yield bad("null", None)
    if dict in kinds:
        yield bad("text for a mapping", "x")
        yield bad("list for a mapping", [1, 2])
        return
    yield bad("mapping for a value", {"a": 1})
    if tuple in kinds:
        yield bad("number for a list", 1)
        yield from _faults_of_a_list(bad, field)
        return
    yield bad("list for a value", [1, [2]])
    if kinds & {int, float}:
        yield bad("text for a number", "two")
        yield bad("true for a number", True)
        for name, value in (("NaN", float("nan")), ("inf", float("inf")), ("huge", _HUGE), ("minus huge", -_HUGE)):
            yield bad(name, value)
        if int in kinds:
            yield bad("fraction", 1.5)
        yield from _beyond_bounds(bad, field.metadata, field.annotation)
    elif bool in kinds:
        yield bad("text for a switch", "perhaps")
        yield bad("number for a switch", 7)
    elif str in kinds or "choice" in kinds:
        yield bad("number for text", 7)
        yield bad("true for text", True)
        yield bad("text like no other", "no such\tthing \u202e\x1b[31m", surely="choice" in kinds)


def _faults_of_a_list(bad: Any, field: FieldInfo) -> Iterator[BadConfiguration]:
    if _kinds(field.annotation) & {int, float}:
        yield bad("empty list", [])
        yield bad("text in a list", ["a", "b"])
        yield bad("three for two", [0.1, 0.2, 0.3])
        yield bad("NaN in a list", [float("nan"), 0.5])
        yield bad("huge in a list", [_HUGE, 1])
        yield bad("true in a list", [True, False])
        yield bad("reversed pair", [1, -1])


def _beyond_bounds(bad: Any, metadata: list[Any], annotation: Any) -> Iterator[BadConfiguration]:
    for argument in get_args(annotation):
        metadata = [*metadata, *getattr(argument, "__metadata__", ())]
        metadata = [*metadata, *(each for one in get_args(argument) for each in getattr(one, "__metadata__", ()))]
    for constraint in metadata:
        for bound in getattr(constraint, "metadata", [constraint]):
            if isinstance(bound, Gt):
                yield bad(f"at the lower bound {bound.gt}", bound.gt)
            elif isinstance(bound, Ge):
                yield bad(f"below the lower bound {bound.ge}", bound.ge - 1)
            elif isinstance(bound, Lt):
                yield bad(f"at the upper bound {bound.lt}", bound.lt)
            elif isinstance(bound, Le):
                yield bad(f"above the upper bound {bound.le}", bound.le * 2)


def _kinds(annotation: Any) -> set[Any]:
    """What a field takes: int, float, bool, str, dict, tuple, None's type, "section" and "choice"."""
    if isinstance(annotation, type):
        return {"section"} if issubclass(annotation, BaseModel) else {annotation}
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return {"choice"}
    if origin is dict:
        return {dict}
    inside = set().union(*(_kinds(argument) for argument in arguments))
    return inside | {tuple} if origin is tuple else inside


def _named(key: str) -> str:
    """The key with names in place of `<name>`, and the first element of a list of sections."""
    section = key.split(".", maxsplit=1)[0]
    return key.replace("<name>", _NAMES.get(section, "sums"))


def _with(parts: list[str], value: Any) -> dict[str, Any]:
    values = make_config_mapping()
    section = values
    for name in parts[:-1]:
        if not isinstance(section.get(name), dict):
            section[name] = {}
        section = section[name]
    section[parts[-1]] = value
    return values


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("build/bad_configurations"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    num_wrong = 0
    for bad in drawn_from_schema(options.number, options.seed):
        path = options.folder / "bad.yaml"
        path.write_text(yaml.safe_dump(bad.values))
        exit_code, output = check(path)
        wrong = problems_of(output, exit_code, key=bad.key, must_fail=bad.is_surely_bad)
        num_wrong += bool(wrong)
        print(f"{'WRONG ' + str(wrong) if wrong else 'ok'} [{bad.name}] {exit_code}: {output.strip()[:300]}")
    print(f"seed {options.seed}: {options.number} configurations, {num_wrong} answered wrongly")
    return 1 if num_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
