"""From configuration to verifier: names, plugins, files.

Owns: finding the class, building it, and its `version`. Does not own: scoring.

A verifier is named by one of: a registered name (`math`); an entry point of the group `ring_async.verifiers`;
`package.module:Class`; `path/to/file.py:Class`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

import ring_async.sandbox
from ring_async.config.schema import VerifierSection
from ring_async.errors import ConfigError
from ring_async.verifiers.base import Verifier

ENTRY_POINT_GROUP = "ring_async.verifiers"

REGISTERED: Mapping[str, str] = {
    "all_of": "ring_async.verifiers.combine.weighted_sum:AllOf",
    "code": "ring_async.verifiers.rules.code.verifier:CodeVerifier",
    "gate": "ring_async.verifiers.combine.gate:Gate",
    "instruction": "ring_async.verifiers.rules.instructions.verifier:InstructionVerifier",
    "judge": "ring_async.verifiers.models.judge:JudgeVerifier",
    "length_corrected": "ring_async.verifiers.combine.length_bias:LengthCorrected",
    "math": "ring_async.verifiers.rules.math:MathVerifier",
    "reasoning_gym": "ring_async.verifiers.rules.logic.verifier:LogicVerifier",
    "reward_model": "ring_async.verifiers.models.reward_model:RewardModelVerifier",
    "stem": "ring_async.verifiers.rules.stem:StemVerifier",
    "weighted_sum": "ring_async.verifiers.combine.weighted_sum:WeightedSum",
}


def registered_names() -> tuple[str, ...]:
    """All names that `use` takes here: the built-in ones and installed plugins."""
    plugins = {point.name for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)}
    return tuple(sorted(plugins | set(REGISTERED)))


def make_verifier(name: str, section: VerifierSection, *, num_workers: int = 1) -> Verifier:
    """Build the verifier that `verifiers.<name>` describes, with worker processes where its isolation asks for them.

    Args:
        name: its key under `verifiers`.
        section: what to load and its options.
        num_workers: worker processes of an isolated verifier (`reward.num_workers`).

    Raises:
        ConfigError: it cannot be loaded or does not take these options; says where and what to do.
    """
    verifier = load_verifier(name, section, num_workers=num_workers)
    isolation: Any = getattr(verifier, "isolation", "thread")
    if isolation == "thread":
        return verifier
    from ring_async.verifiers.isolation.isolated import IsolatedVerifier

    return IsolatedVerifier(verifier, section, isolation, num_workers=num_workers)


def load_verifier(name: str, section: VerifierSection, *, num_workers: int = 1) -> Verifier:
    """Build the verifier itself, to run in this process whatever its isolation.

    Raises:
        ConfigError: as `make_verifier`.
    """
    where = f"verifiers.{name}"
    verifier_class, content = _load_class(where, section.use)
    options = dict(section.options)
    if "num_workers" in inspect.signature(verifier_class).parameters:
        options.setdefault("num_workers", num_workers)
    try:
        if hasattr(verifier_class, "from_options"):
            verifier = verifier_class.from_options(section.options, _make_inner(where, num_workers))
        else:
            verifier = verifier_class(**options)
    except TypeError as error:
        takes = inspect.signature(verifier_class)
        raise ConfigError(f"{where}.options: {section.use} takes {takes}; {error}") from error
    except ValueError as error:
        raise ConfigError(f"{where}.options: {error}") from error
    for method in ("score", "golden_cases", "close"):
        if not callable(getattr(verifier, method, None)):
            raise ConfigError(f"{where}.use: {section.use} has no method {method}(); see docs/verifiers.md")
    isolation = getattr(verifier, "isolation", "thread")
    if isolation not in ("thread", "process", "guarded"):
        raise ConfigError(f"{where}.use: isolation {isolation!r} is none of thread, process, guarded")
    verifier.name = name
    verifier.version = _version(verifier_class, content, section)
    return verifier  # type: ignore[no-any-return]


def _make_inner(where: str, num_workers: int) -> Any:
    def make(name: str, description: Mapping[str, Any]) -> Verifier:
        try:
            section = VerifierSection.model_validate(description)
        except ValidationError as error:
            raise ConfigError(f"{where}.options: {name}: {error}") from error
        return make_verifier(name, section, num_workers=num_workers)

    return make


def _load_class(where: str, use: str) -> tuple[Any, bytes]:
    """The class and the bytes of the file that defines it."""
    target = REGISTERED.get(use)
    if target is None:
        for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
            if point.name == use:
                target = point.value
    target = target or use
    place, _, class_name = target.rpartition(":")
    if not place:
        raise ConfigError(
            f"{where}.use: nothing is registered as {use!r}; give package.module:Class, path/to/file.py:Class, or one "
            f"of {', '.join(registered_names())}"
        )
    module = _load_file(where, Path(place)) if place.endswith(".py") else _load_module(where, place)
    verifier_class = getattr(module, class_name, None)
    if not inspect.isclass(verifier_class):
        raise ConfigError(f"{where}.use: {place} has no class {class_name!r}")
    file = inspect.getsourcefile(verifier_class)
    return verifier_class, Path(file).read_bytes() if file else b""


def _load_module(where: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"{where}.use: cannot import {name}: {error}") from error


def _load_file(where: str, path: Path) -> ModuleType:
    """Import a file afresh under a name made of its content, so that two versions live side by side."""
    if not path.is_file():
        raise ConfigError(f"{where}.use: no file {path.absolute()}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    module_name = f"ring_async_plugin_{digest}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{where}.use: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise ConfigError(f"{where}.use: {path} fails on import: {type(error).__name__}: {error}") from error
    return module


def _version(verifier_class: Any, content: bytes, section: VerifierSection) -> str:
    """12 hexadecimal digits over the defining file, the settings, and the packages it leans on.

    A built-in verifier also leans on its neighbours here and on the sandbox, so all of both rooms count for it.
    """
    digest = hashlib.sha256(content)
    digest.update(verifier_class.__qualname__.encode())
    digest.update(json.dumps(section.options, sort_keys=True, default=str).encode())
    if verifier_class.__module__.startswith("ring_async."):
        for room in (Path(__file__).parent, Path(ring_async.sandbox.__file__).parent):
            for path in sorted(room.rglob("*.py")):
                digest.update(path.read_bytes())
    for distribution in getattr(verifier_class, "distributions", ()):
        try:
            digest.update(f"{distribution}={importlib.metadata.version(distribution)}".encode())
        except importlib.metadata.PackageNotFoundError:
            digest.update(f"{distribution}=absent".encode())
    return digest.hexdigest()[:12]
