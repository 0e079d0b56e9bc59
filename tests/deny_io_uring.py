#!/usr/bin/env python3
"""Runs a command in which every io_uring_* system call answers EPERM.

    tests/deny_io_uring.py COMMAND [ARGUMENT...]

That is what containers do by default, and how the fallback to epoll is tested. All else is allowed:
what a profile is to this program is seccomp.py's.
"""
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
DENIED = "io_uring_setup,io_uring_enter,io_uring_register"

if len(sys.argv) < 2:
    sys.exit(__doc__)
os.execv(sys.executable, [sys.executable, os.path.join(HERE, "seccomp.py"), "--deny", DENIED,
                          os.path.join(HERE, "allow_all.json"), *sys.argv[1:]])
