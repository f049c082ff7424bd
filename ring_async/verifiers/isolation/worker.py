"""The process that hosts one verifier: loads it once, forks scoring workers, and is what they run.

Owns: a worker's life: its limits, its guard, its loop. Does not own: deadlines (`isolated` kills a late worker).
Run as `python -m ring_async.verifiers.isolation.worker DESCRIPTION LINK`; `isolated.IsolatedVerifier` is its client.

A worker's socket carries frames: a 4-byte length, then MessagePack: `Work` in, `Outcome` out. A worker reads text that
may be hostile, so nothing it sends is ever unpickled or trusted beyond its type.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from ring_async.config.schema import VerifierSection
from ring_async.errors import ConfigError, VerifierError
from ring_async.sandbox.seccomp import guard_filter, install_filter
from ring_async.sandbox.spawner import serve
from ring_async.types import Verdict
from ring_async.verifiers.base import Response, Verifier
from ring_async.verifiers.isolation.protocol import _LENGTH, HostDescription, Outcome, Work, frame, frame_length
from ring_async.verifiers.registry import load_verifier

_description_decoder = msgspec.json.Decoder(HostDescription)
_work_decoder = msgspec.msgpack.Decoder(Work)


def judge(verifier: Verifier, work: Work) -> Outcome:
    """Call the verifier; whatever it raises becomes a cause."""
    response = Response(work.text, work.num_tokens, "length" if work.finish_reason == "length" else "stop")
    try:
        verdict = verifier.score(work.prompt, response)
        if inspect.isawaitable(verdict):
            verdict = asyncio.run(_awaited(verdict))
    except VerifierError as error:
        return Outcome(cause=error.cause, explanation=str(error))
    except MemoryError:
        return Outcome(cause="memory", explanation="the verifier ran out of its memory limit")
    except (Exception, SystemExit) as error:
        return Outcome(cause="crash", explanation=f"{type(error).__name__}: {error}")
    if not isinstance(verdict, Verdict):
        return Outcome(cause="bad_verdict", explanation=f"returned {type(verdict).__name__}, not a Verdict")
    try:
        parts = {str(name): float(value) for name, value in verdict.parts.items()}
        return Outcome(float(verdict.reward), parts, str(verdict.explanation), float(verdict.seconds))
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        return Outcome(cause="bad_verdict", explanation=str(error))


async def _awaited(verdict: Any) -> Any:
    return await verdict


def _worker(verifier: Verifier, description: HostDescription) -> Callable[[list[int]], None]:
    def become(descriptors: list[int]) -> None:
        connection = socket.socket(fileno=descriptors[0])
        _close_all_but(connection.fileno())
        _limit(description)
        if description.isolation == "guarded":
            install_filter(guard_filter())
        with os.fdopen(connection.detach(), "rb+", buffering=0) as stream:
            while (prefix := _read_exactly(stream, _LENGTH.size)) is not None:
                body = _read_exactly(stream, frame_length(prefix))
                if body is None:
                    return
                _write_all(stream, frame(judge(verifier, _work_decoder.decode(body))))

    return become


def _limit(description: HostDescription) -> None:
    limits = {
        resource.RLIMIT_AS: description.memory_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_STACK: 64 << 20,
    }
    if description.isolation == "guarded":
        limits[resource.RLIMIT_FSIZE] = 0
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))
    for name in ("SIGINT", "SIGTERM", "SIGXFSZ"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)


def _close_all_but(kept: int) -> None:
    """Keep one descriptor, and standard streams that lead nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nowhere, standard)
    os.closerange(3, kept)
    os.closerange(kept + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _read_exactly(stream: Any, size: int) -> bytes | None:
    chunks = bytearray()
    while len(chunks) < size:
        chunk = stream.read(size - len(chunks))
        if not chunk:
            return None
        chunks += chunk
    return bytes(chunks)


def _write_all(stream: Any, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[stream.write(view) :]


def _warm_up(verifier: Verifier) -> None:
    """Judge the golden cases once, so that what scoring imports is there before the first fork (and the guard)."""
    for case in verifier.golden_cases():
        judge(verifier, Work(case.prompt, case.response.text, case.response.num_tokens, case.response.finish_reason))


def main() -> None:
    """Load the verifier, then serve until the client is gone."""
    description = _description_decoder.decode(sys.argv[1])
    link = socket.socket(fileno=int(sys.argv[2]))
    sys.path[:] = description.import_path
    importlib.invalidate_caches()
    try:
        section = VerifierSection(use=description.use, options=description.options)
        verifier = load_verifier(description.name, section)
        if description.isolation == "guarded":
            guard_filter()
    except (ConfigError, OSError) as error:
        link.send(msgspec.json.encode({"error": str(error)}))
        return
    _warm_up(verifier)
    serve(link, _worker(verifier, description))


if __name__ == "__main__":
    main()
