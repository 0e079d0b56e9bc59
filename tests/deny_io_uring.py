#!/usr/bin/env python3
"""Runs a command in which every io_uring_* system call answers EPERM.

    tests/deny_io_uring.py COMMAND [ARGUMENT...]

That is what containers do by default, and how the fallback to epoll is tested. A seccomp filter
(classic BPF over struct seccomp_data) is set on this process, inherited by all that it starts, and
can't be taken off again. No rights are needed. x86_64 and aarch64.
"""
import ctypes
import os
import platform
import struct
import sys

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO = 0x7FFF0000, 0x00050000
EPERM = 1
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# io_uring_setup, io_uring_enter, io_uring_register: the same numbers on every architecture.
FIRST, LAST = 425, 427
# BPF: load a word, compare (skip so many if true, so many if false), return.
LOAD, EQUAL, AT_LEAST, ABOVE, RETURN = 0x20, 0x15, 0x35, 0x25, 0x06
NUMBER_AT, ARCH_AT = 0, 4  # in struct seccomp_data


class Program(ctypes.Structure):
    """struct sock_fprog"""
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    arch = AUDIT_ARCH.get(platform.machine())
    if arch is None or sys.platform != "linux":
        sys.exit("deny_io_uring: only for Linux on " + " and ".join(AUDIT_ARCH))
    steps = [
        (LOAD, 0, 0, ARCH_AT),
        (EQUAL, 0, 4, arch),  # else: allow
        (LOAD, 0, 0, NUMBER_AT),
        (AT_LEAST, 0, 2, FIRST),  # else: allow
        (ABOVE, 1, 0, LAST),  # then: allow
        (RETURN, 0, 0, SECCOMP_RET_ERRNO | EPERM),
        (RETURN, 0, 0, SECCOMP_RET_ALLOW),
    ]
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    program = Program(len(steps), code)
    libc = ctypes.CDLL(None, use_errno=True)
    no, one = ctypes.c_ulong(0), ctypes.c_ulong(1)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, one, no, no, no) != 0:
        sys.exit("deny_io_uring: no_new_privs: " + os.strerror(ctypes.get_errno()))
    mode = ctypes.c_ulong(SECCOMP_MODE_FILTER)
    if libc.prctl(PR_SET_SECCOMP, mode, ctypes.byref(program), no, no) != 0:
        sys.exit("deny_io_uring: seccomp: " + os.strerror(ctypes.get_errno()))
    # A run that proves nothing would be worse than none.
    params = ctypes.create_string_buffer(120)
    if libc.syscall(FIRST, 1, params) != -1 or ctypes.get_errno() != EPERM:
        sys.exit("deny_io_uring: the filter is not in force")
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
