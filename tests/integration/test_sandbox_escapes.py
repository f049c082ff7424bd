"""Attempts to get out of the sandbox, to exhaust the machine from inside, or to fool the judge.

Each attempt is bounded in count, time and memory, and looks for a marker that only the host has before it does anything
that could hurt: should one ever get out, it prints ESCAPED and does no harm. After every attempt the pool must still
run an honest program. Numbers of system calls are x86_64's; on other processors those attempts are skipped.
"""

# ruff: noqa: E501 - an attempt is a line
import os
import platform
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ring_async.sandbox.pool import SandboxPool
from ring_async.sandbox.program import Call, Program, RefusedProgramError, SandboxLimits

pytestmark = [
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed"),
    pytest.mark.may_leak("the pool replaces its sandboxes during a test; its fixture proves that none survives it"),
]

LIMITS = SandboxLimits(
    cpu_s=1.0,
    wall_s=3.0,
    memory_bytes=256 << 20,
    disk_bytes=8 << 20,
    output_bytes=64 << 10,
    max_processes=16,
    compile_s=5.0,
)

PRELUDE = """
import ctypes, errno, os, signal, sys, time
def escaped(what): print("ESCAPED:", what, flush=True); os._exit(0)
if os.path.exists({marker!r}): escaped("the host's files are in sight")
SECRET, MARKER, PORT, UNIX, SENTINEL = {secret!r}, {marker!r}, {port}, {unix!r}, {sentinel}
libc = ctypes.CDLL(None, use_errno=True)
def refused(function, *arguments, errors=(OSError, ValueError)):
    try: result = function(*arguments)
    except errors: return True
    escaped((getattr(function, "__name__", function), result))
def syscall(number, *arguments, allowed=(errno.EPERM, errno.ENOSYS)):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    if result != -1 or ctypes.get_errno() not in allowed: escaped((number, result, ctypes.get_errno()))
def children(count, body):
    for _ in range(count):
        try: pid = os.fork()
        except OSError: return
        if pid == 0: body(); os._exit(0)
"""

ANY = {"ok", "error", "signal", "cpu", "wall", "output", "memory"}
HELD = {"ok"}

