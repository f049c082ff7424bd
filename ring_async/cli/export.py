"""`ring-async export`: a checkpoint as a Hugging Face directory.

Owns: which checkpoint is exported, and which of its files. A checkpoint is a Hugging Face directory with further files
for a resume; an export checks every byte, and leaves those files out.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from ring_async.cli.options import AsJson, Runs, out, short
from ring_async.errors import ConfigError, RunError
from ring_async.storage.run_dir import find_run


def export(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint's folder, a run's name (its newest), or `latest`.")],
    folder: Annotated[Path, typer.Argument(help="Where to write; must not exist, or be empty.", metavar="DIR")],
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Write a checkpoint as a Hugging Face directory: config, safetensors (float32), tokenizer.

    [bold]Examples[/bold]

      ring-async export latest models/trained
      ring-async export mine models/mine
      ring-async export runs/mine/checkpoints/0.40 models/version-40
    """
    from ring_async.training.checkpoint import MANIFEST, CheckpointStore
    from ring_async.training.hf.engine import STATE_FILE
    from ring_async.training.hf.optimizer import FILE as OPTIMIZER_FILE

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: exists and is not empty; name another folder")
    if (Path(checkpoint) / MANIFEST).is_file():
        found = CheckpointStore(Path(checkpoint).parent).read(Path(checkpoint))
    else:
        run_dir = find_run(runs, None if checkpoint == "latest" else checkpoint)
        newest = CheckpointStore(run_dir.checkpoints).newest()
        if newest is None:
            raise RunError(f"{run_dir.path}: no complete checkpoint yet; write one with: ring-async checkpoint")
        found = newest
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for path in sorted(path for path in found.folder.iterdir() if path.is_file()):
        if path.name not in {MANIFEST, STATE_FILE, OPTIMIZER_FILE}:
            shutil.copyfile(path, folder / path.name)
            files.append(path.name)
    if as_json:
        plain = {"folder": str(folder), "checkpoint": str(found.folder), "policy_version": str(found.policy_version)}
        out.print_plain(plain | {"files": files})
    else:
        out.print(f"wrote {short(folder)}: version {found.policy_version}, {len(files)} files", soft_wrap=True)
