"""The pages on faults and on security name tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
PAGES = [TESTS.parent / "docs" / "faults.md", TESTS.parent / "SECURITY.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_file_on_the_page_is_there(page: Path) -> None:
    files = set(re.findall(r"`((?:unit|faults|rules|engine|integration|contract)/[a-z_0-9/]+\.py)", page.read_text()))
    assert len(files) > 10
    assert [f for f in files if not (TESTS / f).is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_test_on_the_page_is_there(page: Path) -> None:
    source = "".join(p.read_text() for p in TESTS.rglob("test_*.py"))
    named = set(re.findall(r"\b(test_[a-z0-9_]+)(?!\w|\.py)", page.read_text()))
    assert len(named) > 15
    assert [n for n in named if f"def {n}{'' if n.endswith('_') else '('}" not in source] == []
