"""What runs inside a sandbox, as its process 1: starts the program under test, once per test, and reports.

Owns: per-test limits, capturing output, clearing away what a program leaves behind. Does not own: judging (expected
outputs never enter the sandbox, so a program that took this process over would gain nothing), or the sandbox's walls.
With `harness`, which runs Python programs, it is compiled and handed into the sandbox, where this package does not
exist. Standard library only.

As process 1 it cannot be killed or stopped from inside, and its end ends everything in the sandbox.

Starting fast matters more than comfort: a sandbox serves one program. So no `json` (it loads `re`) and no `signal` (it
loads `enum`): together they take longer than the interpreter itself.

Frames: a 4-byte length, then marshal on descriptor 0 (from the trusted side), JSON on descriptor 1 (to it).
    in:  {"language", "source", "limits"}, answered by {"prepared"} or {"refused", "output"}
    in:  {"stdin"} or {"function", "args", "kwargs"}, answered by a result: status, exit_code, stdout, stderr, value,
         cpu_s, wall_s. Status `killed`: by SIGKILL, which nothing in here may send.
    in:  {"stop"}, during a test: end it, with status `wall`. Too late, it is passed over.
"""

import _signal as signal
import builtins
import marshal
import os
import resource
import select
import sys
import time

_ERROR_BYTES = 4096
_COMPILED = "/tmp/program"  # noqa: S108 - the sandbox's own tmpfs
_SOURCE = "/tmp/program.cpp"  # noqa: S108
_STDIN_FILE = "/tmp/.stdin"  # noqa: S108 - where /dev/stdin leads
_RESULT_FD = 3
_HIGH_FD = 60  # above all that is open, below the limit on descriptors
_CHUNK_BYTES = 1 << 16
_LOOK_MS = 20  # how often files are counted; no limit of the kernel's counts them


_HARNESS_CODE = b""
"""The code of `harness.py`, marshalled, which the launcher fills in: another file would be another mount."""


def _harness():
    names = {"__name__": "harness"}
    exec(marshal.loads(_HARNESS_CODE), names)  # noqa: S102, S302
    return names


_HARNESS = _harness()


def _receive():
    prefix = _read_exactly(4)
    return marshal.loads(_read_exactly(int.from_bytes(prefix, "big")))  # noqa: S302


def _read_exactly(size):
    chunks = bytearray()
    while len(chunks) < size:
        chunk = os.read(0, min(size - len(chunks), _CHUNK_BYTES))
        if not chunk:
            os._exit(0)  # the session is over
        chunks += chunk
    return bytes(chunks)


def _send(message):
    body = _HARNESS["to_json"](message).encode()
    view = memoryview(len(body).to_bytes(4, "big") + body)
    while view:
        view = view[os.write(1, view) :]


def _limit_self(limits):
    """Hard limits that hold for everything in the sandbox, also for children that outlive their test."""
    for name, value in (
        ("RLIMIT_NPROC", limits["max_processes"] + 1),
        ("RLIMIT_CORE", 0),
        ("RLIMIT_MEMLOCK", 0),
        ("RLIMIT_MSGQUEUE", 0),
        ("RLIMIT_NOFILE", 64),
        ("RLIMIT_FSIZE", limits["disk_bytes"]),
    ):
        number = getattr(resource, name)
        hard = resource.getrlimit(number)[1]
        if hard != resource.RLIM_INFINITY:
            resource.setrlimit(number, (min(value, hard),) * 2)
        else:
            resource.setrlimit(number, (value, value))


def _limit_child(limits, cpu_s):
    whole = max(1, int(cpu_s + 0.999))
    resource.setrlimit(resource.RLIMIT_CPU, (whole, whole + 1))
    resource.setrlimit(resource.RLIMIT_AS, (limits["memory_bytes"], limits["memory_bytes"]))
    resource.setrlimit(resource.RLIMIT_STACK, (limits["stack_bytes"], limits["stack_bytes"]))


