"""Where the engine tests find llama.cpp: environments that advisor builds and keeps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from advisor.execute.oracle import DryLoad
from tests.engine.vulkan import offload, q4_k_m, q8_0  # noqa: F401 - fixtures of the offload tests


def _python(variable: str, name: str, home: Path) -> str:
    """The interpreter of an environment: named by a variable, or built by advisor in the lasting test home."""
    if given := os.environ.get(variable):
        return given
    from advisor import settings
    from advisor.execute.envs import ensure

    env = {**os.environ, "ADVISOR_HOME": str(home)}
    return ensure(name, settings=settings.load(env=env)).python


@pytest.fixture(scope="session")
def serving_python(shared_home: Path) -> str:
    """Python with xllamacpp."""
    return _python("ADVISOR_TEST_LLAMA_PYTHON", "llama.cpp", shared_home)


@pytest.fixture(scope="session")
def quantizing_python(shared_home: Path) -> str:
    """Python with cyllama."""
    return _python("ADVISOR_TEST_QUANTIZE_PYTHON", "convert", shared_home)


@pytest.fixture(scope="session")
def dry_engine(shared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> DryLoad:
    """The engine, asked what it would allocate."""
    from advisor import settings
    from advisor.execute.envs import ensure

    found = settings.load(env={**os.environ, "ADVISOR_HOME": str(shared_home)})
    return DryLoad(ensure("llama.cpp", settings=found), tmp_path_factory.mktemp("dry") / "dry.log")
