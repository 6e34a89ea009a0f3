"""Proves that a llama.cpp program works: it serves a tiny model with the very options that a plan would use."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from advisor.backends.llama import commands
from advisor.backends.llama.binary import Binary, read_features
from advisor.events import Cancel
from advisor.execute.envs import Env
from advisor.execute.proc import run_runner
from advisor.facts.plan import Settings

_DEADLINE_S: Final = 180.0


def request(binary: Binary) -> dict[str, Any]:
    """The request of the runner ``health_tools.py`` for a build; layers go to its devices, where it has some."""
    settings = Settings(
        context=256, batch=64, ubatch=64, threads=1, gpu_layers=-1 if binary.devices else 0, load_mode="mmap"
    )
    command = commands.serve(settings, binary, model_path="{model}", model_name="tiny", host="127.0.0.1", port="{port}")
    verbosity = binary.has("--verbosity", "-lv")
    extra = [verbosity, "4"] if verbosity is not None else []
    return {"serve": [*command.argv, *extra], "env": command.env, "quantize": binary.tools.get("llama-quantize")}


def prove(binary: Binary, *, log: Path, python: str | None = None, cancel: Cancel | None = None) -> Binary:
    """Really serve a tiny model, quantize it where the tool is there, and return the build with what it says it uses.

    Raises:
        AdvisorError: ``runtime-unfit``, ``interrupted``.
    """
    # The runner needs nothing but the standard library.
    env = Env(name="llama.cpp", path="", python=python or sys.executable)
    found = run_runner(
        env,
        "health_tools.py",
        request(binary),
        step=f"trying {Path(binary.server).name}",
        cancel=cancel,
        log=log,
        timeout_s=_DEADLINE_S,
        code="runtime-unfit",
    )
    return msgspec.structs.replace(binary, features=read_features(str(found.get("log", ""))))
