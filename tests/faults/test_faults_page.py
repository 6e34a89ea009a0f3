"""The page on faults names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
PAGE = (TESTS.parent / "docs" / "faults.md").read_text()


def test_every_file_on_the_page_is_there() -> None:
    files = set(re.findall(r"`((?:unit|faults)/[a-z_0-9/]+\.py)", PAGE))
    assert len(files) > 20
    assert [f for f in files if not (TESTS / f).is_file()] == []


def test_every_test_on_the_page_is_there() -> None:
    source = "".join(p.read_text() for p in TESTS.rglob("test_*.py"))
    named = set(re.findall(r"\b(test_[a-z0-9_]+)(?!\w|\.py)", PAGE))
    assert len(named) > 80
    assert [n for n in named if f"def {n}{'' if n.endswith('_') else '('}" not in source] == []
