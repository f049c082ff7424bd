"""An SGLang server in a process session of its own: launched, watched, ended.

Owns: its flags, port, key, log file and process. Does not own what is asked of it (`http`), nor when it is started
again (`keeper`).
Invariants: it listens on loopback alone, behind a key made for it; its process and all children end when it is closed
or when this process ends, by SIGKILL too (`launch`).
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ring_async
from ring_async.clock import monotonic_s
from ring_async.engines.sglang.http import ControlClient, ServerAddress, ServerLostError
from ring_async.engines.sglang.launch import API_KEY
from ring_async.engines.sglang.plugin import ENABLE, NAME
from ring_async.engines.sglang.requests import SERVER_INFO
from ring_async.errors import ActorFailedError

LAUNCHER: Sequence[str] = (sys.executable, "-m", "ring_async.engines.sglang.launch")
_HOST = "127.0.0.1"
_POLL_S = 0.25
_TERM_DEADLINE_S = 5.0
_TAIL_LINES = 30
_TAIL_BYTES = 16 << 10


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What a server is started with.

    Attributes:
        model_path: Hugging Face directory.
        is_dummy: start with random weights; the first version comes through an update.
        tags_steps: load our plugin (`plugin`) into its schedulers.
        extra: further flags by their names, e.g. `{"attention_backend": "triton", "disable_prefill_cuda_graph": True}`.
    """

    model_path: Path
    dtype: str
    is_dummy: bool
    tensor_parallel: int = 1
    max_running_requests: int = 256
    stream_interval: int = 128
    is_deterministic: bool = False
    tags_steps: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)

    def flags(self, port: int) -> list[str]:
        """The server's command line, without the key."""
        named: dict[str, Any] = {
            "model_path": self.model_path,
            "host": _HOST,
            "port": port,
            "skip_tokenizer_init": True,
            "incremental_streaming_output": True,
            "stream_interval": self.stream_interval,
            "load_format": "dummy" if self.is_dummy else "auto",
            "dtype": self.dtype,
            "tp_size": self.tensor_parallel,
            "max_running_requests": self.max_running_requests,
            "log_level": "warning",
            "enable_deterministic_inference": self.is_deterministic,
            **self.extra,
        }
        flags: list[str] = []
        for name, value in named.items():
            if value is False or value is None:
                continue
            flags.append("--" + name.replace("_", "-"))
            if value is not True:
                flags += [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]
        return flags


class SglangServer:
    """One life of a server. `start`, then `address`; `close` in the end.

    Args:
        name: goes into the log file's name and into errors.
        options: flags.
        log_dir: where `<name>.sglang.log` is written; None: a temporary folder, removed in the end.
        command: what to run instead of the launcher, for tests.
    """

    def __init__(
        self, name: str, options: ServerOptions, log_dir: Path | None = None, *, command: Sequence[str] | None = None
    ) -> None:
        self._name = name
        self._options = options
        self._command = command or LAUNCHER
        self._scratch = None if log_dir else tempfile.TemporaryDirectory(prefix="ring-sglang-")
        self.log_path = (log_dir or Path(self._scratch.name if self._scratch else "")) / f"{name}.sglang.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.address = ServerAddress("")
        self.info: dict[str, Any] = {}
        """What the server says of itself: version, arguments, size of its cache."""

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self, deadline_s: float) -> None:
        """Launch and wait until it answers.

        Raises:
            ActorFailedError: it ended, or did not answer in time; with its own last words.
        """
        self._spawn()
        give_up_s = monotonic_s() + deadline_s
        client = ControlClient(self.address)
        try:
            while True:
                if not self.is_alive:
                    raise ActorFailedError(self._words(f"ended with {self._process and self._process.returncode}"))
                try:
                    self.info = await client.get(SERVER_INFO, timeout_s=5.0)
                    return
                except ServerLostError:
                    if monotonic_s() > give_up_s:
                        raise ActorFailedError(self._words(f"did not answer within {deadline_s:.0f} s")) from None
                await asyncio.sleep(_POLL_S)
        except BaseException:
            await self.close()
            raise
        finally:
            await client.close()

    def _spawn(self) -> None:
        key, port = secrets.token_urlsafe(32), _free_port()
        root = str(Path(ring_async.__file__).resolve().parents[1])
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")])),
            API_KEY: key,
            ENABLE: "1" if self._options.tags_steps else "0",
        }
        if wanted := environment.get("SGLANG_PLUGINS"):
            environment["SGLANG_PLUGINS"] = f"{wanted},{NAME}"
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        if self.log_path.exists():
            self.log_path.replace(self.log_path.with_suffix(".log.1"))
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [*self._command, *self._options.flags(port)],
                stdin=subprocess.PIPE,  # held open and never written to: its end tells the server that we are gone
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        self.address = ServerAddress(f"http://{_HOST}:{port}", key)

    def _words(self, what: str) -> str:
        return f"the SGLang server of {self._name} {what}; its last words ({self.log_path}):\n{self.tail()}"

    def tail(self) -> str:
        """The last lines the server wrote."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
                lines = log.read().decode(errors="replace").splitlines()
        except OSError as error:
            return f"({error})"
        return "\n".join(lines[-_TAIL_LINES:])

    async def close(self) -> None:
        """End it and its children: SIGTERM, then SIGKILL to the session. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            if process.poll() is None:
                process.terminate()
                await asyncio.to_thread(_wait, process, _TERM_DEADLINE_S)
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            await asyncio.to_thread(process.wait)
            if process.stdin is not None:
                process.stdin.close()
        if self._scratch is not None:
            self._scratch.cleanup()


def _wait(process: subprocess.Popen[bytes], deadline_s: float) -> None:
    try:
        process.wait(deadline_s)
    except subprocess.TimeoutExpired:
        pass


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])
