"""Pydantic's errors as sentences for people: which key, what is wrong with it, what to do.

Owns: the sentences, and the search for the key that was probably meant. Does not own the checks (`schema`).
"""

from __future__ import annotations

import json
import reprlib
import types
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from ring_async.config.schema import Config
from ring_async.printable import printable_line

_WANTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "dict": "a section of keys",
    "list": "a list",
    "tuple": "a list",
    "model": "a section of keys",
}

_RENAMED = {
    "eval": "now part of `evaluation`: write evaluation.checkpoint_problems for its num_problems, and evaluation.seed",
}
"""Sections of earlier releases, and what to write instead."""


def explain(error: ValidationError) -> list[tuple[str, str]]:
    """One `(dotted key, sentence)` for each problem.

    Args:
        error: raised by `Config`. Problems that its checks across keys found are lines `key: sentence` in it.
    """
    problems: list[tuple[str, str]] = []
    for detail in error.errors(include_url=False):
        if detail["loc"] or ": " not in detail["msg"]:
            problems.append(_explain_one(detail))
        else:
            lines = str(detail.get("ctx", {}).get("error", detail["msg"])).splitlines()
            problems += [(key, text) for key, _, text in (line.partition(": ") for line in lines)]
    return list(dict.fromkeys(problems))


def _explain_one(detail: ErrorDetails) -> tuple[str, str]:
    key = ".".join(one_line(str(part)) for part in detail["loc"] if part != "[key]")
    kind, given, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return key, _unknown(key)
    if kind == "missing":
        return key, f"missing, and has no default; give it a value{_about(key)}"
    if kind in ("literal_error", "enum"):
        close = get_close_matches(given if isinstance(given, str) else "", _literals(str(context["expected"])), n=1)
        hint = f"; did you mean {close[0]}?" if close else "; choose one of them"
        return key, f"{_shown(given)} is none of {context['expected']}{hint}"
    if kind in _BOUNDS:
        name, sentence = _BOUNDS[kind]
        return key, f"{_shown(given)} {sentence} {context[name]}{_about(key)}"
    if kind in ("too_short", "too_long"):
        # Pydantic's own sentence counts what it was given before it looked at each value.
        length = context.get("min_length", context.get("max_length"))
        return key, f"{_shown(given)} holds {context['actual_length']} values; write {length}{_about(key)}"
    if kind == "string_pattern_mismatch":
        return key, f"{_shown(given)} does not fit the pattern {context['pattern']}{_about(key)}"
    if kind == "finite_number":
        return key, f"{_shown(given)} is not a finite number; give one{_about(key)}"
    if kind == "int_from_float":
        return key, f"{_shown(given)} is not a whole number{_remedy(key, 'int', given)}"
    if kind.startswith(tuple(_WANTED)) and kind.endswith(("_type", "_parsing", "_size")):
        wanted = kind.split("_")[0]
        return key, f"{_shown(given)} is not {_WANTED[wanted]}{_remedy(key, wanted, given)}"
    message = detail["msg"].removeprefix("Value error, ")
    return key, f"{_shown(given)}: {message[:1].lower()}{message[1:]}{_about(key)}"


_BOUNDS = {
    "greater_than": ("gt", "must be above"),
    "greater_than_equal": ("ge", "must be at least"),
    "less_than": ("lt", "must be below"),
    "less_than_equal": ("le", "must be at most"),
}


def _remedy(key: str, wanted: str, given: Any) -> str:
    """What to write instead of a value of the wrong type."""
    if wanted == "string" and isinstance(given, bool | int | float):
        return f"; write it in quotes{_about(key)}"
    if wanted == "string" and given is None:
        return f"; an empty value and a bare ~ are null in YAML: give text, or leave it out{_about(key)}"
    if wanted in ("dict", "model"):
        return f"; write its keys indented below `{key}:`{_about(key)}"
    if wanted in ("list", "tuple"):
        return f"; write [a, b]{_about(key)}"
    default = _defaults().get(_schema_key(key))
    if default is None:
        return f"; give {_WANTED[wanted]}{_about(key)}"
    return f"; leave it out for {json.dumps(default)}, or give {_WANTED[wanted]}{_about(key)}"


