"""Several hosts on one machine: network namespaces on one wire, each with its own /tmp and /dev/shm.

            ┌── host a: 10.77.0.1, /tmp, /dev/shm
    bridge ─┼── host b: 10.77.0.2, /tmp, /dev/shm
     (in the wire's namespace, 10.77.0.9: where strangers sit)

What a host's processes write to /tmp lies in `Host.tmp` for the test to read; nobody else on the wire sees it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NETWORK = "10.77.0"
WIRE_ADDRESS = f"{NETWORK}.9"
RAY_PORT = 6379
START_S = 90.0

INSTALLED = (ROOT, Path(sys.prefix))
"""What all hosts have alike; also where it lies below the /tmp that is hidden from them."""

_ENTER = """
set -e
tmp=$1
shift
for installed; do
    mkdir -p "$tmp/${installed#/tmp/}"
    mount --bind "$installed" "$tmp/${installed#/tmp/}"
done
mount --rbind "$tmp" /tmp
mount -t tmpfs -o size=512m tmpfs /dev/shm
echo ready
exec sleep infinity
"""


class CannotMakeHostsError(Exception):
    """The machine does not allow namespaces; the message is the reason to skip."""


class Host:
    """One namespace of network and mounts, held open by a process that sleeps."""

    def __init__(self, name: str, address: str, tmp: Path) -> None:
        self.name = name
        self.address = address
        self.tmp = tmp
        self._keeper: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Be there, with an empty /dev/shm, and /tmp as it was but for Ray's sockets."""
        shutil.rmtree(self.tmp / "ray", ignore_errors=True)
        self.tmp.mkdir(parents=True, exist_ok=True)
        hidden = [str(path) for path in INSTALLED if path.is_relative_to("/tmp")]
        command = ["ip", "netns", "exec", self.name, "unshare", "--mount", "--propagation", "private"]
        self._keeper = subprocess.Popen(
            [*command, "sh", "-c", _ENTER, "enter", str(self.tmp), *hidden],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        assert self._keeper.stdout is not None
        if (said := self._keeper.stdout.readline()) != "ready\n":
            self.kill()
            raise CannotMakeHostsError(f"no private mounts: {said.strip()}")

    def command(self, *words: str) -> list[str]:
        """These words, run on this host."""
        assert self._keeper is not None
        return ["nsenter", f"--target={self._keeper.pid}", "--net", "--mount", f"--wd={ROOT}", *words]

    def run(self, *words: str, env: Mapping[str, str], timeout_s: float = 120.0) -> str:
        """Run to the end; returns what it wrote to stdout.

        Raises:
            AssertionError: it failed; says all it wrote.
        """
        # To files: what it starts in the background would keep pipes open.
        with (self.tmp / "stdout").open("w+") as out, (self.tmp / "stderr").open("w+") as err:
            code = subprocess.run(
                self.command(*words), env=env, stdout=out, stderr=err, timeout=timeout_s, check=False
            ).returncode
            texts = [stream.seek(0) or stream.read() for stream in (out, err)]
        assert code == 0, f"{self.name}: {' '.join(words)}: exit code {code}\n{''.join(texts)}"
        return texts[0]

    def pids(self) -> list[int]:
        """All processes on this host."""
        listed = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False)
        return [int(pid) for pid in listed.stdout.split()]

    def kill(self) -> None:
        """SIGKILL every process, until there is none."""
        end_s = time.monotonic() + 20.0
        while pids := self.pids():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            assert time.monotonic() < end_s, f"{self.name}: {pids} do not die"
            time.sleep(0.05)
        if self._keeper is not None:
            self._keeper.wait(10)
            if self._keeper.stdout is not None:
                self._keeper.stdout.close()
            self._keeper = None

    # -- what is open

    def listening(self, pid: int) -> set[str]:
        """`address:port` of the TCP sockets on which a process of this host listens."""
        inodes = set()
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                target = str(entry.readlink())
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
        found = set()
        for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                address, port = fields[1].split(":")
                found.add(f"{socket.inet_ntoa(struct.pack('<I', int(address, 16)))}:{int(port, 16)}")
        return found

    def unix_sockets(self) -> set[str]:
        """Paths of all UNIX sockets on this host."""
        assert self._keeper is not None
        lines = Path(f"/proc/{self._keeper.pid}/net/unix").read_text().splitlines()[1:]
        return {line.split()[7] for line in lines if len(line.split()) > 7}


