"""``make faults``: every row of docs/faults.md made to happen, and a count of what was staged and what was survived.

A row is survived where each of the tests that it names passed and at least one ran. Rows that only need no environment
are run; ``--all`` also those that serve a real model. ``--write FILE``.
"""

from __future__ import annotations

import argparse
import fnmatch
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final, NamedTuple
from xml.etree import ElementTree

REPO: Final = Path(__file__).resolve().parent.parent
TESTS: Final = REPO / "tests"
PAGE: Final = REPO / "docs" / "faults.md"
_NAMED: Final = re.compile(r"`(?:(?P<file>[a-z]+(?:/[a-z_0-9]+)+\.py)(?:::)?)?(?P<test>test_[a-z0-9_]*\*?)?`")


class Row(NamedTuple):
    """One fault: ``tests`` are (file below tests, pattern of names); an empty pattern means the whole file."""

    part: str
    what: str
    tests: tuple[tuple[str, str], ...]


class Ran(NamedTuple):
    """One test that ran: ``file`` below tests, ``name`` without its parameters."""

    file: str
    name: str
    outcome: str


def rows(page: str) -> list[Row]:
    """The rows of the page's tables. A test named without its file is of the file named before it."""
    out, part = [], ""
    for line in page.splitlines():
        if line.startswith("## "):
            part = line[3:]
        cells = [c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) != 3 or set(cells[0]) <= {"-"} or cells[0] == "What happens":
            continue
        file, found = "", []
        for m in _NAMED.finditer(cells[2]):
            if m["file"] is None and m["test"] is None:
                continue
            file = m["file"] or file
            found.append((file, m["test"] or ""))
        out.append(Row(part, cells[0], tuple(found)))
    return out


def belongs(ran: Ran, file: str, pattern: str) -> bool:
    """Whether the test is one that a row names."""
    if ran.file != file:
        return False
    wild = f"{pattern}*" if pattern.endswith("_") else pattern
    return not pattern or fnmatch.fnmatchcase(ran.name, wild)


def run(files: list[str], *, slow: bool) -> list[Ran]:
    """Run the tests of these files."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        marks = ["-m", "not long"] if slow else ["-n", "auto", "--dist", "worksteal", "-m", "not slow or beside"]
        argv = [sys.executable, "-m", "pytest", *marks, "--junitxml", str(report), "-o", "junit_family=xunit1"]
        subprocess.run([*argv, *(str(TESTS / f) for f in files)], cwd=REPO, check=False, stdout=sys.stderr)
        cases = ElementTree.parse(report).getroot().iter("testcase")
        return [_ran(c) for c in cases]


def _ran(case: ElementTree.Element) -> Ran:
    bad = [e.tag for e in case if e.tag in ("failure", "error", "skipped")]
    file = str(case.get("file", "")).removeprefix("tests/")
    return Ran(file, str(case.get("name", "")).split("[", 1)[0], bad[0] if bad else "passed")


def main() -> int:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--all", action="store_true", help="also what needs a managed environment")
    p.add_argument("--write", type=Path)
    asked = p.parse_args()
    table = rows(PAGE.read_text(encoding="utf-8"))
    own_files = {f"faults/{f.name}" for f in (TESTS / "faults").glob("test_*.py")}
    files = sorted({file for row in table for file, _ in row.tests} | own_files)
    ran = run(files, slow=asked.all)
    rest = "." if asked.all else "; those that serve a real model are run by `python benchmarks/faults.py --all`."
    lines = [
        "# Faults that were made to happen\n",
        f"`make faults`: every row of [docs/faults.md](../faults.md), by the tests that it names{rest}\n",
        "| part | rows | staged | survived | tests |\n|---|---|---|---|---|",
    ]
    staged_all, survived_all, lost = 0, 0, []
    for part in dict.fromkeys(row.part for row in table):
        own = [row for row in table if row.part == part]
        staged, survived, count = 0, 0, 0
        for row in own:
            hits = [r for r in ran if any(belongs(r, f, t) for f, t in row.tests)]
            if not hits:
                continue
            staged, count = staged + 1, count + len(hits)
            bad = sorted({f"{r.file}::{r.name} {r.outcome}" for r in hits if r.outcome != "passed"})
            survived += not bad
            if bad:
                lost.append(f"{row.what}: {', '.join(bad)}")
        staged_all, survived_all = staged_all + staged, survived_all + survived
        lines.append(f"| {part} | {len(own)} | {staged} | {survived} | {count} |")
    whole = len([r for r in ran if r.file.startswith("faults/")])
    share = survived_all / max(1, staged_all)
    lines.append(
        f"\n{staged_all} of {len(table)} faults staged, {survived_all} survived ({share:.0%} of what was staged); "
        f"{len(ran)} tests ran, {whole} of them in tests/faults."
    )
    lines.append("\nLost: " + ("nothing." if not lost else "\n- " + "\n- ".join(lost)))
    text = "\n".join(lines) + "\n"
    print(text)
    if asked.write is not None:
        asked.write.write_text(text, encoding="utf-8")
    broken = [r for r in ran if r.outcome in ("failure", "error")]
    return 1 if lost or broken else 0


if __name__ == "__main__":
    sys.exit(main())
