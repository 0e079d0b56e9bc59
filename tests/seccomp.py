#!/usr/bin/env python3
"""Runs a command under a seccomp profile as Docker takes it, where no Docker is.

    tests/seccomp.py [--deny NAME,...] PROFILE COMMAND [ARGUMENT...]
    tests/seccomp.py [--deny NAME,...] --compile PROFILE FILE

PROFILE is a profile in JSON, such as seccomp.json beside docker-compose.yml, or a FILE that
--compile has made of one, which is quicker to load. --deny answers EPERM to those system calls
whatever the profile says. The filter (classic BPF over struct seccomp_data) is set on this process,
inherited by all that it starts, and can't be taken off again; the command keeps this process's id.
No rights are needed. x86_64 and aarch64; the numbers of system calls are asked of the C compiler.

What of a profile it does not know (conditions by capability or kernel, other comparisons) it
refuses. Of several rules for a call the first that fits counts.
"""
import ctypes
import errno
import json
import os
import platform
import re
import struct
import subprocess
import sys

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
SECCOMP_MODE_FILTER = 2
ACTIONS = {
    "SCMP_ACT_ALLOW": 0x7FFF0000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
}
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# BPF: load a word, mask it, compare (skip so many if true, so many if false), return.
LOAD, AND, EQUAL, RETURN = 0x20, 0x54, 0x15, 0x06
# In struct seccomp_data: the number, the architecture, six arguments of two words, low one first.
NUMBER_AT, ARCH_AT, ARGUMENTS_AT = 0, 4, 16
LOW = 0xFFFFFFFF
# BPF_MAXINSNS
STEPS_MAX = 4096
# Harmless calls that never fail by themselves: by one that is denied it shows that it is.
PROBES = ["getppid", "times", "getpgrp", "sched_get_priority_max"]
COMPILED = b"ringcast-bpf-1\n"


class Program(ctypes.Structure):
    """struct sock_fprog"""
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def fail(text):
    sys.exit("seccomp.py: " + text)


def numbers():
    """The number of each system call of this architecture."""
    source = b"#include <asm/unistd.h>\n"
    done = subprocess.run(["cc", "-E", "-dM", "-"], input=source, capture_output=True, check=True)
    defines = dict(re.findall(r"#define (__NR\w*) (\w+)", done.stdout.decode()))
    found = {}
    for name, value in defines.items():
        # On aarch64 some are defined by the name of another.
        value = defines.get(value, value)
        if name.startswith("__NR_") and value.isdigit():
            found[name[len("__NR_"):]] = int(value)
    return found


def action_of(rule, name="action"):
    """What the filter returns."""
    if rule[name] not in ACTIONS:
        fail(f"{rule[name]}: this action is not known")
    error = rule.get("errnoRet", errno.EPERM) if rule[name] == "SCMP_ACT_ERRNO" else 0
    return ACTIONS[rule[name]] | error


def condition(argument):
    """The tests of one argument: load a word, mask it, be equal to a word; high and low."""
    if argument["op"] == "SCMP_CMP_EQ":
        mask, value = (1 << 64) - 1, argument["value"]
    elif argument["op"] == "SCMP_CMP_MASKED_EQ":
        mask, value = argument["value"], argument.get("valueTwo", 0)
    else:
        fail(f"{argument['op']}: this comparison is not known")
    at = ARGUMENTS_AT + 8 * argument["index"]
    return [(at + 4, mask >> 32, value >> 32), (at, mask & LOW, value & LOW)]


def steps_of(number, rule):
    """What a rule is for one system call; the number is loaded before and after it."""
    tests = [test for argument in rule.get("args") or [] for test in condition(argument)]
    # A failed test skips the rest, up to where the number is loaded anew.
    rest = 3 * len(tests) + 1
    steps = [(EQUAL, 0, rest + 1 if tests else rest, number)]
    for at, mask, value in tests:
        rest -= 3
        steps += [(LOAD, 0, 0, at), (AND, 0, 0, mask), (EQUAL, 0, rest, value)]
    steps.append((RETURN, 0, 0, action_of(rule)))
    if tests:
        steps.append((LOAD, 0, 0, NUMBER_AT))
    return steps


def compile_profile(path, denied):
    """The filter, and a harmless call that it denies: number and error, or nothing."""
    with open(path, encoding="utf-8") as file:
        profile = json.load(file)
    arch = AUDIT_ARCH.get(platform.machine())
    if arch is None or sys.platform != "linux":
        fail("only for Linux on " + " and ".join(AUDIT_ARCH))
    of = numbers()
    default = action_of({"action": profile["defaultAction"],
                         "errnoRet": profile.get("defaultErrnoRet", errno.EPERM)})
    rules = [{"names": denied, "action": "SCMP_ACT_ERRNO"}] + profile["syscalls"]
    steps = [(LOAD, 0, 0, ARCH_AT), (EQUAL, 1, 0, arch), (RETURN, 0, 0, default),
             (LOAD, 0, 0, NUMBER_AT)]
    verdicts = {}
    for rule in rules:
        unknown = {"includes", "excludes", "minKernel"} & {key for key in rule if rule[key]}
        if unknown:
            fail(f"{', '.join(unknown)}: conditions of rules are not known")
        for name in rule["names"]:
            # Some are there on one architecture only.
            if name in of:
                steps += steps_of(of[name], rule)
                verdicts.setdefault(name, action_of(rule))
    steps.append((RETURN, 0, 0, default))
    if len(steps) > STEPS_MAX:
        fail(f"{path}: {len(steps)} steps, the kernel takes {STEPS_MAX}")
    probe = (0, 0)
    for name in [*denied, *PROBES]:
        verdict = verdicts.get(name, default)
        if name in of and verdict & ~0xFFFF == ACTIONS["SCMP_ACT_ERRNO"]:
            probe = (of[name], verdict & 0xFFFF)
            break
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    return code, probe


def read(path, denied):
    """A profile, compiled before or now."""
    with open(path, "rb") as file:
        if file.read(len(COMPILED)) == COMPILED:
            if denied:
                fail("--deny is for --compile then")
            probe = struct.unpack("=II", file.read(8))
            return file.read(), probe
    return compile_profile(path, denied)


def confine(code, probe):
    """Sets the filter on this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    program = Program(len(code) // 8, code)
    no, one = ctypes.c_ulong(0), ctypes.c_ulong(1)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, one, no, no, no) != 0:
        fail("no_new_privs: " + os.strerror(ctypes.get_errno()))
    mode = ctypes.c_ulong(SECCOMP_MODE_FILTER)
    if libc.prctl(PR_SET_SECCOMP, mode, ctypes.byref(program), no, no) != 0:
        fail("seccomp: " + os.strerror(ctypes.get_errno()))
    # A run that proves nothing would be worse than none.
    number, error = probe
    if error and (libc.syscall(number, 0, no, no, no) != -1 or ctypes.get_errno() != error):
        fail("the filter is not in force")


def main():
    words, denied = sys.argv[1:], []
    if words[:1] == ["--deny"]:
        denied, words = words[1].split(","), words[2:]
    if words[:1] == ["--compile"] and len(words) == 3:
        code, probe = read(words[1], denied)
        with open(words[2], "wb") as file:
            file.write(COMPILED + struct.pack("=II", *probe) + code)
        return
    if len(words) < 2 or words[0].startswith("-"):
        sys.exit(__doc__)
    confine(*read(words[0], denied))
    os.execvp(words[1], words[1:])


if __name__ == "__main__":
    main()