# name: (how it may end, source)
PYTHON_ATTEMPTS: dict[str, tuple[set[str], str]] = {
    # network
    "tcp_to_the_host": (HELD, "import socket\nrefused(lambda: socket.create_connection(('127.0.0.1', PORT), 1))"),
    "udp_to_the_host": (HELD, "import socket\nrefused(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))"),
    "tcp_over_ipv6": (HELD, "import socket\nrefused(lambda: socket.socket(socket.AF_INET6))"),
    "name_lookup": (HELD, "import socket\nrefused(lambda: socket.getaddrinfo('example.org', 80))"),
    "unix_socket_of_the_host": (HELD, "import socket\nrefused(lambda: socket.socket(socket.AF_UNIX).connect(UNIX))"),
    "abstract_unix_socket": (
        HELD,
        "import socket\nrefused(lambda: socket.socket(socket.AF_UNIX).connect('\\0' + UNIX))",
    ),
    "netlink": (HELD, "import socket\nrefused(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))"),
    "raw_packets": (HELD, "import socket\nrefused(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 768))"),
    "vsock_to_a_hypervisor": (HELD, "import socket\nrefused(lambda: socket.socket(40, socket.SOCK_STREAM))"),
    "listen": (HELD, "import socket\nrefused(lambda: socket.create_server(('127.0.0.1', 0)))"),
    # files of the host
    "read_a_secret": (HELD, "refused(lambda: open(SECRET).read())"),
    "write_beside_the_marker": (HELD, "refused(lambda: open(MARKER + '.new', 'w'))"),
    "read_passwords": (
        HELD,
        "refused(lambda: open('/etc/shadow').read()); refused(lambda: open('/etc/passwd').read())",
    ),
    "homes_and_mounts_are_absent": (
        HELD,
        "for path in ('/home', '/mnt', '/srv', '/var', '/opt', '/run', '/boot', '/sys', '/media'):\n"
        "    refused(lambda: os.listdir(path) or 1 / 0, errors=(OSError, ZeroDivisionError))",
    ),
    "root_holds_only_the_system": (
        HELD,
        "seen = set(os.listdir('/')) - {'usr', 'bin', 'sbin', 'lib', 'lib32', 'lib64', 'libx32', 'etc', 'dev', 'tmp',"
        " 'runner.pyc', sys.base_prefix.split('/')[1]}\nif seen: escaped(seen)",
    ),
    "write_system_programs": (
        HELD,
        "refused(lambda: open('/usr/bin/x', 'w')); refused(lambda: os.unlink('/usr/bin/env'))",
    ),
    "write_the_interpreter": (HELD, "refused(lambda: open(sys.base_prefix + '/lib/x.py', 'w'))"),
    "write_the_runner": (HELD, "refused(lambda: open('/runner.pyc', 'w')); refused(lambda: os.unlink('/runner.pyc'))"),
    "write_the_root": (HELD, "refused(lambda: os.mkdir('/x')); refused(lambda: os.symlink('/', '/dev/x'))"),
    "change_modes": (HELD, "refused(lambda: os.chmod('/usr', 0o777)); refused(lambda: os.chmod('/dev', 0o777))"),
    "dots_above_the_root": (HELD, "refused(lambda: open('/tmp/../../../../..' + SECRET).read())"),
    "symlink_to_a_secret": (HELD, "os.symlink(SECRET, '/tmp/s'); refused(lambda: open('/tmp/s').read())"),
    "symlink_the_harness_may_follow": (
        HELD,
        "os.symlink('/runner.pyc', '/tmp/program'); os.symlink('/', '/tmp/stdin')",
    ),
    "hard_link_to_the_system": (HELD, "refused(lambda: os.link('/usr/bin/env', '/tmp/env'))"),
    "proc_is_absent": (HELD, "refused(lambda: os.listdir('/proc')); refused(lambda: open('/proc/1/environ').read())"),
    "memory_of_the_harness": (HELD, "refused(lambda: open('/proc/1/mem', 'rb+'))"),
    "root_of_another_process": (
        HELD,
        "refused(lambda: os.listdir('/proc/1/root')); refused(lambda: os.listdir('/proc/self/cwd'))",
    ),
    "kernel_settings": (HELD, "refused(lambda: open('/proc/sys/kernel/core_pattern', 'w'))"),
    "sysfs_and_cgroups": (HELD, "refused(lambda: os.listdir('/sys/fs/cgroup'))"),
    "devices_are_four_and_names_for_standard_input": (
        HELD,
        "seen = set(os.listdir('/dev')) - {'null', 'zero', 'random', 'urandom', 'stdin', 'fd'}\nif seen or os.listdir('/dev/fd') != ['0']: escaped(seen)",
    ),
    "memory_and_disk_devices": (
        HELD,
        "for name in ('mem', 'kmsg', 'sda', 'vda', 'tty', 'ptmx', 'fuse', 'kvm'): refused(lambda: open('/dev/' + name, 'rb'))",
    ),
    "make_a_device": (
        HELD,
        "refused(lambda: os.mknod('/tmp/mem', 0o20666, os.makedev(1, 1))); refused(lambda: os.mknod('/tmp/vda', 0o60666, os.makedev(254, 0)))",
    ),
    "secrets_in_the_environment": (
        HELD,
        "seen = set(os.environ) - {'PATH', 'LANG', 'HOME', 'PWD', 'LC_CTYPE', 'PYTHONHASHSEED', 'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'}\nif seen: escaped(seen)",
    ),
    # file descriptors
    "inherited_descriptors": (
        HELD,
        "for descriptor in range(4, 1024):\n"
        "    try: os.fstat(descriptor)\n"
        "    except OSError: continue\n"
        "    escaped(descriptor)",
    ),
    "standard_streams_lead_to_pipes": (
        HELD,
        "import stat\nfor d in range(4):\n    if not stat.S_ISFIFO(os.fstat(d).st_mode): escaped(d)",
    ),
    "terminal_injection": (ANY, "import fcntl\nfor d in (0, 1, 2): refused(lambda: fcntl.ioctl(d, 0x5412, b'x'))"),
    "more_descriptors_than_allowed": (
        HELD,
        "held = []\ntry:\n    while len(held) < 500: held.append(os.open('/dev/null', 0))\nexcept OSError: pass\nif len(held) > 100: escaped(len(held))",
    ),
    "close_everything": (ANY, "os.closerange(0, 64)"),
    # exhaustion
    "fork_bomb": (
        ANY,
        "children(200, lambda: time.sleep(5))\nn = 0\nwhile n < 200:\n    n += 1\n    try: os.waitpid(-1, os.WNOHANG)\n    except OSError: break\ntime.sleep(0.2)",
    ),
    "fork_bomb_that_forks_on": (
        ANY,
        "def grow(depth=0):\n    if depth < 6: children(3, lambda: grow(depth + 1))\n    time.sleep(5)\ngrow()",
    ),
    "processes_are_counted": (
        HELD,
        "started = 0\nfor _ in range(100):\n    try: pid = os.fork()\n    except OSError: break\n    if pid == 0: time.sleep(5); os._exit(0)\n    started += 1\nif started > 16: escaped(started)\nos._exit(0)",
    ),
    "thread_bomb": (
        ANY,
        "import threading\nstarted = 0\ntry:\n    for _ in range(200): threading.Thread(target=time.sleep, args=(5,), daemon=True).start(); started += 1\nexcept RuntimeError: pass\nif started > 16: escaped(started)\nos._exit(0)",
    ),
    "memory_bomb": (
        {"error", "signal", "memory"},
        "block = bytearray(512 << 20)\nblock[::4096] = bytes(len(block[::4096]))\nescaped('memory')",
    ),
    "memory_bomb_in_many_processes": (
        ANY,
        "def eat():\n    block = b'x' * (100 << 20)\n    time.sleep(5)\nchildren(10, eat)\ntime.sleep(5)\nescaped('memory')",
    ),
    "memory_never_touched": ({"error"}, "import mmap\nmmap.mmap(-1, 1 << 40)"),
    "shared_memory": (HELD, "syscall(29, 0, 1 << 20, 0o1600)"),
    "memory_files": (HELD, "refused(lambda: os.memfd_create('x'))"),
    "message_queues": (HELD, "syscall(68, 0, 0o1600); syscall(240, b'/q', 0o102, 0o600, None)"),
    "locked_memory": (HELD, "syscall(151, 3)"),
    "disk_fill": (HELD, "refused(lambda: [open(f'/tmp/f{n}', 'wb').write(bytes(1 << 20)) for n in range(32)])"),
    "one_large_file": (ANY, "refused(lambda: open('/tmp/f', 'wb').write(bytes(16 << 20)))"),
    "sparse_file": (ANY, "refused(lambda: os.truncate(open('/tmp/f', 'wb').name, 1 << 40))"),
    "many_small_files": (
        ANY,
        "try:\n    for n in range(20000): os.close(os.open(f'/tmp/{n}', os.O_CREAT, 0o600))\nexcept OSError: pass",
    ),
    "deep_folders": (ANY, "for n in range(2000):\n    os.mkdir('d'); os.chdir('d')"),
    "shared_memory_folder": (HELD, "refused(lambda: open('/dev/shm/x', 'w'))"),
    "output_flood": ({"output"}, "for _ in range(4000): sys.stdout.write('x' * 65536)\nescaped('output')"),
    "error_flood": ({"output"}, "for _ in range(4000): sys.stderr.write('x' * 65536)\nescaped('output')"),
    "output_flood_from_a_daemon": (
        ANY,
        "def flood():\n    os.setsid()\n    for _ in range(4000): os.write(1, b'x' * 65536)\nchildren(1, flood)\ntime.sleep(0.05)",
    ),
    "processor_hog": ({"cpu"}, "end = time.monotonic() + 10\nwhile time.monotonic() < end: pass\nescaped('time')"),
    "processor_hog_that_ignores_the_warning": (
        {"cpu", "wall"},  # whichever limit comes first on a machine that has other work
        "signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nend = time.monotonic() + 10\nwhile time.monotonic() < end: pass\nescaped('time')",
    ),
    "processor_hog_in_children": (
        {"wall"},
        "def burn():\n    end = time.monotonic() + 60\n    while time.monotonic() < end: pass\nchildren(4, burn)\ntime.sleep(60)",
    ),
    "number_too_large_to_compute": ({"cpu", "memory", "error"}, "print(len(str(9 ** 9 ** 8)))"),
    "deep_recursion": (
        {"error", "signal", "memory"},
        "sys.setrecursionlimit(10 ** 9)\ndef f(n): return f(n + 1) + 1\nf(0)",
    ),
    "crash_the_interpreter": ({"signal"}, "ctypes.string_at(0)"),
    "raise_its_own_limits": (
        HELD,
        "import resource\nfor limit in (resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE, resource.RLIMIT_CPU):\n    refused(lambda: resource.setrlimit(limit, (-1, -1)))",
    ),
    # processes that would rather stay
    "unkillable_sleeper": (
        {"wall"},
        "for number in range(1, 65):\n    try: signal.signal(number, signal.SIG_IGN)\n    except (OSError, ValueError): pass\ntime.sleep(30)",
    ),
    "daemon_in_its_own_session": (
        ANY,
        "def stay():\n    os.setsid()\n    children(1, lambda: time.sleep(30))\nchildren(3, stay)",
    ),
    "zombies": (ANY, "children(12, lambda: None)\ntime.sleep(0.1)"),
    "stopped_processes": (
        ANY,
        "children(3, lambda: os.kill(os.getpid(), signal.SIGSTOP))\nos.kill(os.getpid(), signal.SIGSTOP)",
    ),
    "wait_for_input_that_never_comes": (ANY, "sys.stdin.read()\nwhile True: time.sleep(1)"),
    # other processes
    "ptrace_the_harness": (HELD, "syscall(101, 16, 1, 0, 0); syscall(101, 0, 0, 0, 0)"),
    "read_the_harness": (HELD, "syscall(310, 1, 0, 0, 0, 0, 0); syscall(311, 1, 0, 0, 0, 0, 0)"),
    "kill_the_harness": (HELD, "for number in range(1, 65):\n    try: os.kill(1, number)\n    except OSError: pass"),
    "kill_everything": (ANY, "os.kill(-1, signal.SIGKILL)"),
    "kill_the_parent": (
        HELD,
        "refused(lambda: os.kill(os.getppid(), signal.SIGKILL)); os.kill(os.getppid(), signal.SIGSTOP); os.kill(os.getppid(), signal.SIGINT)",
    ),
    "look_killed_from_outside": (
        HELD,
        "import threading\nme = os.getpid()\nfor send in (lambda: os.kill(me, 9), lambda: os.killpg(os.getpgrp(), 9),"
        " lambda: signal.pthread_kill(threading.get_ident(), 9)): refused(send)\n"
        "syscall(200, me, 9)\nsyscall(234, me, me, 9)\nsyscall(129, me, 9, 0)\nsyscall(297, me, me, 9, 0)",
    ),
    "stdin_file_replaced_by_a_link": (
        HELD,
        "try: os.unlink('/tmp/.stdin')\nexcept OSError: pass\nos.symlink('/tmp/victim', '/tmp/.stdin')  # /dev/stdin leads there",
    ),
    "stdin_file_replaced_by_a_folder": (
        HELD,
        "try: os.unlink('/tmp/.stdin')\nexcept OSError: pass\nos.makedirs('/tmp/.stdin/x', exist_ok=True)  # /dev/stdin",
    ),
    "kill_a_process_of_the_host": (HELD, "refused(lambda: os.kill(SENTINEL, signal.SIGKILL))"),
    "limit_the_harness": (HELD, "syscall(302, 1, 0, (ctypes.c_ulong * 2)(1, 1), None)"),
    "slow_the_harness": (HELD, "syscall(141, 0, 1, 19)"),
    "descriptors_of_the_harness": (HELD, "syscall(434, 1, 0); syscall(438, 3, 0, 0); syscall(312, 1, 1, 0, 0, 0)"),
    "signal_flood_at_the_harness": (HELD, "for _ in range(20000): os.kill(1, signal.SIGCHLD)"),
    # memory that no limit counts, and the host's disks
    "asynchronous_io": (HELD, "syscall(206, 1, ctypes.byref(ctypes.c_ulong(0)))"),
    "sync_the_disks_of_the_host": (HELD, "syscall(162, allowed=(errno.EPERM,)); syscall(306, 0)"),
    "descriptors_sent_by_message": (
        HELD,
        "import socket\na, b = socket.socketpair()\nrefused(lambda: socket.send_fds(a, [b'x'], [a.fileno(), b.fileno()]))",
    ),
    "more_files_than_a_program_needs": (
        {"output"},
        "for number in range(10_000_000): os.close(os.open(f'/tmp/{number}', os.O_CREAT))\nescaped('files')",
    ),
    # what lies beside the system and the interpreter
    "rest_of_usr": (HELD, "if {'src', 'local', 'games', 'etc'} & set(os.listdir('/usr')) - {'local'}: escaped('usr')"),
    "rest_of_the_interpreter_s_prefix": (
        HELD,
        "if set(os.listdir(sys.base_prefix)) - {'bin', 'sbin', 'lib', 'lib64', 'lib32', 'libx32', 'libexec', 'include', 'share', 'local'}:"
        " escaped('prefix')",
    ),
    # privileges, namespaces, mounts
    "become_root": (
        HELD,
        "refused(lambda: os.setuid(0)); refused(lambda: os.setgid(0)); refused(lambda: os.setgroups([0]))",
    ),
    "setuid_program": (
        ANY,
        "import subprocess\nr = subprocess.run(['/bin/su', '-c', 'id', 'root'], capture_output=True, stdin=subprocess.DEVNULL)\nif b'uid=0' in r.stdout: escaped(r.stdout)",
    ),
    "own_setuid_program": (
        HELD,
        "open('/tmp/id', 'wb').write(open('/usr/bin/id', 'rb').read()); os.chmod('/tmp/id', 0o6777)\nr = os.popen('/tmp/id')\nif b'uid=0' in r.buffer.read(): escaped('setuid')",
    ),
    "capabilities": (
        HELD,
        "header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()\nlibc.capget(header, data)\nif any(data): escaped(list(data))",
    ),
    "user_namespace": (HELD, "syscall(272, 0x10000000)"),
    "mount_and_network_namespaces": (HELD, "syscall(272, 0x20000); syscall(272, 0x40000000); syscall(308, 0, 0)"),
    "namespace_through_clone": (HELD, "syscall(56, 0x10000011, 0, 0, 0, 0); syscall(56, 0x20000011, 0, 0, 0, 0)"),
    "namespace_through_clone3": (HELD, "syscall(435, (ctypes.c_ulong * 8)(0x10000000, 0, 0, 0, 17, 0, 0, 0), 64)"),
    "mount": (HELD, "syscall(165, b'none', b'/tmp', b'tmpfs', 0, 0); syscall(166, b'/usr', 2)"),
    "mount_by_the_new_calls": (
        HELD,
        "syscall(430, b'proc', 0); syscall(428, -100, b'/', 1); syscall(429, -100, b'/', -100, b'/tmp', 0); syscall(442, -100, b'/', 0, 0, 0)",
    ),
    "chroot_and_pivot": (HELD, "syscall(161, b'/tmp'); syscall(155, b'/tmp', b'/tmp')"),
    "file_handles": (HELD, "syscall(304, 0, 0, 0); syscall(303, 0, 0, 0, 0, 0)"),
    # the kernel and the machine
    "bpf_and_perf": (HELD, "syscall(321, 0, 0, 0); syscall(298, 0, 0, -1, -1, 0)"),
    "io_uring": (HELD, "syscall(425, 1, (ctypes.c_ulong * 16)()); syscall(427, 0, 0, 0, 0)"),
    "userfaultfd": (HELD, "syscall(323, 0)"),
    "keyring": (
        HELD,
        "syscall(248, b'user', b'x', b'y', 1, -3); syscall(250, 0, -3, 1); syscall(249, b'user', b'x', 0, -3)",
    ),
    "modules_and_kexec": (
        HELD,
        "syscall(175, 0, 0, b''); syscall(313, -1, b'', 0); syscall(246, 0, 0, 0, 0); syscall(176, b'none', 0)",
    ),
    "clock_and_reboot": (HELD, "syscall(159, (ctypes.c_long * 32)()); syscall(227, 0, 0); syscall(169, 0, 0, 0, 0)"),
    "swap_accounting_and_quota": (HELD, "syscall(167, b'/none', 0); syscall(163, b'/none'); syscall(179, 0, 0, 0, 0)"),
    "host_name": (HELD, "syscall(170, b'x', 1); syscall(171, b'x', 1)"),
    "ports_and_personality": (
        HELD,
        "syscall(172, 3); syscall(173, 0, 1, 1); syscall(135, 0x40000); syscall(154, 1, 0, 0)",
    ),
    "real_time_priority": (
        HELD,
        "refused(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))); syscall(251, 1, 0, 0)",
    ),
    "x32_system_calls": (HELD, "syscall(0x40000000 + 39)"),
    "kernel_log": (HELD, "syscall(103, 3, 0, 0)"),
    "write_into_a_running_program": (HELD, "refused(lambda: open(sys.executable, 'rb+'))"),
    # fooling the judge
    "answer_in_the_harness_protocol": (
        HELD,
        "os.write(1, b'\\0\\0\\0\\x0f{\"status\":\"ok\"}'); os.write(3, b'\\0\\0\\0\\x02{}')",
    ),
    "end_before_the_verdict": (HELD, "os._exit(0)"),
    "change_the_harness_code": (
        HELD,
        "f = sys._getframe()\nwhile f.f_back: f = f.f_back\nf.f_globals['_send'] = f.f_globals['_run'] = lambda *a: {'status': 'ok'}",
    ),
    "shadow_modules_of_later_tests": (
        HELD,
        "for name in ('json', 'os', 'select', 'resource', 'sitecustomize'): open(f'/tmp/{name}.py', 'w').write('raise SystemExit')",
    ),
    "exit_hooks": (ANY, "import atexit\natexit.register(lambda: time.sleep(60))"),
}

