"""What runs inside a sandbox, as its process 1: starts the program under test, once per test, and reports.

Owns: per-test limits, capturing output, clearing away what a program leaves behind. Does not own: judging (expected
outputs never enter the sandbox, so a program that took this process over would gain nothing), or the sandbox's walls.
One file, standard library only: it is compiled and handed into the sandbox, where this package does not exist.

As process 1 it cannot be killed or stopped from inside, and its end ends everything in the sandbox.

Frames on descriptors 0 and 1: a 4-byte length, then JSON.
    in:  {"language", "source", "limits"}, answered by {"prepared"} or {"refused", "output"}
    in:  {"stdin"} or {"function", "args", "kwargs"}, answered by a result: status, exit_code, stdout, stderr, value,
         cpu_s, wall_s
"""

import builtins
import json
import os
import resource
import select
import signal
import sys
import time
import types

_ERROR_BYTES = 4096
_COMPILED = "/tmp/program"  # noqa: S108 - the sandbox's own tmpfs
_SOURCE = "/tmp/program.cpp"  # noqa: S108
_RESULT_FD = 3
_HIGH_FD = 60  # above all that is open, below the limit on descriptors
_CHUNK_BYTES = 1 << 16


def _receive():
    prefix = _read_exactly(4)
    return json.loads(_read_exactly(int.from_bytes(prefix, "big")))


def _read_exactly(size):
    chunks = bytearray()
    while len(chunks) < size:
        chunk = os.read(0, min(size - len(chunks), _CHUNK_BYTES))
        if not chunk:
            os._exit(0)  # the session is over
        chunks += chunk
    return bytes(chunks)


def _send(message):
    body = json.dumps(message).encode()
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
            value = min(value, hard)
        resource.setrlimit(number, (value, value))


def _limit_child(limits, cpu_s):
    whole = max(1, int(cpu_s + 0.999))
    resource.setrlimit(resource.RLIMIT_CPU, (whole, whole + 1))
    resource.setrlimit(resource.RLIMIT_AS, (limits["memory_bytes"], limits["memory_bytes"]))
    resource.setrlimit(resource.RLIMIT_STACK, (limits["stack_bytes"], limits["stack_bytes"]))


