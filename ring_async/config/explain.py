"""Pydantic's errors as sentences for people: which key, what is wrong with it, what to do.

Owns: the sentences, and the search for the key that was probably meant. Does not own the checks (`schema`).
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ring_async.config.schema import Config

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
    key = ".".join(str(part) for part in detail["loc"] if part != "[key]")
    kind, given, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return key, _unknown(key)
    if kind == "missing":
        return key, f"missing, and has no default; give it a value{_about(key)}"
    if kind in ("literal_error", "enum"):
        close = get_close_matches(str(given), _literals(str(context["expected"])), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return key, f"{_shown(given)} is none of {context['expected']}{hint}"
    bounds = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}
    if kind in bounds:
        sentence = {"gt": "must be above", "ge": "must be at least", "lt": "must be below", "le": "must be at most"}
        bound = bounds[kind]
        return key, f"{_shown(given)} {sentence[bound]} {context[bound]}{_about(key)}"
    if kind == "string_pattern_mismatch":
        return key, f"{_shown(given)} does not fit the pattern {context['pattern']}{_about(key)}"
    if kind == "int_from_float":
        return key, f"{_shown(given)} is not a whole number{_about(key)}"
    if kind.startswith(tuple(_WANTED)) and kind.endswith(("_type", "_parsing")):
        return key, f"{_shown(given)} is not {_WANTED[kind.split('_')[0]]}{_about(key)}"
    message = detail["msg"].removeprefix("Value error, ")
    return key, f"{_shown(given)}: {message[:1].lower()}{message[1:]}"


def _unknown(key: str) -> str:
    if key in _RENAMED:
        return _RENAMED[key]
    known = _known_keys()
    above, _, last = key.rpartition(".")
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


def _shown(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


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
    return dict(_walk(Config, ""))


def _walk(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}", field.description or ""
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
