#!/usr/bin/env python3
"""docs/reliability.md: which fault is shown by which tests, and how they went.

    tests/reliability.py [LOG]          writes the page anew; what is in LOG, the output of
                                        tests/run.sh or of a cargo test, counts from now on
    tests/reliability.py --fresh LOG    the same; what is not in LOG was not run
    tests/reliability.py --check        whether comments, tests/faults.tsv and the page agree

Faults are the lines of tests/faults.tsv. Tests say which of them they show by comments directly
above them: `/// FAULTS B10, B19: what is done and must hold`; suites of tests/run.sh by `# FAULTS`.

It reads text, not syntax. A test whose variants differ, because RINGCAST_TEST_ALL=1 makes it longer,
has passed only when the long one has; what a quick run shows of it is said to be that.
"""
import argparse
import os
import pathlib
import re
import sys

TAG = re.compile(r"\s*(?:///|#) FAULTS (.*)")
MORE = re.compile(r"\s*(?:///|#) (?!FAULTS )(\S.*)")
FN = re.compile(r"\s*(?:pub(?:\(crate\))? )?fn (\w+)\(")
GROUPS = {
    "A": "Parsers",
    "B": "Malformed and hostile input",
    "C": "Exhaustion, slow and silent peers",
    "D": "Redis",
    "E": "Stream, worker, PostgreSQL",
    "F": "Instances, nginx, operations",
    "G": "io_uring and the system",
    "H": "Security and privacy",
    "I": "Time",
}
HEAD = """# What it survives, and what shows it

Made by `tests/reliability.py` from `tests/faults.tsv`, the comments of the tests and what
`tests/run.sh --all` printed; changes belong there. *quick* is in every run; *long* takes
`RINGCAST_TEST_ALL=1`; *both* is shorter in the quick set: where only that was run, the result says
so. *skipped*: something that the test needs was missing. *not run*: the last full run did not have
it. Numbers are the goals; where a test shows less of a row, it says which part.
"""


class Test:
    """A test, or a suite of tests/run.sh, and what it says it shows."""

    def __init__(self, name, ids, text, variants):
        self.name, self.ids, self.text, self.variants = name, ids, text, variants


def faults(root):
    rows = {}
    for line in (root / "tests/faults.tsv").read_text().splitlines():
        if not line.startswith("#"):
            parts = line.split("\t")
            if len(parts) not in (3, 4) or parts[0] in rows:
                sys.exit(f"tests/faults.tsv: not a line of 3 or 4 parts, or a second one: {line}")
            rows[parts[0]] = parts[1:] + [""] * (4 - len(parts))
    return rows


def tag_at(lines, at, bad):
    """The tag that begins there: ids, text, and the line behind it."""
    ids, colon, text = TAG.match(lines[at]).group(1).partition(":")
    ids = [word.strip() for word in ids.split(",")]
    if not colon or not all(re.fullmatch(r"[A-Z]\d+", word) for word in ids):
        bad.append(f"not `FAULTS B1, B2: text`: {lines[at].strip()}")
    text, at = [text.strip()], at + 1
    while at < len(lines) and MORE.match(lines[at]):
        text.append(MORE.match(lines[at]).group(1))
        at += 1
    return ids, " ".join(text).strip().rstrip("."), at


def body(lines, at):
    """A function's text: to the first line that closes it where it begins."""
    indent = re.match(r"\s*", lines[at]).group()
    for end in range(at, len(lines)):
        if lines[end].rstrip() == indent + "}":
            return "\n".join(lines[at:end])
    return "\n".join(lines[at:])


def variants(text, long_ones):
    """Whether a test is quick, long, or both: by what it asks."""
    if re.search(r"if !all\(\)[^{]*\{\s*(//.*\n\s*)*(return|skip|eprintln)", text):
        return "long"
    asks = [r"\ball\(\)", r"\bPlan::new\(", r"\bis_long\(\)", *long_ones]
    return "both" if any(re.search(ask, text) for ask in asks) else "quick"