def _run(limits, cpu_s, wall_s, stdin, become):
    """Fork a child that calls `become`, feed it, capture it, and leave no process behind.

    Returns:
        (status, exit code, stdout, stderr, result, cpu_s, wall_s)
    """
    in_r, in_w = os.pipe()
    out_r, out_w = os.pipe()
    err_r, err_w = os.pipe()
    res_r, res_w = os.pipe()
    wake_r, wake_w = os.pipe()
    os.set_blocking(wake_r, False)
    os.set_blocking(wake_w, False)
    os.set_blocking(in_w, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        code = 1
        try:
            os.dup2(res_w, _HIGH_FD)
            for source, target in ((in_r, 0), (out_w, 1), (err_w, 2), (_HIGH_FD, _RESULT_FD)):
                os.dup2(source, target)
            os.closerange(_RESULT_FD + 1, _HIGH_FD + 1)
            os.setsid()
            _limit_child(limits, cpu_s)
            code = become()
        finally:
            os._exit(code)
    for descriptor in (in_r, out_w, err_w, res_w):
        os.close(descriptor)
    captured = {out_r: bytearray(), err_r: bytearray(), res_r: bytearray()}
    bounds = {out_r: limits["output_bytes"], err_r: limits["output_bytes"], res_r: limits["output_bytes"]}
    status, left = "", memoryview(stdin)
    poll = select.poll()
    for descriptor in (*captured, wake_r):
        poll.register(descriptor, select.POLLIN)
    if left:
        poll.register(in_w, select.POLLOUT)
    else:
        os.close(in_w)
    ended = None
    while ended is None:
        left_s = wall_s - (time.monotonic() - started)
        if left_s <= 0:
            status = "wall"
            break
        for descriptor, _ in poll.poll(left_s * 1000):
            if descriptor == wake_r:
                try:
                    os.read(wake_r, 4096)
                except BlockingIOError:
                    pass
            elif descriptor == in_w:
                try:
                    left = left[os.write(in_w, left[:_CHUNK_BYTES]) :]
                except BlockingIOError:
                    continue
                except OSError:
                    left = left[:0]
                if not left:
                    poll.unregister(in_w)
                    os.close(in_w)
            else:
                chunk = os.read(descriptor, _CHUNK_BYTES)
                captured[descriptor] += chunk
                if not chunk:
                    poll.unregister(descriptor)
                if len(captured[descriptor]) > bounds[descriptor]:
                    status = "output"
        if status:
            break
        ended = _reap(pid)
    killed = _kill_all(pid)
    ended = ended or killed
    wall = time.monotonic() - started
    if left:
        os.close(in_w)
    signal.set_wakeup_fd(-1)
    for descriptor, content in captured.items():
        _drain(descriptor, content, bounds[descriptor])
        if len(content) > bounds[descriptor]:
            status = status or "output"
        os.close(descriptor)
    os.close(wake_r)
    os.close(wake_w)
    code, cpu = ended
    if not status:
        if cpu > cpu_s or code == -signal.SIGXCPU:
            status = "cpu"
        else:
            status = "ok" if code == 0 else "signal" if code < 0 else "error"
    return status, code, captured[out_r], captured[err_r], captured[res_r], cpu, wall


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


def _drain(descriptor, content, bound):
    """What is left in a pipe that nobody writes to any more."""
    while len(content) <= bound:
        chunk = os.read(descriptor, _CHUNK_BYTES)
        if not chunk:
            return
        content += chunk


def _python(source, call):
    """Run a Python program as `__main__`, then a function of it if asked. Returns the exit code."""
    sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115, PTH123
    sys.stdout = open(1, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115, PTH123
    sys.stderr = open(2, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115, PTH123
    os.chdir("/tmp")  # noqa: S108
    sys.argv = ["program.py"]
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    code = 0
    try:
        exec(compile(source, "program.py", "exec", dont_inherit=True), main.__dict__)  # noqa: S102
        if call is not None:
            value = _function(main, call["function"])(*call["args"], **call["kwargs"])
            with open(_RESULT_FD, "w", closefd=False) as stream:  # noqa: PTH123
                json.dump(_plain(value), stream)
    except SystemExit as ending:
        if isinstance(ending.code, str):
            sys.stderr.write(ending.code)
        code = ending.code if isinstance(ending.code, int) else 0 if ending.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = code or 1
    return code & 0xFF


def _function(module, name):
    """`solve`, or a method: `Solution.solve` on an instance made without arguments."""
    owner, _, method = name.rpartition(".")
    if not owner:
        return getattr(module, method)
    return getattr(getattr(module, owner)(), method)


def _plain(value):
    """A returned value as JSON can hold it: tuples become lists, sets sorted lists, keys text."""
    if isinstance(value, (bool, str, type(None))):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(item) for item in value), key=repr)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "__iter__"):
        return [_plain(item) for item in value]
    raise TypeError(f"the function returned a {type(value).__name__}, which is not plain data")


def _compile_cpp(source, limits):
    with open(_SOURCE, "w", encoding="utf-8") as stream:  # noqa: PTH123
        stream.write(source)
    command = ["g++", "-O1", "-std=c++17", "-pipe", "-o", _COMPILED, _SOURCE]

    def become():
        os.execv("/usr/bin/g++", command)  # noqa: S606

    generous = {**limits, "memory_bytes": max(limits["memory_bytes"], 2 << 30)}
    status, code, out, err, *_ = _run(generous, limits["compile_s"], limits["compile_s"] * 2, b"", become)
    return status == "ok", _text(out + err) or f"{status} {code}"


def _text(content):
    return bytes(content[-_ERROR_BYTES:]).decode("utf-8", "replace")


def _prepare(program):
    """Answer the program; returns what a child becomes for one test, or None where it cannot be built."""
    source, limits = program["source"], program["limits"]
    _limit_self(limits)
    if program["language"] == "cpp":
        is_built, output = _compile_cpp(source, limits)
        _send({"prepared": True} if is_built else {"refused": "does not compile", "output": output})

        def become(_call):
            os.chdir("/tmp")  # noqa: S108
            os.close(_RESULT_FD)
            os.execv(_COMPILED, [_COMPILED])  # noqa: S606

        return become if is_built else None
    _send({"prepared": True})
    return lambda call: _python(source, call)


def main():
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    builtins.exit = builtins.quit = sys.exit
    _send({"ready": True})
    program = _receive()
    become = _prepare(program)
    limits = program["limits"]
    while True:
        test = _receive()
        if become is None:
            os._exit(0)
        call = test if "function" in test else None
        stdin = test.get("stdin", "").encode("utf-8", "surrogatepass")
        status, code, out, err, value, cpu, wall = _run(
            limits, limits["cpu_s"], limits["wall_s"], stdin, lambda call=call: become(call)
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
