"""Memory by runtime."""

from __future__ import annotations

from typing import Final

from advisor.cost import checkpoint_memory, host_caches, llama_memory
from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Memory, Settings
from advisor.facts.protocols import EngineOracle

# Runtimes that load GGUF files with llama.cpp's own code.
LLAMA: Final = frozenset({"llama.cpp", "llama-cpp-python", "ollama", "lmstudio", "textgen"})
_PROVIDERS: Final = {"llama-cpp-python": "binding"}


def memory(
    model: ModelFacts,
    tensors: tuple[TensorSpec, ...],
    *,
    method: str,
    fmt: str,
    runtime: str,
    settings: Settings,
    machine: Machine,
    devices: tuple[str, ...],
    imatrix: bool = False,
    as_is: bool | None = None,
    engine: EngineOracle | None = None,
    provider: str = "wheel",
    build_isa: tuple[str, ...] | None = None,
) -> Memory:
    """Bytes that must be there while serving.

    Raises:
        AdvisorError: ``bad-option`` for a format that cannot be sized.
        KeyError: an unknown device or cache type.
    """
    if method == "gguf":
        return llama_memory.memory(
            model,
            tensors,
            fmt=fmt,
            settings=settings,
            machine=machine,
            devices=devices,
            imatrix=imatrix,
            as_is=as_is,
            engine=engine,
            provider=provider if runtime == "llama.cpp" else _PROVIDERS.get(runtime, "build"),
            build_isa=build_isa,
            kept=host_caches.OF_RUNTIME.get(runtime, host_caches.NOTHING),
        )
    return checkpoint_memory.memory(
        model,
        tensors,
        method=method,
        fmt=fmt,
        runtime=runtime,
        settings=settings,
        machine=machine,
        devices=devices,
    )
