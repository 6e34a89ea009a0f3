"""Logs of a real llama.cpp that ran out of memory while it put layers on a device, and what they are taken for."""

from __future__ import annotations

import pytest

from advisor.backends.registry import runtimes
from tests.conftest import REPO

LOGS = REPO / "tests" / "fixtures" / "logs"


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("weights", "device-out-of-memory"),
        ("cache", "device-out-of-memory"),
        ("work", "device-out-of-memory"),
        ("pinned", "out-of-memory"),
        ("host-cache", "context-too-large"),
    ],
)
def test_recorded_failures(what: str, code: str) -> None:
    log = (LOGS / f"vulkan-out-of-memory-{what}.log").read_text(encoding="utf-8")
    found = runtimes()["llama.cpp"].diagnose(log)
    assert found is not None
    assert found.code == code
    assert "alloc" in found.message
    assert found.remedy
