"""`ring-async init`: a configuration to start from.

Owns: the text. Its keys, notes and defaults come from the schema, so that the text is complete and true.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ring_async.cli.options import out
from ring_async.config.load import load_config
from ring_async.config.schema import Config
from ring_async.errors import ConfigError

_HEAD = """\
# A run of ring-async. Start it:   ring-async up {name}
# Any key can be given there too:  ring-async up {name} stop.policy_versions=20
# Check it without starting:       ring-async check {name}
# Every key is here. Those behind '# ' have their defaults; take it away (and a section's own) to change one.

"""
_GIVEN: dict[str, dict[str, Any]] = {
    "stop": {"policy_versions": 60},
    "model": {"path": "builtin:tiny"},
    "budget": {"token_budget": 4096},
    "rollout": {"group_size": 8, "max_tokens": 56},
    "learner": {"token_capacity": 512, "learning_rate": 1.5e-4},
    "correction": {"rule": "icepop"},
}
_PROMPTS = """\
sources:  # where prompts come from; look at them: ring-async data inspect {name}
  chain_sum:
    kind: reasoning_gym  # or jsonl (path: …), instruction
    task: chain_sum
    options: {{min_terms: 3, max_terms: 4, min_digits: 1, max_digits: 2}}
    verifier: logic

mixture: {{chain_sum: 1}}  # share of completed tokens of each source

verifiers:
  logic: {{use: reasoning_gym}}  # or package.module:Class, or path/to/file.py:Class

"""


def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("ring-async.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Write a commented configuration to start from: it runs as it is, and lists every key.

    [bold]Examples[/bold]

      ring-async init
      ring-async init experiments/first.yaml && ring-async up experiments/first.yaml
    """
    if path.exists() and not force:
        raise ConfigError(f"{path}: exists; choose another name, or write over it with --force")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(starting_text(path))
    load_config(path)
    out.print(f"wrote {path}; start it with: ring-async up {path}", soft_wrap=True, highlight=False)


def starting_text(path: Path) -> str:
    """The text of the new file; `path` gives the run's name and appears in the examples."""
    run = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in path.stem)[:64]
    run = run if run[:1].isalnum() and run.isascii() else "run"
    parts = [_HEAD.format(name=path)]
    for name, field in Config.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            parts.append(_section(name, kind, {"name": run} if name == "run" else _GIVEN.get(name, {})))
        elif name == "sources":
            parts.append(_PROMPTS.format(name=path))
        elif name not in {"mixture", "verifiers"}:
            parts.append(f"# {_key(name, field, field.default)}\n\n")
    return "".join(parts)


def _section(name: str, kind: type[BaseModel], given: dict[str, Any]) -> str:
    """A section with all its keys; if no key of it is given, the whole section is a comment."""
    lines = [f"{name}:" if given else f"# {name}:"]
    for key, field in kind.model_fields.items():
        if key in given:
            lines.append("  " + _key(key, field, given[key]))
        else:
            default = _key(key, field, field.get_default(call_default_factory=True))
            lines.append(f"  # {default}" if given else f"#   {default}")
    return "\n".join(lines) + "\n\n"


def _key(name: str, field: FieldInfo, value: Any) -> str:
    value = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    note = " ".join(note for note in (field.description or "", _choices(field.annotation)) if note)
    return f"{name}: {json.dumps(value, ensure_ascii=False)}" + (f"  # {note}" if note else "")


def _choices(kind: Any) -> str:
    words = [word for word in get_args(kind) if isinstance(word, str)]
    return f"One of {', '.join(words)}." if words else ""
