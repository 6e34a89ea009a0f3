"""Faults must not outlive their test."""

from __future__ import annotations

import compileall
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
# Rooms whose tests start commands and servers by the dozen: no part of the quick suite.
STARTING = {"deploy_identity", "deploy_races", "deploy_sequences", "deploy_server", "determinism", "home", "hub",
            "kernels_lacking", "llama_programs", "machines", "output", "quantizer", "serving"}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts processes and does not say of itself how it is to be run."""
    for item in items:
        own = item.path.parent == Path(__file__).parent and item.path.stem.removeprefix("test_") in STARTING
        if own and item.get_closest_marker("slow") is None:
            item.add_marker("slow")
            item.add_marker("beside")


@pytest.fixture(autouse=True, scope="session")
def _bytecode_is_there() -> None:
    """Where a file-size limit is the fault, Python would cut off the bytecode that it caches on the side, and every
    later import would meet the stump. So all of it is cached before, as installing the wheel does.
    """
    for folder in (REPO / "advisor", REPO / "tests" / "support"):
        assert compileall.compile_dir(folder, quiet=1)
