"""From the bytes of a file, or a word of the command line, to plain data: mappings with text keys, lists, scalars.

Owns: encodings, the dialect of YAML, its bounds. Does not own keys and what they mean (`schema`), nor files (`load`).

Differs from PyYAML's `safe_load`, which follows YAML 1.1 where people do not expect it, and Python where it may crash:
* `1e-6` is a number; `2024-01-01` and `1:30` are text, as in YAML 1.2;
* refused, with the line: a key given twice, a key that is no text (`no`, `1`), a number with a leading zero (octal for
  some readers), a tag, an anchor that holds itself, nesting past `MAX_DEPTH`, more than `MAX_NODES` values with anchors
  written out, half a surrogate pair, several documents.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from ring_async.errors import ConfigError

MAX_BYTES = 1 << 20
"""A configuration is written by people; a larger file is something else."""

MAX_DEPTH = 40
MAX_NODES = 100_000

_PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("bool", "float", "int", "map", "merge", "null", "seq", "str")}
_KEY_KINDS = {"bool": "true or false", "float": "a number", "int": "a number", "null": "nothing"}
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def decode_text(content: bytes, where: str) -> str:
    """The text of a file: UTF-8, with or without a byte order mark, or UTF-16 with one.

    Raises:
        ConfigError: another encoding, a control character, or more than `MAX_BYTES`; the message names the line.
    """
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{where}: larger than {MAX_BYTES:,} bytes, no configuration; check the path")
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line, byte = content[: error.start].count(b"\n") + 1, content[error.start]
        raise ConfigError(
            f"{where}, line {line}: the byte 0x{byte:02x} is not {encoding.removesuffix('-sig').upper()}; save the "
            "file as UTF-8 (from Latin-1: `iconv -f latin1 -t utf-8`)"
        ) from None
    if found := _CONTROL.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise ConfigError(
            f"{where}, line {line}: holds the control character U+{ord(found.group()):04X}; remove it, or save the "
            "file as UTF-8"
        )
    return text


def parse_yaml(text: str, where: str) -> Any:
    """The plain data that a YAML text describes; None for an empty one.

    Raises:
        ConfigError: one line that begins with `where`, names the line of a text of several, the fault and the remedy.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except _RefusedError as error:
        raise ConfigError(f"{where}{_line(error.mark, text)}: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = _line(error.problem_mark or error.context_mark, text)
        raise ConfigError(f"{where}{line}: not YAML: {_problem(error)}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not YAML: {str(error).splitlines()[0]}; check quotes and indents") from None


def _line(mark: Any, text: str) -> str:
    return f", line {mark.line + 1}" if mark is not None and "\n" in text else ""


def _problem(error: yaml.MarkedYAMLError) -> str:
    problem = str(error.problem or error.context)
    if "'\\t'" in problem:
        return f"{problem}; indent with blanks, not tabs"
    if "another document" in problem:
        return "a second document begins here; keep one, without `---` behind it"
    return f"{problem}; check quotes and indents"


class _RefusedError(Exception):
    """YAML that is valid and cannot be meant; carries its place."""

    def __init__(self, text: str, mark: Any) -> None:
        super().__init__(text)
        self.mark = mark


class _Loader(yaml.SafeLoader):
    """The dialect that the module describes."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._num_nodes = 0
        self._sizes: dict[int, int] = {}
        """Identity of a composed node → values in it, anchors written out."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        before = self._num_nodes
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _RefusedError(f"nested more than {MAX_DEPTH} levels deep; no key lies that deep", event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent):
            size = self._sizes.get(id(node))
            if size is None:
                raise _RefusedError(
                    f"*{event.anchor} stands within its own anchor; write the value out", event.start_mark
                )
            self._num_nodes += size
        else:
            self._num_nodes += 1
            self._sizes[id(node)] = self._num_nodes - before
        if self._num_nodes > MAX_NODES:
            raise _RefusedError(
                f"more than {MAX_NODES:,} values, anchors written out; no configuration", event.start_mark
            )
        if node is not None and node.tag not in _PLAIN_TAGS:
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise _RefusedError(f"not YAML of plain data: the tag {tag}; write the value without it", node.start_mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            kind = key.tag.rpartition(":")[2]
            if not isinstance(key, yaml.ScalarNode):
                raise _RefusedError("a key is a list or a mapping; keys are text", key.start_mark)
            if kind in _KEY_KINDS:
                said = f"the key {key.value} is read as {_KEY_KINDS[kind]}" if key.value else "a key is empty"
                raise _RefusedError(f"{said}; write it in quotes: '{key.value}'", key.start_mark)
            if key.value in seen:
                raise _RefusedError(f"not YAML: the key {key.value!r} is given twice; remove one", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        if not isinstance(value, str) or value.isascii():
            return value
        try:  # JSON writes a character beyond U+FFFF as two escapes: a pair of surrogates
            return value.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise _RefusedError(
                f"{value!r} holds half a surrogate pair; write the character itself", node.start_mark
            ) from None

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if _LEADING_ZERO.fullmatch(node.value):
            raise _RefusedError(
                f"{node.value} begins with a zero, which makes it octal for some readers; write it without, or in "
                "quotes if it is a name",
                node.start_mark,
            )
        try:
            return super().construct_yaml_int(node)
        except ValueError:
            raise _RefusedError(
                f"{_cut(node.value)} is no whole number that can be meant; write another, or quote it", node.start_mark
            ) from None

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        try:
            return super().construct_yaml_float(node)
        except ValueError:
            raise _RefusedError(f"{_cut(node.value)} is no number; write one, or quote it", node.start_mark) from None

    def construct_yaml_bool(self, node: yaml.ScalarNode) -> bool:
        try:
            return super().construct_yaml_bool(node)
        except KeyError:
            raise _RefusedError(
                f"{_cut(node.value)} is not true or false; write one of them", node.start_mark
            ) from None


def _cut(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:20]}… ({len(text)} characters)"


_INT = r"[-+]?0b[0-1_]+|[-+]?(?:0|[1-9][0-9_]*)|[-+]?0[0-9_]+|[-+]?0x[0-9a-fA-F_]+"
_FLOAT = r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
_NAMED_FLOAT = r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"

_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] in ("bool", "merge", "null")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(f"^(?:{_INT})$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(f"^(?:{_FLOAT}|{_NAMED_FLOAT})$"), list("-+.0123456789")
)
for _name in ("int", "float", "bool"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_name}", getattr(_Loader, f"construct_yaml_{_name}"))