class _Pipes:
    """A child's standard streams and its result, as seen from here, and a pipe that wakes us when a child ends."""

    def __init__(self, stdin, bound, max_files):
        self._child_ends = []
        self._max_files = max_files
        self._left = memoryview(stdin)
        self._bound = bound
        self.is_stopped = False
        self._poll = select.poll()
        self._poll.register(0, select.POLLIN)
        child_in, self._stdin = os.pipe()
        os.set_blocking(self._stdin, False)
        self._child_ends.append(child_in)
        self.captured = {}
        for _ in ("stdout", "stderr", "result"):
            reader, writer = os.pipe()
            self._child_ends.append(writer)
            self.captured[reader] = bytearray()
            self._poll.register(reader, select.POLLIN)
        self._wake, wake_writer = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(wake_writer, False)
        self._wake_writer = wake_writer
        self._poll.register(self._wake, select.POLLIN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)

    def become_child(self):
        """In the child: put its ends where programs expect them, close all else."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        stdin, stdout, stderr, result = self._child_ends
        os.dup2(result, _HIGH_FD)
        for source, target in ((stdin, 0), (stdout, 1), (stderr, 2), (_HIGH_FD, _RESULT_FD)):
            os.dup2(source, target)
        os.closerange(_RESULT_FD + 1, _HIGH_FD + 1)

    def become_parent(self):
        for descriptor in self._child_ends:
            os.close(descriptor)
        if self._left:
            self._poll.register(self._stdin, select.POLLOUT)
        else:
            os.close(self._stdin)

    def serve(self):
        """Wait for something to move, and move it. Returns whether a bound was passed."""
        for descriptor, _ in self._poll.poll(_LOOK_MS):
            if descriptor == 0:
                self.is_stopped = "stop" in _receive()
            elif descriptor == self._wake:
                try:
                    os.read(self._wake, 4096)
                except BlockingIOError:
                    pass
            elif descriptor == self._stdin:
                self._feed()
            else:
                chunk = os.read(descriptor, _CHUNK_BYTES)
                self.captured[descriptor] += chunk
                if not chunk:
                    self._poll.unregister(descriptor)
        return self._is_over()

    def finish(self):
        """Take what is left in pipes that nobody writes to any more. Returns whether a bound was passed."""
        signal.set_wakeup_fd(-1)
        if self._left:
            os.close(self._stdin)
        for descriptor, content in self.captured.items():
            while len(content) <= self._bound:
                chunk = os.read(descriptor, _CHUNK_BYTES)
                if not chunk:
                    break
                content.extend(chunk)
            os.close(descriptor)
        os.close(self._wake)
        os.close(self._wake_writer)
        return self._is_over()

    def _feed(self):
        try:
            self._left = self._left[os.write(self._stdin, self._left[:_CHUNK_BYTES]) :]
        except BlockingIOError:
            return
        except OSError:  # it closed its standard input
            self._left = self._left[:0]
        if not self._left:
            self._poll.unregister(self._stdin)
            os.close(self._stdin)

    def _is_over(self):
        files = os.statvfs("/tmp")  # noqa: S108
        is_full = files.f_files - files.f_ffree > self._max_files
        return is_full or any(len(content) > self._bound for content in self.captured.values())


def _run(limits, cpu_s, stdin, become):
    """Fork a child that calls `become`, feed it, capture it, and leave no process behind.

    Returns:
        (status, exit code, [stdout, stderr, result], cpu_s, wall_s)
    """
    pipes = _Pipes(stdin, limits["output_bytes"], limits["max_files"])
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            pipes.become_child()
            os.setsid()
            _limit_child(limits, cpu_s)
            code = become()
        finally:
            os._exit(code)
    pipes.become_parent()
    status, ended = "", None
    while ended is None and not status:
        if pipes.serve():
            status = "output"
        elif pipes.is_stopped:
            status = "wall"
        else:
            ended = _reap(pid)
    killed = _kill_all(pid)
    code, cpu = ended or killed
    wall = time.monotonic() - started
    if pipes.finish():
        status = status or "output"
    if not status:
        if cpu > cpu_s or code == -signal.SIGXCPU:
            status = "cpu"
        elif code == -signal.SIGKILL:
            status = "killed"
        else:
            status = "ok" if code == 0 else "signal" if code < 0 else "error"
    return status, code, list(pipes.captured.values()), cpu, wall


def _reap(pid):
    """Reap all that ended; the exit code and CPU seconds of `pid` if it is among them."""
    found = None
    while True:
        try:
            ended, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if ended == 0:
            return found
        if ended == pid:
            found = (os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime)


def _kill_all(pid):
    """Kill everything in the sandbox but this process, until nothing is left."""
    found = None
    while True:
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            pass
        try:
            ended, status, usage = os.wait4(-1, 0)
        except ChildProcessError:
            return found
        if ended == pid:
            found = (os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime)


def _compile_cpp(source, limits):
    with open(_SOURCE, "w", encoding="utf-8", errors="surrogatepass") as stream:  # noqa: PTH123
        stream.write(source)
    command = ["g++", "-O1", "-std=c++17", "-pipe", "-o", _COMPILED, _SOURCE]

    def become():
        os.execv("/usr/bin/g++", command)  # noqa: S606

    generous = {**limits, "memory_bytes": max(limits["memory_bytes"], 2 << 30)}
    status, code, (out, err, _), *_ = _run(generous, limits["compile_s"], b"", become)
    if status == "error" and any(line.startswith(b"g++: fatal error: Killed signal") for line in err.splitlines()):
        status = "killed"  # the compiler proper, whose driver lives on to say so
    return status, _text(out + err) or f"{status} {code}"


def _lay_out(stdin):
    """Input for programs that open /dev/stdin, which without /proc can only be a file.

    Earlier tests may have left anything in its place.
    """
    try:
        os.unlink(_STDIN_FILE)  # noqa: PTH108
    except OSError:
        pass
    try:
        descriptor = os.open(_STDIN_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError:
        return
    try:
        left = memoryview(stdin)
        while left:
            left = left[os.write(descriptor, left) :]
    except OSError:  # it does not fit: the program sees less than all of it
        pass
    os.close(descriptor)


def _text(content):
    return bytes(content[-_ERROR_BYTES:]).decode("utf-8", "replace")


def _prepare(program):
    """Answer the program; returns what a child becomes for one test, or None where it cannot be built."""
    source, limits = program["source"], program["limits"]
    _limit_self(limits)
    if program["language"] == "cpp":
        status, output = _compile_cpp(source, limits)
        _send({"prepared": True} if status == "ok" else {"refused": status, "output": output})

        def become(_call):
            os.chdir("/tmp")  # noqa: S108
            os.close(_RESULT_FD)
            os.execv(_COMPILED, [_COMPILED])  # noqa: S606

        return become if status == "ok" else None
    _send({"prepared": True})
    return lambda call: _HARNESS["run"](source, call)


def main():
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    builtins.exit = builtins.quit = sys.exit
    _send({"ready": True})
    program = _receive()
    become = _prepare(program)
    limits = program["limits"]
    opens_stdin = "/dev/stdin" in program["source"] or "/dev/fd/0" in program["source"]
    while True:
        test = _receive()
        if "stop" in test:
            continue
        if become is None:
            os._exit(0)
        call = test if "function" in test else None
        stdin = test.get("stdin", "").encode("utf-8", "surrogatepass")
        if opens_stdin:
            _lay_out(stdin)
        status, code, (out, err, value), cpu, wall = _run(
            limits, limits["cpu_s"], stdin, lambda call=call: become(call)
        )
        _send(
            {
                "status": status,
                "exit_code": code,
                "stdout": bytes(out[: limits["output_bytes"]]).decode("utf-8", "replace"),
                "stderr": _text(err),
                "value": bytes(value[: limits["output_bytes"]]).decode("utf-8", "replace"),
                "cpu_s": cpu,
                "wall_s": wall,
            }
        )


if __name__ == "__main__":
    main()
