"""Faults must not outlive their test."""

from __future__ import annotations

import compileall
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True, scope="session")
def _bytecode_is_there() -> None:
    """Where a file-size limit is the fault, Python would cut off the bytecode that it caches on the side, and every
    later import would meet the stump. So all of it is cached before, as installing the wheel does.
    """
    for folder in (REPO / "advisor", REPO / "tests" / "support"):
        assert compileall.compile_dir(folder, quiet=1)
