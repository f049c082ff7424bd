"""A version's bytes in host memory: packing them from tensors, hashing them as they go by, checking them on arrival.

Shared by the channels whose buckets lie in host memory (`shm`, `zmq`). Owns no memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
import xxhash

from ring_async.core.weights.plan import Manifest, Piece, WeightsLayout
from ring_async.errors import WeightsError
from ring_async.transport.weights.tensors import flatten
from ring_async.types import PolicyVersion, UInt8

_CHUNK_BYTES = 1 << 20
"""Copied, then hashed while still in the cache: hashing after the whole copy would read memory a second time."""


def pack(layout: WeightsLayout, tensors: Iterable[torch.Tensor], target: UInt8, num_threads: int) -> tuple[int, ...]:
    """Copy tensors to where the layout wants them, padding with zeros.

    A tensor is asked for when the first bucket that holds bytes of it is due, and dropped once its last bucket is
    filled. Twice `num_threads` buckets are due at a time.

    Args:
        layout: of the version.
        tensors: in the layout's order, on any device.
        target: uint8, at least `layout.num_bytes`.
        num_threads: that copy and hash, a bucket each.

    Returns:
        xxh3_64 of every bucket, of the bytes as they lie in `target`.
    """
    arriving = enumerate(tensors)
    held: dict[int, torch.Tensor] = {}
    newest = -1
    due: deque[Future[int]] = deque()
    checksums = []
    with ThreadPoolExecutor(num_threads, thread_name_prefix="weights-pack") as pool:
        for bucket in range(layout.num_buckets):
            pieces = list(layout.pieces(*layout.bucket_range(bucket)))
            wanted = [piece.tensor for piece in pieces if piece.tensor is not None]
            is_any_on_gpu = False
            while wanted and newest < wanted[-1]:
                newest, tensor = next(arriving)
                held[newest] = flatten(tensor)
                is_any_on_gpu |= tensor.is_cuda
                del tensor
            if is_any_on_gpu:
                torch.cuda.current_stream().synchronize()  # The copying threads have streams of their own.
            held = {index: held[index] for index in wanted}
            due.append(pool.submit(_pack_bucket, pieces, held, target))
            if len(due) > 2 * num_threads:
                checksums.append(due.popleft().result())
        for _ in arriving:
            pass  # Tensors without bytes; and the source may have something to say at its end.
        return (*checksums, *(bucket.result() for bucket in due))


def _pack_bucket(pieces: Sequence[Piece], flat: Mapping[int, torch.Tensor], target: UInt8) -> int:
    """Copy what fills one bucket; returns its checksum. `flat`: uint8 `[num_bytes]` by index of the tensor."""
    digest = xxhash.xxh3_64()
    for piece in pieces:
        source = None if piece.tensor is None else flat[piece.tensor]
        array = None if source is None or source.is_cuda else source.numpy()
        for done in range(0, piece.num_bytes, _CHUNK_BYTES):
            size = min(_CHUNK_BYTES, piece.num_bytes - done)
            chunk = target[piece.start + done : piece.start + done + size]
            first = piece.offset + done
            if source is None:
                chunk.fill(0)
            elif array is None:
                torch.from_numpy(chunk).copy_(source[first : first + size])
            else:
                np.copyto(chunk, array[first : first + size])
            digest.update(chunk.data)
    return digest.intdigest()


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
