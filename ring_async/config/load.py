"""From a YAML file and `key=value` words to a checked `Config`, and back to JSON.

Owns: reading, `base:` inheritance, overrides, and the sentences that people read about errors.
Does not own: what is allowed (`schema`).
Invariants: a bad configuration raises `ConfigError` and nothing else, one line for each problem, each line naming where
the value came from, its dotted key, what is wrong and what to do. Imports neither torch, ray, zmq nor asyncio.

    base: local.yaml            # optional: take that file first, then this one over it; relative to this file
    budget: {token_budget: 8192}
    mixture: {letters: null}    # null removes an inherited source, weight or verifier
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ring_async.config.explain import explain
from ring_async.config.schema import Config
from ring_async.errors import ConfigError

COMMAND_LINE = "command line"
"""What an error line names as the place of a value given as `key=value`."""

_REMOVABLE = ("sources", "mixture", "verifiers")


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
    for name in _REMOVABLE:
        section = values.get(name)
        if isinstance(section, dict):
            values[name] = {key: value for key, value in section.items() if value is not None}
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


def _read_file(path: Path, seen: tuple[Path, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    """The values of a file merged over those of its base, and the file that gave each leaf."""
    if path.resolve() in seen:
        chain = " → ".join(str(file) for file in (*seen, path.resolve()))
        raise ConfigError(f"{path}: base: files inherit from each other in a circle ({chain}); remove one `base:`")
    values = _parse_file(path)
    base = values.pop("base", None)
    if base is None:
        return values, {key: str(path) for key, _ in flatten(values)}
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base: {base!r} is not a file name; write `base: other.yaml`")
    inherited, origins = _read_file(path.parent / base, seen=(*seen, path.resolve()))
    origins |= {key: str(path) for key, _ in flatten(values)}
    return _merged(inherited, values), origins


def _parse_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        siblings = [str(file) for file in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        close = get_close_matches(str(path), siblings, n=1)
        advice = f"did you mean {close[0]}?" if close else f"files there: {', '.join(sorted(siblings)) or 'none'}"
        raise ConfigError(f"{path}: no such file; {advice}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}; check the path and its permissions") from None
    values = _parse_yaml(text, str(path))
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
    return key, _parse_yaml(text, f"{COMMAND_LINE}: {key}")


def _apply_override(values: dict[str, Any], origins: dict[str, str], word: str) -> None:
    key, value = _parse_word(word)
    *above, last = key.split(".")
    section = values
    for depth, name in enumerate(above):
        inner = section.setdefault(name, {})
        if not isinstance(inner, dict):
            dotted = ".".join(above[: depth + 1])
            raise ConfigError(f"{COMMAND_LINE}: {key}: {dotted} is a value, not a section; set `{dotted}=…` itself")
        # Copied on the way down, so that a mapping shared through a YAML anchor changes here alone.
        section[name] = section = dict(inner)
    section[last] = value
    origins[key] = COMMAND_LINE
    if isinstance(value, Mapping):
        origins |= {dotted: COMMAND_LINE for dotted, _ in flatten(value, f"{key}.")}


# -- YAML


class _Loader(yaml.SafeLoader):
    """A YAML loader that refuses a key given twice and reads `1e-6` as a number.

    PyYAML keeps the last of two equal keys silently, and follows YAML 1.1, where a float needs a dot.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value!r} is given twice", key_node.start_mark
                )
            if isinstance(key_node, yaml.ScalarNode):
                seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark is not None and "\n" in text else ""
        raise ConfigError(
            f"{where}{line}: not YAML: {error.problem or error.context}; check quotes and indents"
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{where}: not YAML: {str(error).splitlines()[0]}; check quotes and indents") from None


def _kind(value: Any) -> str:
    return {type(None): "nothing", list: "a list", str: "text"}.get(type(value), f"a {type(value).__name__}")