def rust_tests(root, path, bad):
    lines = path.read_text().splitlines()
    if not any(TAG.match(line) for line in lines):
        return
    # Functions of this file that ask for the long set: who calls them has two variants.
    long_ones = [
        rf"\b{FN.match(line).group(1)}\("
        for at, line in enumerate(lines)
        if FN.match(line) and re.search(r"\ball\(\)|\bis_long\(\)", body(lines, at))
    ]
    relative = path.relative_to(root)
    parts = list(relative.with_suffix("").parts[1:])
    if relative.parts[0] in ("src", "loadtest"):
        # As `unittests src/lib.rs` and the like call them.
        parts = [relative.parts[0], *parts]
    module = "::".join(part for part in parts if part not in ("lib", "main", "mod"))
    at = 0
    while at < len(lines):
        if not TAG.match(lines[at]):
            at += 1
            continue
        ids, texts = [], []
        # All of one block of comments are of one test.
        while at < len(lines) and re.match(r"\s*(///|#\[|//)", lines[at]):
            if TAG.match(lines[at]):
                some, text, at = tag_at(lines, at, bad)
                ids, texts = ids + some, texts + [text] * len(some)
            else:
                at += 1
        above = lines[max(0, at - 12):at]
        name = FN.match(lines[at]) if at < len(lines) else None
        if not name or not any("#[test]" in line for line in above):
            bad.append(f"{relative}:{at + 1}: FAULTS {', '.join(ids)} is not above a test")
            continue
        kind = variants(body(lines, at), long_ones)
        for one, text in zip(ids, texts):
            yield Test(f"{module}::{name.group(1)}", [one], text, kind)


def suites(root, bad):
    path = root / "tests/run.sh"
    lines = path.read_text().splitlines() if path.exists() else []
    for at, line in enumerate(lines):
        if TAG.match(line):
            ids, text, end = tag_at(lines, at, bad)
            while end < len(lines) and not re.search(r'\bsuite "', lines[end]):
                if lines[end].strip() == "" and "suite" not in "".join(lines[end:end + 9]):
                    break
                end += 1
            name = end < len(lines) and re.search(r'\bsuite "([^"]+)"', lines[end])
            if not name:
                bad.append(f"tests/run.sh:{at + 1}: FAULTS {', '.join(ids)} is not above a suite")
                continue
            kind = "long" if lines[end].startswith("  ") and "all" in text_before(lines, end) else ""
            for one in ids:
                yield Test(f"run.sh: {name.group(1)}", [one], text, kind or "quick")


def text_before(lines, end):
    """The condition that the line stands under."""
    for line in reversed(lines[:end]):
        if line.startswith("if "):
            return line
    return ""


def tests(root, bad):
    found = []
    for folder in ("src", "loadtest", "tests"):
        for path in sorted((root / folder).rglob("*.rs")):
            # Its tests have comments of no test in their texts.
            if path != root / "tests" / "reliability.rs":
                found += rust_tests(root, path, bad)
    return found + list(suites(root, bad))


def results(text):
    """What became of each test of a log: `passed` and the like, and of which variants."""
    found, suite, is_long, target = {}, "", False, ""

    def add(name, result):
        variant = "long" if is_long else "quick"
        found.setdefault((name, variant), []).append(result)

    for line in text.splitlines():
        if match := re.match(r"== (.*?)(?: \((quick|long)\))?$", line):
            name = match.group(1)
            if match.group(2):
                suite, is_long = name, match.group(2) == "long"
                add(f"run.sh: {suite}", "passed")
            elif name.endswith(" did not run to its end"):
                add(f"run.sh: {suite}", "failed")
            elif ": skipped" in name:
                add("run.sh: " + name.split(": skipped")[0], "skipped")
        elif match := re.match(r"\s+Running (?:unittests )?(\S+)\.rs ", line):
            path = pathlib.PurePath(match.group(1))
            target = {"src": "src", "loadtest": "loadtest"}.get(path.parts[0], path.name)
        elif match := re.match(r"test (\S+)(?: - should panic)? \.\.\. (ok|FAILED)", line):
            add(f"{target}::{match.group(1)}", {"ok": "passed"}.get(match.group(2), "failed"))
        elif match := re.match(r"skipped test (\S+)", line):
            add(match.group(1), "skipped")
        elif line.startswith("test result: FAILED"):
            add(f"run.sh: {suite}", "failed")
    return found


