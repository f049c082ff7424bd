"""Deltas: the changed bits between two versions, in the smallest of several lossless encodings for each bucket.

Owns: the encodings. Does not own: the choice of a receiver's base version, or sending.

A bucket is read as 16-bit words: the values of bf16, and the halves of fp32, whose upper halves (sign, exponent,
leading mantissa) seldom change in an optimizer step at a small learning rate while the lower halves almost always do.

    same           nothing
    gaps           uint16 `[n]` distances between changed words, then the n words
    bitmap         one bit per word, then the changed words
    halves+gaps    all even words (fp32's lower halves), then the odd ones as gaps; likewise halves+bitmap, halves+same
    full           the bytes themselves

Where more than a quarter of the words changed, only `halves` and `full` are tried: picking words out one by one would
cost more time than it saves bytes.

Invariant: `apply_delta(base, *encode_delta(base, new))` is `new`, bit for bit, for any bytes (NaN payloads, −0.0).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ring_async.types import UInt8

UInt16 = npt.NDArray[np.uint16]

_WORD_BYTES = 2
_MAX_GAP = 65535
_SPARSE = 0.25
"""Up to this share of changed words, each changed word is written by itself."""


def encode_delta(base: UInt8, new: UInt8) -> tuple[str, UInt8]:
    """Encode a bucket against the same bucket of another version.

    Args:
        base: uint8 `[n]`, n a multiple of 4.
        new: uint8 `[n]`.

    Returns:
        The encoding's name and its bytes, uint8; for `full` a view of `new`.
    """
    base_words = base.view(np.uint16)
    new_words = new.view(np.uint16)
    sparse = _encode_sparse(base_words, new_words)
    if sparse is None:
        upper = _encode_sparse(base_words[1::2], new_words[1::2])
        if upper is not None:
            kind, payload = upper
            sparse = f"halves+{kind}", np.concatenate([new_words[::2].copy().view(np.uint8), payload])
    if sparse is None or sparse[1].size >= new.size:
        return "full", new
    return sparse


def _encode_sparse(base: UInt16, new: UInt16) -> tuple[str, UInt8] | None:
    """Encode as the smaller of `gaps` and `bitmap`; None if too many words changed."""
    is_changed = base != new
    num_changed = int(np.count_nonzero(is_changed))
    if num_changed == 0:
        return "same", np.empty(0, dtype=np.uint8)
    if num_changed > _SPARSE * new.size:
        return None
    if num_changed * 16 > new.size:
        return "bitmap", np.concatenate([np.packbits(is_changed), new[is_changed].view(np.uint8)])
    # Where the distance between changed words exceeds 16 bits, unchanged words between them are listed, too.
    is_changed[_MAX_GAP - 1 :: _MAX_GAP] = True
    positions = np.flatnonzero(is_changed)
    gaps = np.diff(positions, prepend=-1).astype(np.uint16)
    return "gaps", np.concatenate([gaps.view(np.uint8), new[positions].view(np.uint8)])


def apply_delta(kind: str, payload: UInt8, out: UInt8) -> None:
    """Turn a bucket of the base into that of the new version, in place.

    Args:
        kind: as `encode_delta` returned it.
        payload: uint8, likewise.
        out: uint8 `[n]`, holds the base's bytes; the new version's afterwards.

    Raises:
        ValueError: the payload is not one of this kind for a bucket of this size.
    """
    words = out.view(np.uint16)
    if kind == "full":
        if payload.size != out.size:
            raise ValueError(f"delta full with {payload.size} bytes for a bucket of {out.size}")
        out[:] = payload
    elif kind.startswith("halves+"):
        num_bytes = out.size // 2
        if payload.size < num_bytes:
            raise ValueError(f"delta {kind} with {payload.size} bytes for a bucket of {out.size}")
        words[::2] = payload[:num_bytes].copy().view(np.uint16)
        _apply_sparse(kind.removeprefix("halves+"), payload[num_bytes:], words[1::2])
    else:
        _apply_sparse(kind, payload, words)


def _apply_sparse(kind: str, payload: UInt8, words: UInt16) -> None:
    match kind:
        case "same":
            if payload.size:
                raise ValueError(f"delta same with {payload.size} bytes")
        case "gaps":
            if payload.size % (2 * _WORD_BYTES):
                raise ValueError(f"delta gaps with {payload.size} bytes")
            gaps, values = np.split(payload.copy().view(np.uint16), 2)
            positions = np.cumsum(gaps, dtype=np.int64) - 1
            if positions.size and (positions[-1] >= words.size or not gaps.all()):
                raise ValueError("delta gaps leaves its bucket")
            words[positions] = values
        case "bitmap":
            bitmap_bytes = -(-words.size // 8)
            if payload.size < bitmap_bytes:
                raise ValueError(f"delta bitmap with {payload.size} bytes")
            is_changed = np.unpackbits(payload[:bitmap_bytes], count=words.size).view(np.bool_)
            value_bytes = payload[bitmap_bytes:].copy()
            if value_bytes.size != int(np.count_nonzero(is_changed)) * _WORD_BYTES:
                raise ValueError(f"delta bitmap with {value_bytes.size} bytes of values")
            words[is_changed] = value_bytes.view(np.uint16)
        case _:
            raise ValueError(f"unknown delta kind {kind!r}")
