#!/usr/bin/env python3
"""Judges a report of the Autobahn test suite.

    tests/autobahn.py REPORT_DIR FRAGMENTS_MAX [FULL_REPORT_DIR]

Every case must be well behaved. With a cap on the fragments of a message (FRAGMENTS_MAX above 0) a
case may fail instead, but only if it sent more than so many frames and was closed with 1008; and at
least one must have been, or the cap was not in force. With FULL_REPORT_DIR, every case that ran
there must have run here too: a server that died halfway proves nothing; and without a cap it must
have ended in the same way. Ends with a line as cargo's tests have it.
"""
import json
import os
import sys

GOOD = ("OK", "NON-STRICT", "INFORMATIONAL")
CONTINUATION, TEXT, BINARY = "0", "1", "2"


def refused_by_cap(report, cap):
    """Whether the server closed this case for its fragments, as it should."""
    sent = report.get("txFrameStats") or {}
    frames = sum(sent.get(opcode, 0) for opcode in (CONTINUATION, TEXT, BINARY))
    return frames > cap and report.get("remoteCloseCode") == 1008


def cases_of(directory):
    with open(os.path.join(directory, "index.json"), encoding="utf-8") as file:
        (cases,) = json.load(file).values()
    return cases


def others(cases, full):
    """Cases that ended otherwise than in the full report."""
    ends = ("behavior", "behaviorClose")
    return [name for name in cases if name in full
            and any(cases[name][end] != full[name][end] for end in ends)]


def main():
    directory, cap = sys.argv[1], int(sys.argv[2])
    cases = cases_of(directory)
    passed, refused, failed = [], [], []
    for name, case in cases.items():
        if case["behavior"] in GOOD and case["behaviorClose"] in GOOD:
            passed.append(name)
            continue
        with open(os.path.join(directory, case["reportfile"]), encoding="utf-8") as file:
            report = json.load(file)
        by_cap = cap > 0 and refused_by_cap(report, cap)
        (refused if by_cap else failed).append(name)
        if not by_cap:
            code = report.get("remoteCloseCode")
            print("autobahn %s: %s/%s, closed with %s"
                  % (name, case["behavior"], case["behaviorClose"], code))
    if len(sys.argv) > 3:
        missing = [name for name in cases_of(sys.argv[3]) if name not in cases]
        if missing:
            print("autobahn: did not run: " + ", ".join(missing))
        failed.extend(missing)
        for name in others(cases, cases_of(sys.argv[3])) if cap == 0 else []:
            print("autobahn %s: not as without" % name)
            if name not in failed:
                failed.append(name)
    if not passed:
        print("autobahn: no case passed")
        failed.append("none")
    if cap > 0:
        print("autobahn: refused by the cap of %d fragments: %s" % (cap, ", ".join(refused)))
        if not refused:
            failed.append("cap")
            print("autobahn: no case was refused, so the cap is not in force")
    print("test result: %s. %d passed; %d failed; 0 ignored"
          % ("FAILED" if failed else "ok", len(passed) + len(refused), len(failed)))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
