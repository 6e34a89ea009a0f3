"""ExLlamaV2: planned with, not started by this version."""

from __future__ import annotations

from typing import Final

from advisor.backends.base import RuntimeCapabilities
from advisor.backends.declared import DeclaredRuntime
from advisor.backends.diagnose import CUDA

BACKEND: Final = DeclaredRuntime(
    RuntimeCapabilities(
        name="exllama",
        methods={"gptq": ("w4a16-g128", "w4a16-g64", "w4a16-g32")},
        devices=("nvidia",),
        executable=False,
        needs={"nvidia": ("ExLlamaV2 and a server for it in an environment of their own", "a CUDA toolkit")},
        openai_api=False,
    ),
    failures=CUDA,
)
