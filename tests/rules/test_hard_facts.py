"""What today's documents say of runtimes, kernels and devices, held against all rules together."""

from __future__ import annotations

from typing import Any

import pytest

from advisor.guide.engine import evaluate
from advisor.guide.load import load_pack

PACK = load_pack()
AMPERE, ADA, HOPPER, BLACKWELL, RTX50 = 8.6, 8.9, 9.0, 10.0, 12.0


def card(capability: float, runtime: str = "vllm", **more: Any) -> dict[str, Any]:
    return {
        "candidate.runtime": runtime,
        "candidate.placement": "gpu",
        "candidate.tensor_parallel": 1,
        "candidate.source": "quantize",
        "candidate.supported": True,
        "candidate.device_supported": True,
        "candidate.quantizer": "llmcompressor",
        "device.vendor": "nvidia",
        "device.kind": "nvidia",
        "device.compute_capability": capability,
        "machine.os": "linux",
        "machine.arch": "x86_64",
        "machine.has_gpu": True,
        "candidate.kv_type": "f16",
        **{k.replace("__", "."): v for k, v in more.items()},
    }


def excluded(facts: dict[str, Any]) -> set[str]:
    return {d.rule for d in evaluate(PACK, facts).excluded}


def warned(facts: dict[str, Any]) -> set[str]:
    return {d.rule for d in evaluate(PACK, facts).decisions if d.effect == "warn"}


@pytest.mark.parametrize(
    ("capability", "method", "source", "out", "warns"),
    [
        # FP8: units from 8.9 on; a checkpoint that is FP8 already runs weight-only below.
        (AMPERE, "fp8", "quantize", "FMT-012", None),
        (AMPERE, "fp8", "prequantized", None, "FMT-019"),
        (ADA, "fp8", "quantize", None, None),
        (HOPPER, "fp8", "prequantized", None, None),
        # FP4: units from 10.0 on; weights alone below.
        (ADA, "nvfp4", "quantize", None, "RT-023"),
        (BLACKWELL, "nvfp4", "quantize", None, None),
        (RTX50, "nvfp4", "quantize", None, "RT-039"),
        (7.5, "mxfp4", "prequantized", "RT-024", None),
        (AMPERE, "mxfp4", "prequantized", None, None),
        # INT8 with INT8 activations: Turing to Hopper.
        (7.5, "w8a8", "quantize", None, None),
        (HOPPER, "w8a8", "quantize", None, None),
        (BLACKWELL, "w8a8", "quantize", "RT-038", None),
        (RTX50, "w8a8", "quantize", "RT-038", None),
        # Volta and older: no build of vLLM.
        (7.0, "awq", "quantize", "RT-001", None),
        (7.5, "awq", "quantize", None, None),
    ],
)
def test_kernels_of_vllm(capability: float, method: str, source: str, out: str | None, warns: str | None) -> None:
    facts = card(capability, candidate__method=method, candidate__format=method, candidate__source=source)
    if method == "awq":
        facts |= {"candidate.format": "w4a16-g128", "candidate.bits": 4.2, "candidate.group": 128}
    assert excluded(facts) == ({out} if out else set())
    assert (warns in warned(facts)) if warns else not warned(facts) & {"FMT-019", "RT-023", "RT-039"}


@pytest.mark.parametrize(
    ("arch", "method", "out"),
    [
        ("gfx950", "mxfp4", None),
        ("gfx942", "mxfp4", "RT-024"),
        ("gfx942", "awq", "RT-006"),
        ("gfx942", "w8a8", "RT-008"),
        ("gfx942", "nvfp4", "RT-022"),
        ("gfx942", "fp8", None),
        ("gfx1030", "none", "RT-030"),
    ],
)
def test_what_amd_runs_in_vllm(arch: str, method: str, out: str | None) -> None:
    facts = card(0.0, candidate__method=method, candidate__bits=4.2) | {
        "device.vendor": "amd",
        "device.kind": "amd",
        "device.arch": arch,
        "device.apis": ("rocm",),
        "device.formats.fp8": "native",
        "device.compute_capability": None,
    }
    assert excluded(facts) == ({out} if out else set())


@pytest.mark.parametrize("method", ["awq", "gptq", "none", "w8a8", "fp8"])
def test_what_intel_cards_run_in_vllm(method: str) -> None:
    facts = card(0.0, candidate__method=method, candidate__bits=4.2) | {
        "device.vendor": "intel",
        "device.kind": "intel",
        "device.formats.fp8": "none",
        "device.compute_capability": None,
    }
    assert excluded(facts) == {"w8a8": {"RT-008"}, "fp8": {"FMT-013"}}.get(method, set())


