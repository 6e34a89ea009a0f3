"""Shared fixtures: every test has a home of its own; slow tests share one, so that environments are built once."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import hypothesis
import pytest

REPO = Path(__file__).resolve().parent.parent
# Examples may take as long as a busy machine makes them; time is measured by benchmarks.
hypothesis.settings.register_profile("advisor", deadline=None)
hypothesis.settings.load_profile("advisor")


@pytest.fixture(autouse=True, scope="session")
def _signals_arrive() -> None:
    """Started in the background, a process may inherit ignored signals, and so would every command under test."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path / "advisor home"))
    own = ("OFFLINE", "HOST", "PORT", "RECOVER", "LLAMA_CPP_DIR")
    for name in (
        *(f"ADVISOR_{n}" for n in own),
        "HF_HUB_OFFLINE",
        "HF_ENDPOINT",
        "HF_TOKEN",
        "HF_TOKEN_PATH",
        "HF_HOME",
        "OLLAMA_HOST",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def shared_home() -> Path:
    """A home that lasts: managed environments and finished steps in it are reused from test to test and run to run."""
    home = Path(os.environ.get("ADVISOR_TEST_HOME", str(REPO / ".advisor" / "tests")))
    home.mkdir(parents=True, exist_ok=True)
    return home


@pytest.fixture
def in_shared_home(shared_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point advisor at the shared home for this test."""
    monkeypatch.setenv("ADVISOR_HOME", str(shared_home))
    return shared_home


@pytest.fixture
def repo() -> Path:
    """The checkout."""
    return REPO
