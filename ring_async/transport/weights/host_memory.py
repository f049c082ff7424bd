"""A version's bytes in host memory: packing them from tensors, hashing them as they go by, checking them on arrival.

Shared by the channels whose buckets lie in host memory (`shm`, `zmq`). Owns no memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import xxhash

from ring_async.core.weights.plan import Layout, Manifest
from ring_async.errors import WeightsError
from ring_async.transport.weights.tensors import flatten
from ring_async.types import PolicyVersion, UInt8

_CHUNK_BYTES = 1 << 20
"""Copied, then hashed while still in the cache: hashing after the whole copy would read memory a second time."""


def pack(layout: Layout, tensors: Sequence[torch.Tensor], target: UInt8, num_threads: int) -> tuple[int, ...]:
    """Copy tensors to where the layout wants them, padding with zeros.

    Args:
        layout: of the version.
        tensors: in the layout's order, on any device.
        target: uint8, at least `layout.num_bytes`.
        num_threads: that copy and hash, a bucket each.

    Returns:
        xxh3_64 of every bucket, of the bytes as they lie in `target`.
    """
    flat = [flatten(tensor) for tensor in tensors]
    if any(tensor.is_cuda for tensor in flat):
        torch.cuda.current_stream().synchronize()  # The copying threads have streams of their own.
    arrays = [None if tensor.is_cuda else tensor.numpy() for tensor in flat]

    def pack_bucket(bucket: int) -> int:
        digest = xxhash.xxh3_64()
        for piece in layout.pieces(*layout.bucket_range(bucket)):
            for done in range(0, piece.num_bytes, _CHUNK_BYTES):
                size = min(_CHUNK_BYTES, piece.num_bytes - done)
                chunk = target[piece.start + done : piece.start + done + size]
                if piece.tensor is None:
                    chunk.fill(0)
                else:
                    first = piece.offset + done
                    array = arrays[piece.tensor]
                    if array is None:
                        torch.from_numpy(chunk).copy_(flat[piece.tensor][first : first + size])
                    else:
                        np.copyto(chunk, array[first : first + size])
                digest.update(chunk.data)
        return digest.intdigest()

    with ThreadPoolExecutor(num_threads, thread_name_prefix="weights-pack") as pool:
        return tuple(pool.map(pack_bucket, range(layout.num_buckets)))


def find_corrupt(manifest: Manifest, content: UInt8, num_threads: int = 1) -> list[int]:
    """Buckets whose bytes do not have the manifest's checksum.

    Args:
        manifest: of the version, with xxh3_64 checksums.
        content: uint8, at least `layout.num_bytes`.
        num_threads: that hash.
    """

    def is_corrupt(bucket: int) -> bool:
        start, end = manifest.layout.bucket_range(bucket)
        return xxhash.xxh3_64_intdigest(content[start:end].data) != manifest.checksums[bucket]

    buckets = range(manifest.layout.num_buckets)
    if num_threads == 1:
        return [bucket for bucket in buckets if is_corrupt(bucket)]
    with ThreadPoolExecutor(num_threads, thread_name_prefix="weights-verify") as pool:
        return [bucket for bucket, corrupt in zip(buckets, pool.map(is_corrupt, buckets), strict=True) if corrupt]


def verify(version: PolicyVersion, manifest: Manifest, content: UInt8, num_threads: int = 1) -> None:
    """Check every bucket.

    Raises:
        WeightsError: a bucket is corrupt.
    """
    corrupt = find_corrupt(manifest, content, num_threads)
    if corrupt:
        raise WeightsError(
            f"version {version}: {len(corrupt)} of {manifest.layout.num_buckets} buckets corrupt, first {corrupt[0]}"
        )