class Wire:
    """Hosts on one bridge."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._prefix = f"ring{os.getpid()}"
        self.name = f"{self._prefix}-wire"
        self.hosts: dict[str, Host] = {}

    def open(self, *names: str) -> None:
        """Make the namespaces, the bridge, and the hosts on it.

        Raises:
            CannotMakeHostsError: this machine does not allow it.
        """
        for number, name in enumerate(names, start=1):
            self.hosts[name] = Host(f"{self._prefix}-{name}", f"{NETWORK}.{number}", self._folder / name / "tmp")
        _ip("netns", "add", self.name)
        self._at_wire("link", "set", "lo", "up")
        self._at_wire("link", "add", "bridge", "type", "bridge")
        self._at_wire("addr", "add", f"{WIRE_ADDRESS}/24", "dev", "bridge")
        self._at_wire("link", "set", "bridge", "up")
        for name, host in self.hosts.items():
            _ip("netns", "add", host.name)
            self._at_wire("link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", "netns", host.name)
            self._at_wire("link", "set", f"to-{name}", "master", "bridge", "up")
            _ip("-n", host.name, "link", "set", "lo", "up")
            _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
            _ip("-n", host.name, "link", "set", "eth0", "up")
            host.start()

    def cut(self, name: str) -> None:
        """Take a host's cable out: nothing arrives any more, and nobody is told."""
        self._at_wire("link", "set", f"to-{name}", "down")

    def mend(self, name: str) -> None:
        self._at_wire("link", "set", f"to-{name}", "up")

    def run_at_wire(self, *words: str, env: Mapping[str, str], timeout_s: float = 60.0) -> str:
        """Run something at the wire itself, on none of the hosts."""
        command = ["ip", "netns", "exec", self.name, *words]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout_s, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def close(self) -> None:
        """Nothing stays: processes, then namespaces; what is on them goes with them."""
        with contextlib.ExitStack() as last:
            for name in (self.name, *(host.name for host in self.hosts.values())):
                last.callback(subprocess.run, ["ip", "netns", "delete", name], capture_output=True, check=False)
            for host in self.hosts.values():
                last.callback(host.kill)

    def _at_wire(self, *words: str) -> None:
        _ip("-n", self.name, *words)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotMakeHostsError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def why_not() -> str:
    """Why there can be no hosts here; empty: they can be tried."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in ("ip", "nsenter", "unshare") if shutil.which(name) is None]
    return f"missing: {', '.join(missing)} (scripts/system-packages installs iproute2)" if missing else ""


@contextlib.contextmanager
def wire(folder: Path, *names: str) -> Iterator[Wire]:
    """Hosts of these names, from `NETWORK`.1 on; gone at the end with all their processes."""
    made = Wire(folder)
    try:
        made.open(*names)
        yield made
    finally:
        made.close()


def ray_environment(token: str) -> dict[str, str]:
    """For `ray start`, `ring-async` and all they start: one token; a host that is silent for some seconds is gone."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "RAY_health_check_initial_delay_ms": "2000",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "3000",
        "RAY_health_check_failure_threshold": "4",
    }


def start_ray(host: Host, head: Host, num_cpus: int, env: Mapping[str, str]) -> None:
    """`ray start` on this host, as a person would."""
    first = host is head
    where = ["--head", f"--port={RAY_PORT}", "--include-dashboard=false"] if first else [
        f"--address={head.address}:{RAY_PORT}"
    ]  # fmt: skip
    host.run(
        str(Path(sys.executable).with_name("ray")), "start", *where, f"--node-ip-address={host.address}",
        f"--num-cpus={num_cpus}", f"--object-store-memory={80 << 20}", "--disable-usage-stats",
        env=env, timeout_s=START_S,
    )  # fmt: skip


KNOCK = """
import json, sys, time
import zmq

keys, endpoints, wait_s = json.loads(sys.argv[1]), json.loads(sys.argv[2]), float(sys.argv[3])
context, poller, seen = zmq.Context(), zmq.Poller(), {}
for endpoint in endpoints:
    socket = context.socket(zmq.DEALER)
    if keys:
        own_public, own_secret = map(bytes.decode, zmq.curve_keypair())
        socket.setsockopt_string(zmq.CURVE_SERVERKEY, keys["server_public"])
        socket.setsockopt_string(zmq.CURVE_PUBLICKEY, keys.get("client_public", own_public))
        socket.setsockopt_string(zmq.CURVE_SECRETKEY, keys.get("client_secret", own_secret))
    events = socket.get_monitor_socket()
    socket.connect(endpoint)
    poller.register(events, zmq.POLLIN)
    poller.register(socket, zmq.POLLIN)
    seen[events], seen[socket] = (endpoint, "event"), (endpoint, "message")
reached, entered, end_s = set(), set(), time.monotonic() + wait_s
while time.monotonic() < end_s:
    for ready, _ in poller.poll(100):
        endpoint, kind = seen[ready]
        frames = ready.recv_multipart()
        number = int.from_bytes(frames[0][:2], "little")
        if kind == "event" and number == zmq.EVENT_CONNECTED:
            reached.add(endpoint)
        if kind == "message" or number == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            entered.add(endpoint)
print(json.dumps({"reached": sorted(reached), "entered": sorted(entered)}))
context.destroy(linger=0)
"""
"""Knocks at ZMQ endpoints with some keys, or none: which could be reached, and which let it in."""


def knock(
    made: Wire, endpoints: list[str], keys: Mapping[str, str], env: Mapping[str, str], *, wait_s: float = 2.5
) -> tuple[set[str], set[str]]:
    """From the wire: the endpoints that took the connection, and those that opened the door.

    Args:
        made: where to knock from.
        endpoints: `tcp://…`.
        keys: `server_public` alone: with a client's key of one's own; the client's pair too: as one of the run; none:
            without CURVE.
        env: of the knocking process.
        wait_s: for doors to open.
    """
    words = [sys.executable, "-c", KNOCK, json.dumps(dict(keys)), json.dumps(endpoints), str(wait_s)]
    said = json.loads(made.run_at_wire(*words, env=env))
    return set(said["reached"]), set(said["entered"])