def _unknown(key: str) -> str:
    if key in _RENAMED:
        return _RENAMED[key]
    known = _known_keys()
    above, _, last = key.rpartition(".")
    if ":" in last:
        name, _, value = last.partition(":")
        return f"unknown key; a blank is missing behind the colon: `{name}: {value}`"
    schema_above = _schema_key(above) if above else ""
    siblings = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == schema_above]
    close = get_close_matches(last, siblings, n=1)
    if close:
        return f"unknown key; did you mean {f'{above}.' if above else ''}{close[0]}?"
    by_last = {name.rpartition(".")[2]: name for name in reversed(known) if "<name>" not in name}
    close = get_close_matches(last, by_last, n=1, cutoff=0.75)
    if close:
        return f"unknown key; did you mean {by_last[close[0]]}?"
    return f"unknown key; {above or 'the top level'} has {', '.join(sorted(siblings)) or 'no keys'}"


def _literals(expected: str) -> list[str]:
    return [word.strip("' ") for word in expected.replace(" or ", ",").split(",")]


def one_line(text: str) -> str:
    """Text of a configuration as it may stand within a line of a message: printable, and short."""
    return printable_line(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…")


_LONGEST = 80


def _shown(value: Any) -> str:
    # As YAML writes it; `reprlib` does not write a long list or a huge number out to cut it afterwards.
    named = {"None": "null", "True": "true", "False": "false"}
    text = _REPR.repr(value)
    text = named.get(text, text)
    return text if len(text) <= 60 else f"{text[:57]}…"


class _Repr(reprlib.Repr):
    """Python refuses to write out an integer of more than 4,300 digits, and YAML reads one, from `0x…`."""

    def repr_int(self, x: int, level: int) -> str:
        return super().repr_int(x, level) if x.bit_length() <= 10_000 else f"an integer of {x.bit_length()} bits"


_REPR = _Repr()
_REPR.maxstring = _REPR.maxother = 57


def _about(key: str) -> str:
    description = _known_keys().get(_schema_key(key), "")
    return f" ({description})" if description else ""


def _schema_key(key: str) -> str:
    """The key as the schema knows it: `sources.letters.task` is `sources.<name>.task`."""
    section, *rest = key.split(".")
    if rest and any(name.startswith(f"{section}.<name>") for name in _known_keys()):
        return ".".join([section, "<name>", *rest[1:]])
    return key


@cache
def _known_keys() -> dict[str, str]:
    """Every dotted key of the schema with its description; names that people choose appear as `<name>`."""
    return {key: field.description or "" for key, field in schema_fields()}


@cache
def _defaults() -> dict[str, Any]:
    """The defaults that a person could write: numbers, text, true and false."""
    return {key: field.default for key, field in schema_fields() if isinstance(field.default, bool | int | float | str)}


def schema_fields() -> Iterator[tuple[str, FieldInfo]]:
    """Every field of the schema by its dotted key; names that people choose appear as `<name>`."""
    return _walk(Config, "")


def _walk(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}", field
        inner, is_mapping = _section_of(field.annotation)
        if inner is not None:
            yield from _walk(inner, f"{prefix}{name}.<name>." if is_mapping else f"{prefix}{name}.")


def _section_of(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The section class in a field's type, and whether the field maps names to such sections."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    if get_origin(annotation) is dict:
        return _section_of(get_args(annotation)[1])[0], True
    if get_origin(annotation) in (Union, types.UnionType):
        for option in get_args(annotation):
            inner, is_mapping = _section_of(option)
            if inner is not None:
                return inner, is_mapping
    return None, False
