"""A look into an LMDB folder from a process of its own, because a damaged one can end the process that reads it.

Owns: the walk over all tables (`python -m ring_async.storage.store_probe …`), and `check_store`, which runs it. Changes
nothing.
Invariants: a file that was cut (SIGBUS), a page that points nowhere (SIGSEGV), and a value whose checksum does not hold
all become one sentence; a store that passes can be read by the caller without such a surprise.

LMDB maps its file: reading behind the end of a file that was cut is a SIGBUS, and a changed page number is followed
wherever it points. Neither can be caught in the process itself. The walk reads keys, checksums of small values, and the
ends of large ones; `is_thorough` reads every page.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Final

import lmdb

from ring_async.errors import StorageError
from ring_async.storage.sealed import SEAL_BYTES, unseal

_DAMAGED: Final = 3
"""Exit status of the walk where it found damage; its last line says what."""
_PAGE_BYTES: Final = 4096
_TIMEOUT_S: Final = 600.0


def check_store(path: Path, *, sealed: Collection[str], others: Collection[str], is_thorough: bool = False) -> None:
    """Walk over a store that no longer, or not yet, is open in this process.

    Args:
        path: folder of the LMDB environment.
        sealed: names of tables whose values are sealed.
        others: names of the other tables. Tables may be missing; there may be no further ones.
        is_thorough: whether to read every page of large values, too.

    Raises:
        StorageError: the store is damaged; the sentence says where.
    """
    words = [str(path), ",".join(sealed), ",".join(others), *(["thorough"] if is_thorough else [])]
    command = [sys.executable, "-m", "ring_async.storage.store_probe", *words]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        walk = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise _damaged(path, f"reading it did not end in {_TIMEOUT_S:.0f} s") from None
    if walk.returncode < 0:
        raise _damaged(path, f"reading it ends in {signal.Signals(-walk.returncode).name}: the file was cut or changed")
    if walk.returncode:
        said = (walk.stdout if walk.returncode == _DAMAGED else walk.stderr).strip().splitlines()
        raise _damaged(path, said[-1] if said else f"reading it ends with status {walk.returncode}")


def find_damage(path: Path, sealed: Collection[str], others: Collection[str], *, is_thorough: bool) -> str:
    """What is wrong with a store, or an empty string. May end the process: see the module."""
    names = {name.encode(): name in sealed for name in (*sealed, *others)}
    environment = lmdb.open(str(path), max_dbs=len(names), readonly=True, create=False)
    with environment.begin(buffers=True) as transaction:
        with transaction.cursor() as cursor:
            tables = [bytes(key) for key in cursor.iternext(values=False)]
        if len(tables) != transaction.stat(environment.open_db(None, txn=transaction))["entries"]:
            return "its list of tables is damaged"
        if b"meta" in tables:
            value = transaction.get(b"format", db=environment.open_db(b"meta", txn=transaction, create=False))
            if value is not None and len(value) <= SEAL_BYTES:
                return ""  # of a format before values were sealed, which the caller refuses
        for table in tables:
            if table not in names:
                return f"it has a table {table!r} that this version does not know"
            handle = environment.open_db(table, txn=transaction, create=False)
            num_found, before = 0, b""
            for raw_key, value in transaction.cursor(handle):
                key = bytes(raw_key)
                if key < before:
                    return f"table {table.decode()}: keys are out of order at {key!r}"
                num_found, before = num_found + 1, key
                if names[table]:
                    if unseal(key, value) is None:
                        return f"table {table.decode()}: the checksum of {key!r} does not hold"
                else:
                    bytes(value[:: _PAGE_BYTES if is_thorough else max(1, len(value) - 1)])
            if num_found != transaction.stat(handle)["entries"]:
                return f"table {table.decode()}: entries are missing"
    return ""


def _damaged(path: Path, how: str) -> StorageError:
    return StorageError(
        f"{path}: the replay store is damaged on disk: {how}. Put back a copy of the run's folder, or start a new run"
    )


def _main(path: str, sealed: str, others: str, *options: str) -> int:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is an expected answer here
    try:
        damage = find_damage(Path(path), sealed.split(","), others.split(","), is_thorough="thorough" in options)
    except lmdb.Error as error:
        damage = str(error)
    if damage:
        sys.stdout.write(damage)
        return _DAMAGED
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
