"""The filters, run on a small interpreter of their instructions."""

import struct

import pytest

from ring_async.sandbox.seccomp import UnsupportedMachineError, guard_filter, sandbox_filter

ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
X86_64, AARCH64 = 0xC000003E, 0xC00000B7


def decide(code, architecture, number, *arguments):
    padded = [*arguments, *[0] * (6 - len(arguments))]
    facts = struct.pack("=IIQ6Q", number, architecture, 0, *padded)
    position = accumulator = 0
    while True:
        operation, if_true, if_false, operand = struct.unpack_from("=HBBI", code, 8 * position)
        position += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("=I", facts, operand)
        elif operation == 0x06:
            return operand
        else:
            is_true = {
                0x15: accumulator == operand,
                0x35: accumulator >= operand,
                0x45: bool(accumulator & operand),
            }[operation]
            position += if_true if is_true else if_false


def sandbox(number, *arguments):
    return decide(sandbox_filter("x86_64"), X86_64, number, *arguments)


def guard(number, *arguments):
    return decide(guard_filter("x86_64"), X86_64, number, *arguments)


@pytest.mark.parametrize("number", [0, 1, 9, 59, 61, 231, 257, 318])
def test_programs_may_compute_read_and_start_processes(number):
    assert sandbox(number) == ALLOW


@pytest.mark.parametrize("number", [41, 42, 101, 165, 166, 155, 161, 248, 272, 298, 308, 310, 319, 321, 323, 425, 435])
def test_programs_may_not_do_what_escapes_need(number):
    assert sandbox(number) in (EPERM, ENOSYS)


def test_clone_is_allowed_without_namespaces_only():
    assert sandbox(56, 17) == ALLOW
    assert sandbox(56, 0x3D0F00) == ALLOW  # what starting a thread asks for
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert sandbox(56, flag | 17) == EPERM


def test_limits_of_other_processes_are_out_of_reach():
    assert sandbox(302, 0) == ALLOW
    assert sandbox(302, 1) == EPERM


def test_a_terminal_s_input_is_out_of_reach():
    assert sandbox(16, 0, 0x5401) == ALLOW
    assert sandbox(16, 0, 0x5412) == EPERM


def test_unknown_and_foreign_system_calls_do_not_exist():
    assert sandbox(500) == ENOSYS
    assert sandbox(0x40000000 + 1) == ENOSYS
    assert decide(sandbox_filter("x86_64"), 0x40000003, 1) == KILL  # 32-bit code


def test_the_other_processor_has_other_numbers():
    code = sandbox_filter("aarch64")
    assert decide(code, AARCH64, 198) == EPERM  # socket
    assert decide(code, AARCH64, 41) == EPERM  # pivot_root, which is socket's number on x86_64
    assert decide(code, AARCH64, 63) == ALLOW  # read
    assert decide(guard_filter("aarch64"), AARCH64, 56, 0, 0, 0) == ALLOW  # openat
    assert decide(guard_filter("aarch64"), AARCH64, 56, 0, 0, 0o1) == EPERM


def test_a_guarded_worker_reads_and_computes_and_nothing_else():
    assert [guard(number) for number in (0, 1, 9, 12, 202, 228, 231)] == [ALLOW] * 7
    assert [guard(number) for number in (41, 56, 57, 59, 62, 82, 87, 90, 101, 157, 302, 322)] == [EPERM] * 12


def test_a_guarded_worker_opens_files_for_reading_only():
    assert guard(257, 0, 0, 0o2000000) == ALLOW  # O_RDONLY | O_CLOEXEC
    for flags in (0o1, 0o2, 0o100, 0o1000, 0o20200000):
        assert guard(257, 0, 0, flags) == EPERM
        assert guard(2, 0, flags) == EPERM


def test_other_processors_are_refused():
    with pytest.raises(UnsupportedMachineError, match="riscv64; there is one for aarch64, x86_64"):
        sandbox_filter("riscv64")
