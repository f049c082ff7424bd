"""A small value on disk with a checksum over itself and its key.

    xxh3-64 of key and data · data

Owns: this format. `checked_value` does the same for values that hold arrays.
Invariant: a value that was changed on disk, or lies under another key, is found when it is read.
"""

from __future__ import annotations

from typing import Final

import xxhash

SEAL_BYTES: Final = 8


def seal(key: bytes, data: bytes) -> bytes:
    """The value to store under `key`."""
    return xxhash.xxh3_64_digest(key + data) + data


def unseal(key: bytes, value: bytes | memoryview) -> bytes | None:
    """The data of a stored value; None if it is damaged."""
    raw = bytes(value)
    data = raw[SEAL_BYTES:]
    return data if raw[:SEAL_BYTES] == xxhash.xxh3_64_digest(key + data) else None
