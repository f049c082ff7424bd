"""The request classes of published SGLang releases, read from their wheels on a CPU.

Owns: the download (by pip, pinned, into `build/sglang_wheels`), the loading of the classes without SGLang's heavy
imports, and the check of one request as that release's server would see it, plus the fields it would silently drop.
Run as a program it prints the problems of the bodies on its standard input: releases cannot share one process.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import fcntl
import importlib
import importlib.abc
import importlib.machinery
import json
import os
import subprocess
import sys
import tempfile
import types
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / "build" / "sglang_wheels"
RELEASES = os.environ.get("SGLANG_RELEASES", "0.5.17 0.5.23").split()
"""Pinned; `make check-sglang` asks for the `newest` instead."""
DOWNLOAD_DEADLINE_S = 120

_PACKAGES = (
    "sglang",
    "sglang.srt",
    "sglang.srt.managers",
    "sglang.srt.utils",
    "sglang.srt.lora",
    "sglang.srt.sampling",
    "sglang.srt.multimodal",
    "sglang.srt.beam_search",
    "sglang.srt.constrained",
    "sglang.srt.layers",
)
_HEAVY = (
    "sglang.srt.managers.schedule_batch",
    "sglang.srt.multimodal.mm_utils",
    "sglang.srt.utils.common",
    "sglang.srt.lora.lora_registry",
    "sglang.srt.utils.aio_rwlock",
)
"""Replaced by stubs: they hold no request class."""


class NoWheelError(Exception):
    """The wheel cannot be had here; the message says why."""


def unpacked(version: str) -> Path:
    """The folder of an unpacked wheel, downloaded once.

    Raises:
        NoWheelError: pip could not fetch it.
    """
    root = CACHE / version
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "done").exists():
            _download(version, root)
            (root / "done").touch()
    return root


def exact(release: str) -> str:
    """The number of a release; `newest` becomes the one that pip finds now.

    Raises:
        NoWheelError: pip could not fetch it.
    """
    if release != "newest":
        return release
    with tempfile.TemporaryDirectory() as folder:
        _fetch("sglang", Path(folder))
        (wheel,) = Path(folder).glob("*.whl")
        return wheel.name.split("-")[1]


def _fetch(requirement: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    target = ["--only-binary=:all:", "--python-version", "3.12", "--platform", "manylinux_2_34_x86_64"]
    try:
        subprocess.run(
            [*command, *target, requirement],
            check=True,
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_DEADLINE_S,
        )
    except subprocess.CalledProcessError as error:
        raise NoWheelError(f"pip cannot fetch {requirement}: {error.stderr.strip()[-300:]}") from error
    except subprocess.TimeoutExpired as error:
        raise NoWheelError(f"pip did not fetch {requirement} within {DOWNLOAD_DEADLINE_S} s") from error


def _download(version: str, root: Path) -> None:
    _fetch(f"sglang=={version}", root)
    (wheel,) = root.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(root, [name for name in archive.namelist() if name.endswith(".py")])
    wheel.unlink()


def problems_of(version: str, bodies: Sequence[tuple[str, dict[str, Any]]]) -> list[list[str]]:
    """For each (path, body): what that release would refuse or drop. A process of its own reads the classes.

    Raises:
        NoWheelError: the wheel cannot be had here.
    """
    reply = subprocess.run(
        [sys.executable, __file__, str(unpacked(version))],
        input=json.dumps(bodies),
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return json.loads(reply.stdout)


def server_flags_of(version: str) -> set[str]:
    """Names of the server's arguments: fields of its `ServerArgs` and options of its parser."""
    root = unpacked(version) / "sglang" / "srt"
    names: set[str] = set()
    for path in [root / "server_args.py", *sorted((root / "arg_groups").rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("--"):
                names.add(node.value.removeprefix("--").replace("-", "_"))
    return names


def defines(version: str, module: str, name: str) -> bool:
    """Whether a module of the release defines `Class.method`."""
    cls, method = name.split(".")
    tree = ast.parse((unpacked(version) / (module.replace(".", "/") + ".py")).read_text())
    return any(
        isinstance(node, ast.ClassDef)
        and node.name == cls
        and any(isinstance(one, ast.FunctionDef) and one.name == method for one in node.body)
        for node in tree.body
    )


# -- within the process of one release


class _Stub(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "Modality":
            return enum.Enum("Modality", "IMAGE VIDEO AUDIO")
        return Any if name[0].isupper() else (lambda *_, **__: None)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Real submodules, but no package's `__init__`, and stubs for the heavy ones."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname in _HEAVY or fullname in _PACKAGES:
            return importlib.machinery.ModuleSpec(fullname, self, is_package=fullname in _PACKAGES)
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        module = _Stub(spec.name)
        if spec.name in _PACKAGES:
            module.__path__ = [str(self.root.joinpath(*spec.name.split(".")))]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def routes_of(root: Path) -> dict[str, str | None]:
    """Request class of each path, None where it takes no body."""
    found: dict[str, str | None] = {}
    for path in ("http_server.py", "v1_loads.py"):
        for node in ast.walk(ast.parse((root / "sglang/srt/entrypoints" / path).read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            annotations = [ast.unparse(one.annotation) for one in node.args.args if one.annotation]
            bodies = [
                text.removeprefix("Annotated[").split(",")[0].removeprefix("Optional[").rstrip("]")
                for text in annotations
                if "Req" in text and text != "Request"
            ]
            for one in node.decorator_list:
                if isinstance(one, ast.Call) and one.args and isinstance(one.args[0], ast.Constant):
                    found[str(one.args[0].value)] = bodies[0] if bodies else None
    return found


def _check(root: Path, bodies: Sequence[tuple[str, dict[str, Any]]]) -> list[list[str]]:
    from pydantic import TypeAdapter, ValidationError

    sys.meta_path.insert(0, _Finder(root))
    structs = importlib.import_module("sglang.srt.managers.io_struct")
    sampling = importlib.import_module("sglang.srt.sampling.sampling_params").SamplingParams
    routes = routes_of(root)
    result = []
    for path, body in bodies:
        if path not in routes:
            result.append([f"no route {path}"])
            continue
        name = routes[path]
        if name is None:
            result.append([f"{path} takes no body"] if body else [])
            continue
        cls = getattr(structs, name)
        fields = {one.name for one in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else None
        known = fields if fields is not None else set(cls.__struct_fields__)
        problems = [f"{path}: field {one!r} would be dropped silently" for one in sorted(body.keys() - known)]
        try:
            request = TypeAdapter(cls).validate_python(body)
            if path == "/generate":
                request.normalize_batch_and_arguments()
                params = sampling(**body["sampling_params"])
                params.normalize(None)
                params.verify(49152)
                problems += _contract(root, body)
        except (ValidationError, TypeError, ValueError) as error:
            problems.append(f"{path}: {str(error)[:200]}")
        result.append(problems)
    return result


def _contract(root: Path, body: dict[str, Any]) -> list[str]:
    """Newer releases also judge the body by a generated schema."""
    path = root / "sglang/api/v1/api_types.py"
    if not path.exists():
        return []
    spec = importlib.util.spec_from_file_location("api_types", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["api_types"] = module
    spec.loader.exec_module(module)
    try:
        module.GenerateRequest.from_json_value(body)
    except module.JsonContractError as error:
        return [f"/generate: {error}"]
    return []


if __name__ == "__main__":
    import importlib.util

    print(json.dumps(_check(Path(sys.argv[1]), json.load(sys.stdin))))
