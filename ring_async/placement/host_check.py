"""The check of a host, run on each host before the first actor starts there.

Owns: the list of what a host of a cluster must have: this package, the model's folder, a place for the run's folder,
and what the engine needs where an actor with an engine runs. Does not own how the check gets to the host (`places`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Collection
from pathlib import Path

import ring_async
from ring_async.config.load import config_from_mapping
from ring_async.core.roster import ENGINE_ROLES, Role
from ring_async.engines.registry import engine_host_problems
from ring_async.errors import ConfigError
from ring_async.models import resolve_model_path
from ring_async.storage.run_dir import RunDir
from ring_async.transport.weights.registry import channel_host_problems


def fingerprint() -> str:
    """Digest of this package's source on this host."""
    digest = hashlib.sha256()
    root = Path(ring_async.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def host_problems(config: str, run_dir: str, working_dir: str, expected: str, roles: Collection[Role]) -> list[str]:
    """The problems that keep actors from running on this host, one line each.

    Args:
        config: of the run, as JSON.
        run_dir: of the run; created here, to prove that it can be.
        working_dir: the folder that relative paths start from, if this host has it.
        expected: `fingerprint` of the launcher's host.
        roles: that have a place on this host.
    """
    if fingerprint() != expected:
        return ["another version of ring-async is installed; install the same on every host"]
    problems = []
    resolved = config_from_mapping(json.loads(config))
    if not ENGINE_ROLES.isdisjoint(roles):
        problems += engine_host_problems(resolved)
    if not (ENGINE_ROLES | {Role.LEARNER}).isdisjoint(roles):
        problems += channel_host_problems(resolved)
    try:
        with contextlib.chdir(working_dir) if Path(working_dir).is_dir() else contextlib.nullcontext():
            resolve_model_path(resolved.model.path)
    except ConfigError as error:
        problems.append(str(error))
    try:
        RunDir(Path(run_dir)).create()
    except OSError as error:
        problems.append(f"{run_dir}: cannot be made: {error.strerror}; choose another run.dir")
    return problems