CPP_ATTEMPTS: dict[str, str] = {
    "include_a_secret": '#include "{secret}"\nint main() {{}}',
    "include_passwords": '#include "/etc/shadow"\n#include "/etc/passwd"\nint main() {{}}',
    "include_an_endless_device": '#include "/dev/zero"\nint main() {{}}',
    "assemble_a_secret_in": 'asm(".incbin \\"{secret}\\"");\nint main() {{}}',
    "compiler_bomb": "template <int N> struct A {{ A<N + 1> a; A<N + 2> b; }};\nint main() {{ A<0> a; }}",
    "compiler_output_bomb": "#include <vector>\nchar big[1 << 30] = {{1}};\nint main() {{ return big[5]; }}",
    "legacy_system_calls": 'int main() {{ long r = 20; asm volatile("int $0x80" : "+a"(r)); return r > 0 ? 0 : 1; }}',
}


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """What an escape would find: a marker, a secret, listeners, a process."""
    folder = tmp_path_factory.mktemp("host")
    folder.chmod(0o755)
    (folder / "marker").write_text("host")
    (folder / "secret").write_text("7yTq-secret-of-the-host\n")
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as sentinel,
    ):
        unix.bind(str(folder / "unix"))
        unix.listen()
        tcp.setblocking(False)
        unix.setblocking(False)
        values = {
            "marker": str(folder / "marker"),
            "secret": str(folder / "secret"),
            "port": tcp.getsockname()[1],
            "unix": str(folder / "unix"),
            "sentinel": sentinel.pid,
        }
        yield values
        for listener in (tcp, unix):
            with pytest.raises(BlockingIOError):
                listener.accept()
        assert sentinel.poll() is None
        assert sorted(path.name for path in folder.iterdir()) == ["marker", "secret", "unix"]
        sentinel.kill()


