"""Seccomp filters: which system calls model-written code, and code that reads model-written text, may make.

Owns: two BPF programs and installing one. `sandbox_filter` refuses what a sandboxed program has no use for and a
kernel exploit does; `guard_filter` allows a scoring worker only to compute, read files and answer on open pipes.
Does not own: namespaces, limits. Imports the standard library alone, so that small processes can use it.

Numbers are from Linux's system call tables (x86_64, and the generic table for aarch64).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_NO_NEW_PRIVS = 38
_SET_SECCOMP = 22
_MODE_FILTER = 2

_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_JUMP_GREATER_EQUAL = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_JUMP_SET = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets into struct seccomp_data

_ALLOW = 0x7FFF0000
_KILL = 0x80000000
_REFUSE = 0x00050000 | errno.EPERM
_ABSENT = 0x00050000 | errno.ENOSYS

_X32_BIT = 0x40000000
_FIRST_UNKNOWN = 463
"""System calls newer than these tables do not exist in the sandbox."""
_NEW_NAMESPACES = 0x7E020080  # CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_WRITING = 0o3 | 0o100 | 0o1000 | 0o20000000  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_TMPFILE
_TERMINAL_INJECTION = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
_HARMLESS_FCNTLS = (1, 2, 3, 1030)  # F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC
_HARMLESS_IOCTLS = (0x5401, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX


@dataclass(frozen=True, slots=True)
class _Machine:
    audit_architecture: int
    column: int


_MACHINES = {"x86_64": _Machine(0xC000003E, 0), "aarch64": _Machine(0xC00000B7, 1)}

_Table = Mapping[str, tuple[int | None, int | None]]

# fmt: off
_REFUSED: _Table = {
    # mounts and namespaces
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "move_mount": (429, 429),
    "open_tree": (428, 428), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442), "unshare": (272, 97), "setns": (308, 268),
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "kcmp": (312, 272), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424),
    # large or fresh attack surface
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "modify_ldt": (154, None), "personality": (135, 92), "lookup_dcookie": (212, 18),
    "fanotify_init": (300, 262), "fanotify_mark": (301, 263), "inotify_init": (253, None),
    "inotify_init1": (294, 26), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    # the machine
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225),
    "acct": (163, 89), "quotactl": (179, 60), "quotactl_fd": (443, 443), "syslog": (103, 116),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171),
    "sethostname": (170, 161), "setdomainname": (171, 162), "iopl": (172, None), "ioperm": (173, None),
    "vhangup": (153, 58), "uselib": (134, None), "sysfs": (139, None), "_sysctl": (156, None),
    "nfsservctl": (180, 42), "mknod": (133, None), "mknodat": (259, 33),
    # network
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202),
    "accept4": (288, 242),
    # memory that no limit counts; a message may carry descriptors, and a descriptor under way counts for nobody
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196),
    "shmctl": (31, 195), "semget": (64, 190), "semop": (65, 193), "semtimedop": (220, 192), "msgget": (68, 186),
    "msgsnd": (69, 189), "mq_open": (240, 180), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "io_setup": (206, 0), "io_submit": (209, 2), "sendmsg": (46, 211), "sendmmsg": (307, 269),
    "mlock": (149, 228), "mlock2": (325, 284), "mlockall": (151, 230),
    # every file system of the host
    "sync": (162, 81), "syncfs": (306, 267),
    # scheduling and placement
    "mbind": (237, 235), "set_mempolicy": (238, 237), "set_mempolicy_home_node": (450, 450),
    "move_pages": (279, 239), "migrate_pages": (256, 238), "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274), "sched_setparam": (142, 118), "ioprio_set": (251, 30), "setpriority": (141, 140),
    "sched_setaffinity": (203, 122),
}

_GUARD_ALLOWED: _Table = {
    "read": (0, 63), "write": (1, 64), "pread64": (17, 67), "readv": (19, 65), "writev": (20, 66), "close": (3, 57),
    "fstat": (5, 80), "newfstatat": (262, 79), "stat": (4, None), "lstat": (6, None), "statx": (332, 291),
    "lseek": (8, 62), "mmap": (9, 222), "munmap": (11, 215), "mprotect": (10, 226), "mremap": (25, 216),
    "madvise": (28, 233), "brk": (12, 214), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139), "sigaltstack": (131, 132), "futex": (202, 98), "getrandom": (318, 278),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115),
    "gettimeofday": (96, 169), "time": (201, None), "nanosleep": (35, 101), "getpid": (39, 172),
    "gettid": (186, 178), "getppid": (110, 173), "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176),
    "getegid": (108, 177), "exit": (60, 93), "exit_group": (231, 94), "getdents64": (217, 61),
    "getdents": (78, None), "getcwd": (79, 17), "readlink": (89, None), "readlinkat": (267, 78),
    "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439), "poll": (7, None), "ppoll": (271, 73),
    "select": (23, None), "pselect6": (270, 72), "setitimer": (38, 103), "getitimer": (36, 102),
    "sched_getaffinity": (204, 123), "sched_yield": (24, 124), "getrusage": (98, 165), "times": (100, 153),
    "sysinfo": (99, 179), "uname": (63, 160), "rseq": (334, 293), "set_robust_list": (273, 99),
    "set_tid_address": (218, 96), "restart_syscall": (219, 128), "membarrier": (324, 283), "getrlimit": (97, 163),
}
# fmt: on

_OPEN, _OPENAT = (2, None), (257, 56)
_KILL_CALL = (62, 129)
_SIGNAL_ARGUMENTS = {(200, 130): 1, (234, 131): 2, (129, 138): 1, (297, 240): 2}
"""Which argument of tkill, tgkill, rt_sigqueueinfo and rt_tgsigqueueinfo is the signal."""
_EVERYBODY = 0xFFFFFFFF
_CLONE, _CLONE3, _IOCTL, _FCNTL, _PRLIMIT = (56, 220), (435, 435), (16, 29), (72, 25), (302, 261)


class UnsupportedMachineError(OSError):
    """No system call table for this processor."""


def sandbox_filter(machine: str | None = None) -> bytes:
    """The filter for sandboxed programs, as bubblewrap's `--seccomp` reads it.

    Everything is allowed but: the table above, namespaces through `clone`, writing into a terminal's input, setting the
    limits of other processes (process 1 of the sandbox has the same user), SIGKILL, and system calls newer than the
    table. A program that cannot send SIGKILL and ends by it was killed from outside: by the kernel, for memory, or by a
    person. Only `kill(-1, SIGKILL)` is left, which process 1 needs; it spares whoever calls it.
    `clone3` is absent: its flags lie in memory, out of a filter's sight, and C libraries fall back to `clone`.

    Raises:
        UnsupportedMachineError: neither x86_64 nor aarch64.
    """
    program = _Program(machine)
    program.refuse_from(_FIRST_UNKNOWN)
    for numbers in _REFUSED.values():
        program.when(numbers, [_instruction(_RETURN, _REFUSE)])
    program.when(_CLONE3, [_instruction(_RETURN, _ABSENT)])
    program.when(_CLONE, _refuse_if_any_bit(0, _NEW_NAMESPACES))
    program.when(_IOCTL, _return_if_argument(1, _TERMINAL_INJECTION, _REFUSE, otherwise=_ALLOW))
    program.when(_KILL_CALL, _refuse_sigkill(1, unless_first=_EVERYBODY))
    for numbers, index in _SIGNAL_ARGUMENTS.items():
        program.when(numbers, _refuse_sigkill(index))
    program.when(_PRLIMIT, _return_if_argument(0, (0,), _ALLOW, otherwise=_REFUSE))
    return program.end(_ALLOW)


def guard_filter(machine: str | None = None) -> bytes:
    """The filter for scoring workers: compute, read files, use open file descriptors; all else is refused.

    Raises:
        UnsupportedMachineError: neither x86_64 nor aarch64.
    """
    program = _Program(machine)
    for numbers in _GUARD_ALLOWED.values():
        program.when(numbers, [_instruction(_RETURN, _ALLOW)])
    program.when(_OPEN, _refuse_if_any_bit(1, _WRITING))
    program.when(_OPENAT, _refuse_if_any_bit(2, _WRITING))
    program.when(_IOCTL, _return_if_argument(1, _HARMLESS_IOCTLS, _ALLOW, otherwise=_REFUSE))
    program.when(_FCNTL, _return_if_argument(1, _HARMLESS_FCNTLS, _ALLOW, otherwise=_REFUSE))
    program.when(_CLONE3, [_instruction(_RETURN, _ABSENT)])
    return program.end(_REFUSE)


def install_filter(code: bytes) -> None:
    """Put a filter in force for this thread and all it starts, irrevocably; also gives up new privileges.

    Raises:
        OSError: the kernel refused it.
    """

    class FilterProgram(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    libc = ctypes.CDLL(None, use_errno=True)
    program = FilterProgram(len(code) // 8, code)
    for arguments in ((_NO_NEW_PRIVS, 1, 0, 0, 0), (_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0)):
        if libc.prctl(*arguments) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"seccomp filter refused: {os.strerror(number)}")


class _Program:
    """A filter under construction: checks the processor first, then one block per system call."""

    def __init__(self, machine: str | None) -> None:
        name = machine or platform.machine()
        if name not in _MACHINES:
            known = ", ".join(sorted(_MACHINES))
            raise UnsupportedMachineError(errno.ENOSYS, f"no system call table for {name}; there is one for {known}")
        self._column = _MACHINES[name].column
        self._code = [
            _instruction(_LOAD_WORD, _ARCHITECTURE),
            _instruction(_JUMP_EQUAL, _MACHINES[name].audit_architecture, 1, 0),
            _instruction(_RETURN, _KILL),
            _instruction(_LOAD_WORD, _NUMBER),
        ]
        if name == "x86_64":
            self.refuse_from(_X32_BIT)

    def refuse_from(self, number: int) -> None:
        self._code += [_instruction(_JUMP_GREATER_EQUAL, number, 0, 1), _instruction(_RETURN, _ABSENT)]

    def when(self, numbers: tuple[int | None, int | None], block: Sequence[bytes]) -> None:
        """For this system call run the block, which must return; others skip it."""
        number = numbers[self._column]
        if number is not None:
            self._code += [_instruction(_JUMP_EQUAL, number, 0, len(block)), *block]

    def end(self, action: int) -> bytes:
        return b"".join([*self._code, _instruction(_RETURN, action)])


def _instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, operand)


def _load_argument(index: int) -> bytes:
    """The low word of an argument: both machines are little-endian, and the flags tested here fit 32 bits."""
    return _instruction(_LOAD_WORD, _ARGUMENTS + 8 * index)


def _refuse_if_any_bit(index: int, mask: int) -> list[bytes]:
    return [
        _load_argument(index),
        _instruction(_JUMP_SET, mask, 0, 1),
        _instruction(_RETURN, _REFUSE),
        _instruction(_RETURN, _ALLOW),
    ]


def _refuse_sigkill(index: int, *, unless_first: int | None = None) -> list[bytes]:
    """Refuse where argument `index` is SIGKILL, but for this value of argument 0."""
    block = []
    if unless_first is not None:
        block += [_load_argument(0), _instruction(_JUMP_EQUAL, unless_first, 0, 1), _instruction(_RETURN, _ALLOW)]
    return [*block, *_return_if_argument(index, (signal.SIGKILL,), _REFUSE, otherwise=_ALLOW)]


def _return_if_argument(index: int, values: Sequence[int], action: int, *, otherwise: int) -> list[bytes]:
    block = [_load_argument(index)]
    for value in values:
        block += [_instruction(_JUMP_EQUAL, value, 0, 1), _instruction(_RETURN, action)]
    return [*block, _instruction(_RETURN, otherwise)]
