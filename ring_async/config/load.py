"""From a YAML file and `key=value` words to a checked `Config`, and back to JSON.

Owns: reading, `base:` inheritance, overrides, and the sentences that people read about errors.
Does not own: what is allowed (`schema`).
Invariants: a bad configuration raises `ConfigError` and nothing else, one line for each problem, each line naming where
the value came from, its dotted key, what is wrong and what to do. Imports neither torch, ray, zmq nor asyncio.

    base: local.yaml            # optional: take that file first, then this one over it; relative to this file
    budget: {token_budget: 8192}
    mixture: {letters: null}    # null removes a source, weight or verifier of the base, and nothing else
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ring_async.config.explain import explain
from ring_async.config.schema import Config
from ring_async.config.yaml_text import MAX_BYTES, decode_text, parse_yaml
from ring_async.errors import ConfigError

COMMAND_LINE = "command line"
"""What an error line names as the place of a value given as `key=value`."""

_REMOVABLE = ("sources", "mixture", "verifiers")
_MAX_BASES = 20


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration file and apply `key=value` words to it.

    Args:
        path: a YAML file, or a run's resolved `config.json`.
        overrides: `dotted.key=value`, the value read as YAML; later words win.

    Raises:
        ConfigError: one line for each problem, `configs/local.yaml: seed: 'x' is not a whole number; …`.
    """
    values, origins = _read_file(Path(path), seen=())
    for word in overrides:
        _apply_override(values, origins, word)
    return _validate(values, origins, str(path))


def parse_words(words: Sequence[str]) -> dict[str, Any]:
    """`key=value` words, values read as YAML; keys stay dotted.

    Raises:
        ConfigError: a word is not of this form.
    """
    return dict(map(_parse_word, words))


def config_from_mapping(values: Mapping[str, Any], where: str = "configuration") -> Config:
    """Check plain data (a run's `config.json`, a test's dict) as `load_config` does.

    Raises:
        ConfigError: one line for each problem, beginning with `where`.
    """
    return _validate(dict(values), {}, where)