@pytest.mark.parametrize(
    ("isa", "vllm", "llama"),
    [
        (("sse4_2", "avx"), "RT-035", "RT-037"),
        (("sse4_2", "avx", "avx2"), "RT-036", None),
        (("sse4_2", "avx", "avx2", "avx512f"), None, None),
        ((), None, None),  # not known
    ],
)
def test_instruction_sets(isa: tuple[str, ...], vllm: str | None, llama: str | None) -> None:
    here = {"candidate.placement": "cpu", "device.vendor": "none", "device.kind": "cpu", "machine.has_gpu": False}
    facts = card(0.0, candidate__method="none", candidate__bits=16.0, host__isa=isa) | here
    spoke = excluded(facts) | warned(facts)
    assert spoke & {"RT-035", "RT-036"} == ({vllm} if vllm else set())
    facts |= {"candidate.runtime": "llama.cpp", "candidate.method": "gguf"}
    assert warned(facts) & {"RT-037"} == ({llama} if llama else set())


@pytest.mark.parametrize(
    ("group", "capability", "says"),
    [(32, HOPPER, "FMT-020"), (128, HOPPER, None), (32, ADA, None), (256, ADA, "FMT-002"), (64, ADA, None)],
)
def test_groups_of_marlin_and_machete(group: int, capability: float, says: str | None) -> None:
    facts = card(capability, candidate__method="gptq", candidate__bits=4.2, candidate__group=group)
    assert (excluded(facts) | warned(facts)) & {"FMT-002", "FMT-020"} == ({says} if says else set())


@pytest.mark.parametrize(
    ("runtime", "kv", "changes", "says"),
    [
        ("vllm", "q8_0", {}, "FMT-023"),
        ("vllm", "f16", {}, None),
        ("transformers", "q4_0", {}, "FMT-023"),
        ("ollama", "q5_0", {}, "FMT-024"),
        ("ollama", "q8_0", {}, None),
        ("llama.cpp", "q8_0", {"model.heads_32_divisible": False}, "FMT-022"),
        ("llama.cpp", "f16", {"model.heads_32_divisible": False}, None),
        ("llama.cpp", "q8_0", {"model.latent_attention": True}, "FMT-025"),
        ("llama.cpp", "q8_0", {"model.sliding_window": True}, "FMT-026"),
        ("llama.cpp", "q4_0", {}, "FMT-016"),
    ],
)
def test_types_of_the_cache(runtime: str, kv: str, changes: dict[str, Any], says: str | None) -> None:
    method = "gguf" if runtime in ("llama.cpp", "ollama") else "none"
    mine = {"candidate__method": method, "candidate__kv_type": kv, "model__heads_32_divisible": True}
    facts = card(ADA, runtime, **mine) | changes
    spoke = {i for i in excluded(facts) | warned(facts) if i.startswith("FMT-02") or i == "FMT-016"}
    assert spoke - {"FMT-020"} == ({says} if says else set()) | ({"FMT-016"} if kv.startswith(("q4", "q5")) else set())


@pytest.mark.parametrize(
    ("runtime", "version", "says"),
    [
        ("vllm", "0.31.9", "SAFE-001"),
        ("vllm", "0.32", None),
        ("ollama", "0.17.0", "SAFE-002"),
        ("ollama", "0.32.14", None),
        ("sglang", "0.5.18", "SAFE-003"),
        ("sglang", "0.5.19", None),
        ("llama.cpp", "9058", "SAFE-004"),
        ("llama.cpp", "9059", None),
        ("vllm", None, None),
    ],
)
def test_versions_that_are_too_old(runtime: str, version: str | None, says: str | None) -> None:
    facts = card(ADA, runtime, candidate__method="none", candidate__runtime_version=version)
    assert {i for i in warned(facts) if i.startswith("SAFE")} == ({says} if says else set())


def test_old_versions_are_told_with_the_version() -> None:
    facts = card(ADA, candidate__method="none", candidate__runtime_version="0.30.1")
    (d,) = [d for d in evaluate(PACK, facts).decisions if d.rule == "SAFE-001"]
    assert d.measured == ("candidate.runtime_version is 0.30.1, below 0.32.0 is meant",)
