"""Ollama: takes the GGUF files that advisor makes; planned with, not started by this version."""

from __future__ import annotations

from typing import Final

from advisor.backends.base import RuntimeCapabilities
from advisor.backends.declared import DeclaredRuntime
from advisor.backends.diagnose import known
from advisor.facts.words import GGUF_FORMATS

_FAILURES: Final = (
    known(
        r"model requires more system memory",
        "out-of-memory",
        "Ollama refuses the model for lack of memory: {0}",
        "advisor recommend MODEL --goal smallest-memory",
    ),
    known(
        r"unsupported architecture|unknown model architecture",
        "unknown-architecture",
        "This Ollama does not know the architecture: {0}",
        "Update Ollama, or: advisor up MODEL --runtime llama.cpp",
    ),
    known(r"bind: address already in use", "port-taken", "The port is in use: {0}", "Stop the other server first."),
)
_INSTALLED: Final = "Ollama installed and running"

BACKEND: Final = DeclaredRuntime(
    RuntimeCapabilities(
        name="ollama",
        methods={"gguf": GGUF_FORMATS},
        devices=("cpu", "nvidia", "amd", "apple"),
        executable=False,
        needs={
            "cpu": (_INSTALLED,),
            "nvidia": (_INSTALLED, "an NVIDIA driver"),
            "amd": (_INSTALLED, "a ROCm driver"),
            "apple": (_INSTALLED,),
        },
    ),
    health_path="/api/version",
    failures=_FAILURES,
)