def dump_config(config: Config) -> str:
    """The resolved configuration as JSON: every key, defaults too. `load_config` reads it back."""
    return json.dumps(config.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


def differing_keys(before: Config, after: Config) -> dict[str, tuple[Any, Any]]:
    """The dotted keys in which two configurations differ, with both values; a missing key counts as None.

    For `--resume`: restored state never overrides the new configuration, and people are told the differences.
    """
    old, new = (dict(flatten(config.model_dump(mode="json"))) for config in (before, after))
    return {
        key: (old.get(key), new.get(key)) for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)
    }


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings as `(dotted.key, value)`; an empty mapping is a leaf."""
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{dotted}.")
        else:
            yield dotted, value


def _validate(values: dict[str, Any], origins: Mapping[str, str], where: str) -> Config:
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        lines = [f"{_origin(origins, key, where)}: {key}: {text}" for key, text in explain(error)]
        # `from None`: the cause repeats every line in pydantic's words, and ends up on people's screens.
        raise ConfigError("\n".join(lines)) from None


def _origin(origins: Mapping[str, str], key: str, default: str) -> str:
    """Where a key was given: the origin of the key, else of the nearest section above, else the file asked for."""
    parts = key.split(".")
    for end in range(len(parts), 0, -1):
        found = origins.get(".".join(parts[:end]))
        if found is not None:
            return found
    return default


# -- files


def _read_file(path: Path, seen: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    """The values of a file merged over those of its base, and the file that gave each leaf."""
    # Not `Path.resolve`, which raises where links lead in a circle.
    here = os.path.realpath(str(path).replace("\0", "?"))
    if here in seen:
        raise ConfigError(
            f"{path}: base: files inherit from each other in a circle ({' → '.join((*seen, here))}); remove one `base:`"
        )
    if len(seen) == _MAX_BASES:
        raise ConfigError(f"{path}: base: more than {_MAX_BASES} files one over the other; join some")
    values = _parse_file(path)
    base = values.pop("base", None)
    if base is not None and not isinstance(base, str):
        raise ConfigError(f"{path}: base: {base!r} is not a file name; write `base: other.yaml`")
    if base is not None and "\0" not in base and not (path.parent / base).exists():
        raise ConfigError(
            f"{path}: base: {path.parent / base}: no such file; a base is sought beside the file it is for"
        )
    inherited, origins = ({}, {}) if base is None else _read_file(path.parent / base, seen=(*seen, here))
    origins |= {key: str(path) for key, _ in flatten(values)}
    for name in _REMOVABLE:
        if isinstance(section := values.get(name), dict):
            _remove_nulls(section, inherited, f"{path}: {name}", name)
    return _merged(inherited, values), origins


def _remove_nulls(section: dict[str, Any], inherited: dict[str, Any], where: str, name: str) -> None:
    """Take names set to null out of a section, and out of the inherited one.

    Raises:
        ConfigError: one of them is not there to be removed: a typo, or `name:1` where `name: 1` was meant.
    """
    below = inherited.get(name)
    below = dict(below) if isinstance(below, dict) else {}
    for key in [key for key, value in section.items() if value is None]:
        if key not in below:
            raise ConfigError(f"{where}.{key}: null, but there is none to remove; {_without_value(key, below)}")
        del section[key], below[key]
    if below or name in inherited:
        inherited[name] = below


def _without_value(key: str, below: Mapping[str, Any]) -> str:
    name, colon, value = key.partition(":")
    if colon:
        return f"a blank is missing behind the colon: `{name}: {value}`"
    close = get_close_matches(key, below, n=1)
    return f"did you mean {close[0]}?" if close else "give it a value, or leave it out"


def _parse_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)  # no more: the path may be that of a device
    except FileNotFoundError:
        siblings = [str(file) for file in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        close = get_close_matches(str(path), siblings, n=1)
        advice = f"did you mean {close[0]}?" if close else f"files there: {', '.join(sorted(siblings)[:9]) or 'none'}"
        raise ConfigError(f"{path}: no such file; {advice}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read: {reason}; check the path and its permissions") from None
    values = parse_yaml(decode_text(content, str(path)), str(path))
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds {_kind(values)}, not sections; begin with `run:` and `budget:`")
    return values


def _merged(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        inherited = merged.get(key)
        is_section = isinstance(inherited, dict) and isinstance(value, Mapping)
        merged[key] = _merged(inherited, value) if is_section else value  # type: ignore[arg-type]
    return merged


# -- overrides


def _parse_word(word: str) -> tuple[str, Any]:
    key, equals, text = word.partition("=")
    key = key.strip()
    if not equals or not key or not all(key.split(".")):
        raise ConfigError(f"{COMMAND_LINE}: {word!r} is not key=value; write for example `stop.policy_versions=50`")
    return key, parse_yaml(text, f"{COMMAND_LINE}: {key}")


def _apply_override(values: dict[str, Any], origins: dict[str, str], word: str) -> None:
    key, value = _parse_word(word)
    *above, last = key.split(".")
    if value is None and len(above) == 1 and above[0] in _REMOVABLE:
        _remove_nulls({last: None}, values, f"{COMMAND_LINE}: {above[0]}", above[0])
        return
    section = values
    for depth, name in enumerate(above):
        inner = section.setdefault(name, {})
        if not isinstance(inner, dict):
            dotted = ".".join(above[: depth + 1])
            raise ConfigError(f"{COMMAND_LINE}: {key}: {dotted} is a value, not a section; set `{dotted}=…` itself")
        # Copied on the way down, so that a mapping shared through a YAML anchor changes here alone.
        section[name] = section = dict(inner)
    if not above and last in _REMOVABLE and isinstance(value, dict):
        _remove_nulls(value, {}, f"{COMMAND_LINE}: {last}", last)
    section[last] = value
    origins[key] = COMMAND_LINE
    if isinstance(value, Mapping):
        origins |= {dotted: COMMAND_LINE for dotted, _ in flatten(value, f"{key}.")}


def _kind(value: Any) -> str:
    kinds = {type(None): "nothing", list: "a list", str: "text", bool: "true or false"}
    return kinds.get(type(value), "a number")
