"""Faults must not outlive their test."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def _no_bytecode(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file-size limit cuts off the bytecode that Python caches on the side, and later imports meet the stump."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