def outcome(test, found):
    """One word for a test, of all that was seen of it; `None`: nothing was."""

    def is_it(name):
        if test.name.startswith("run.sh: "):
            return re.fullmatch(re.sub(r"\\\$\w+", ".*", re.escape(test.name)), name)
        # A unit test stands in a module of its file.
        head, tail = test.name.rsplit("::", 1)
        return name == test.name or (name.startswith(head + "::") and name.endswith("::" + tail))

    seen = {"quick": [], "long": []}
    for (name, variant), some in found.items():
        if is_it(name):
            seen[variant] += some
    both = seen["quick"] + seen["long"]
    if not both:
        return None
    if "failed" in both:
        return "failed"
    if test.variants == "quick":
        return "skipped" if "skipped" in both else "passed"
    if not seen["long"]:
        # In the quick set a long one only says that it is skipped.
        return "skipped" if "skipped" in both else \
            "not run" if test.variants == "long" else "passed (quick)"
    return "skipped" if "skipped" in seen["long"] else "passed"


def cell(text):
    return text.replace("|", "\\|").replace("<", "&lt;")


def line_of(parts):
    return "| " + " | ".join(parts) + " |"


def page(rows, all_tests, result_of):
    lines = [HEAD]
    for group, title in GROUPS.items():
        lines += [f"## {group}. {title}\n"]
        lines += ["| | done | must hold | shown by | set | result |", "|---|---|---|---|---|---|"]
        for name, (done, holds, why) in rows.items():
            if name[0] != group:
                continue
            first = [name, cell(done), cell(holds)]
            for test in (test for test in all_tests if name in test.ids):
                text = f"`{test.name}`" + (f": {cell(test.text)}" if test.text else "")
                lines.append(line_of([*first, text, test.variants, result_of(name, test)]))
                first = ["", "", ""]
            if first[0] or why:
                lines.append(line_of([*first, cell(f"no test: {why}" if first[0] else why), "", ""]))
        lines.append("")
    return "\n".join(lines)


def kept(text):
    """The results that stand in a page: by row and test."""
    found, row = {}, ""
    for line in text.splitlines():
        cells = re.split(r"(?<!\\)\|", line)
        if len(cells) == 8:
            row = cells[1].strip() or row
            name = re.match(r" `([^`]+)`", cells[4])
            if name:
                found[row, name.group(1)] = cells[6].strip()
    return found


def check(root, rows, all_tests, bad):
    for test in all_tests:
        bad += [f"{test.name}: there is no row {one}" for one in test.ids if one not in rows]
    shown = {one for test in all_tests for one in test.ids}
    for name, (_, _, why) in rows.items():
        if name not in shown and not why:
            bad.append(f"{name}: no test shows it, and tests/faults.tsv does not say why")
    path = root / "docs/reliability.md"
    text = path.read_text() if path.exists() else ""
    results = kept(text)
    made = page(rows, all_tests, lambda row, test: results.get((row, test.name), "not run"))
    if text != made:
        bad.append("docs/reliability.md is not what the comments say: run tests/reliability.py")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("log", nargs="?")
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--root", default=pathlib.Path(__file__).resolve().parent.parent)
    parser.add_argument("--to", help="another file than docs/reliability.md")
    args = parser.parse_args()
    root, bad = pathlib.Path(args.root), []
    rows, all_tests = faults(root), tests(root, bad)
    if args.check:
        check(root, rows, all_tests, bad)
    else:
        path = root / "docs/reliability.md"
        old = {} if args.fresh or not path.exists() else kept(path.read_text())
        found = results(pathlib.Path(args.log).read_text(errors="replace")) if args.log else {}

        def result_of(row, test):
            return outcome(test, found) or old.get((row, test.name), "not run")

        to = pathlib.Path(args.to) if args.to else path
        os.makedirs(to.parent, exist_ok=True)
        to.write_text(page(rows, all_tests, result_of))
    print("\n".join(bad), file=sys.stderr, end="\n" if bad else "")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