@pytest.fixture(scope="module")
def pool():
    pool = SandboxPool(2, LIMITS)
    yield pool
    pool.close()
    assert runners() == []


def runners():
    """Process ids of everything that runs in a sandbox of ours."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"/runner.pyc" in command.split(b"\0"):
                found.append(int(entry.name))
    return found


def assert_still_works(pool):
    with pool.session(Program("print(int(input()) * 2)")) as session:
        result = session.run("21")
    assert (result.status, result.stdout) == ("ok", "42\n")


def test_there_are_at_least_sixty_attempts():
    assert len(PYTHON_ATTEMPTS) + len(CPP_ATTEMPTS) >= 60


@pytest.mark.parametrize("name", PYTHON_ATTEMPTS)
def test_attempt_in_python(pool, host, name):
    statuses, source = PYTHON_ATTEMPTS[name]
    if "syscall(" in source and platform.machine() != "x86_64":
        pytest.skip("system call numbers of x86_64")
    with pool.session(Program(PRELUDE.format(**host) + source)) as session:
        result = session.run()
        if result.status == "ok":
            assert "ESCAPED" not in session.run().stdout
    assert "ESCAPED" not in result.stdout
    assert "7yTq" not in result.stdout + result.stderr
    assert result.status in statuses, result
    assert_still_works(pool)


@pytest.mark.skipif(not Path("/usr/bin/g++").exists(), reason="g++ is not installed")
@pytest.mark.parametrize("name", CPP_ATTEMPTS)
def test_attempt_in_cpp(pool, host, name):
    said = ""
    try:
        with pool.session(Program(CPP_ATTEMPTS[name].format(**host), "cpp")) as session:
            result = session.run()
            assert result.status != "ok"
    except RefusedProgramError as error:
        said = str(error)
    assert "7yTq" not in said
    assert "root:" not in said
    assert_still_works(pool)


def test_a_returned_value_cannot_flood(pool):
    with pool.session(Program("def f(): return 'x' * 10_000_000")) as session:
        result = session.call(Call("f"))
    assert result.status == "output"
    assert len(result.value) <= LIMITS.output_bytes


def test_input_that_nobody_reads_does_not_block(pool):
    with pool.session(Program("print('done')")) as session:
        assert session.run("x" * 2_000_000).stdout == "done\n"


def test_a_program_cannot_change_what_later_tests_see(pool):
    source = "import builtins, os\nprint(hasattr(builtins, 'seen'), len(os.environ))\nbuiltins.seen = 1\nos.environ['x'] = '1'"
    with pool.session(Program(source)) as session:
        assert session.run().stdout == session.run().stdout


def test_nothing_survives_between_tests_of_one_program(pool):
    source = (
        "import os, sys, time\n"
        "if os.fork() == 0:\n    os.setsid()\n    time.sleep(30)\n"
        "count = 0\n"
        "for pid in range(2, 200):\n"
        "    try: os.kill(pid, 0); count += 1\n"
        "    except OSError: pass\n"
        "print(count)"
    )
    with pool.session(Program(source)) as session:
        assert [session.run().stdout for _ in range(3)] == ["2\n"] * 3


def test_the_environment_of_this_process_does_not_leak(pool, monkeypatch):
    monkeypatch.setenv("RING_ASYNC_SECRET", "7yTq")
    pool = SandboxPool(1, LIMITS)
    try:
        with pool.session(Program("import os; print(dict(os.environ))")) as session:
            assert "7yTq" not in session.run().stdout
    finally:
        pool.close()


def test_hostile_programs_at_once_do_not_disturb_honest_ones(pool):
    hostile = "import os, time\nfor _ in range(50):\n    try:\n        if os.fork() == 0: time.sleep(5)\n    except OSError: break\ntime.sleep(5)"
    outputs = []

    def attack():
        with pool.session(Program(hostile)) as session:
            session.run()

    thread = threading.Thread(target=attack)
    thread.start()
    for _ in range(5):
        with pool.session(Program("print('honest')")) as session:
            outputs.append(session.run().stdout)
    thread.join()
    assert outputs == ["honest\n"] * 5


def test_closing_ends_every_process(host):
    others = set(runners())
    pool = SandboxPool(2, LIMITS)
    mine = set(runners()) - others
    assert mine
    pool.close()
    assert not mine & set(runners())


def test_a_killed_launcher_takes_its_sandboxes_along_and_is_replaced():
    pool = SandboxPool(1, LIMITS)
    try:
        os.kill(pool._plain._spawner.pid, 9)
        pool._plain._spawner._process.wait()
        assert_still_works(pool)
    finally:
        pool.close()
