"""The CURVE keys of a run, and the authentication that admits their holders alone.

Owns: CURVE key files (mode 0600), the socket options they mean, the ZAP handler, and the private directory of `ipc`
sockets. Does not own: sockets of the channel.

Invariants: keys go from their files into socket options and nowhere else; a peer that cannot show the run's
client key gets nothing, even if it knows the server's public key.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import stat
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import zmq
import zmq.utils.z85

from ring_async.errors import TransportError

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
ZAP_DOMAIN = b"ring-async"
_NAMES = ("server_public", "server_secret", "client_public", "client_secret")


@dataclass(frozen=True, slots=True)
class CurveKeys:
    """The two CURVE key pairs of a run, Z85 text. Every actor holds both: each listens and connects.

    Secrets are left out of `repr`.
    """

    server_public: bytes
    server_secret: bytes = field(repr=False)
    client_public: bytes
    client_secret: bytes = field(repr=False)

    @classmethod
    def make_run_keys(cls, directory: Path) -> CurveKeys:
        """Make new keys and write them to `directory` (mode 0700), each file with mode 0600.

        Raises:
            TransportError: there are keys already, or the directory cannot be written.
        """
        server_public, server_secret = zmq.curve_keypair()
        client_public, client_secret = zmq.curve_keypair()
        keys = cls(server_public, server_secret, client_public, client_secret)
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in _NAMES:
                descriptor = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(getattr(keys, name))
        except FileExistsError as error:
            raise TransportError(f"{directory}: holds keys already; load them, or remove them for new ones") from error
        except OSError as error:
            raise TransportError(f"{directory}: cannot write the run's keys: {error.strerror}") from error
        return keys

    @classmethod
    def load(cls, directory: Path) -> CurveKeys:
        """Read a run's keys.

        Raises:
            TransportError: a file is missing, no key, or readable by others.
        """
        found = {}
        for name in _NAMES:
            path = directory / name
            try:
                mode = stat.S_IMODE(path.stat().st_mode)
                content = path.read_bytes()
            except OSError as error:
                raise TransportError(f"{path}: cannot read the run's key: {error.strerror}") from error
            if mode & 0o077:
                raise TransportError(
                    f"{path}: mode {mode:04o} lets others read the key; chmod 600 it, or make new keys"
                )
            if len(content) != 40:
                raise TransportError(f"{path}: {len(content)} bytes are not a key (40 characters of Z85)")
            found[name] = content
        return cls(**found)

    def secure_server(self, socket: zmq.Socket[bytes]) -> None:
        """Make a socket accept CURVE alone. Call before `bind`, with a `Door` in the same context."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.server_public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.server_secret)
        socket.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
        # Without this libzmq admits everybody while no authenticator runs.
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def secure_client(self, socket: zmq.Socket[bytes]) -> None:
        """Make a socket speak CURVE to servers of this run alone. Call before `connect`."""
        socket.setsockopt(zmq.CURVE_SERVERKEY, self.server_public)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.client_public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.client_secret)


class Door:
    """Answers libzmq's question "may this key come in?" (ZAP, ZeroMQ RFC 27) for all sockets of one context.

    Belongs to one thread, which polls `socket` and calls `answer_all` when it is readable:

        door = Door(context, keys)                 # before the first `bind` of a secured socket
        poller.register(door.socket, zmq.POLLIN)
        door.answer_all()                          # the run's client key is admitted, any other is counted in `denied`

    Attributes:
        denied: handshakes refused, by cause.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: CurveKeys) -> None:
        self.denied: Counter[str] = Counter()
        self.socket = context.socket(zmq.ROUTER)
        self._client_public = zmq.utils.z85.decode(keys.client_public)
        self.socket.bind(ZAP_ENDPOINT)

    def close(self) -> None:
        """Stop answering: libzmq then refuses all new connections. Idempotent."""
        self.socket.close(linger=0)

    def answer_all(self) -> None:
        """Answer the waiting questions; returns at once if there are none."""
        while not self.socket.closed:
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._answer(frames)

    def _answer(self, frames: list[bytes]) -> None:
        # address, empty, version, request id, domain, peer's address, routing id, mechanism, credentials…
        if len(frames) < 8 or frames[2] != b"1.0":
            self.denied["malformed"] += 1
            return
        address, request_id, mechanism = frames[0], frames[3], frames[7]
        if mechanism != b"CURVE" or len(frames) != 9:
            self.denied["not_curve"] += 1
            is_admitted = False
        else:
            is_admitted = hmac.compare_digest(frames[8], self._client_public)
            if not is_admitted:
                self.denied["wrong_key"] += 1
        status, text = (b"200", b"OK") if is_admitted else (b"400", b"not a key of this run")
        self.socket.send_multipart([address, b"", b"1.0", request_id, status, text, b"", b""], zmq.NOBLOCK)


class Authenticator:
    """A `Door` that the running event loop serves.

    Consumes: ZAP requests. Produces: ZAP replies, and `denied`, by cause. Waits for: a handshake. Unblocked by: the
    event loop; while that is busy, handshakes wait, established connections do not.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: CurveKeys) -> None:
        self._door = Door(context, keys)
        self.denied = self._door.denied
        self._loop = asyncio.get_running_loop()
        self._fd = int(self._door.socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._fd, self._door.answer_all)
        self._loop.call_soon(self._door.answer_all)

    def close(self) -> None:
        """See `Door.close`."""
        if not self._door.socket.closed:
            self._loop.remove_reader(self._fd)
            self._door.close()


def make_socket_dir() -> Path:
    """Make a directory for `ipc` sockets: mode 0700, and short enough for a UNIX socket's address (107 bytes).

    It lies in `XDG_RUNTIME_DIR` where that is short, else in `/tmp`. The caller removes it.
    """
    for parent in (os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"):  # noqa: S108
        if parent and len(parent) <= 40 and os.access(parent, os.W_OK | os.X_OK):
            return Path(tempfile.mkdtemp(prefix="ring-", dir=parent))
    raise TransportError("no short, writable directory for sockets: set XDG_RUNTIME_DIR or TMPDIR to one")
