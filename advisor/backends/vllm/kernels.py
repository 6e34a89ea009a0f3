"""Which kernels vLLM chose for the quantized layers, as its log says, and which are the right ones.

vLLM takes the first kernel of a list that can do the layer, so a width, a group size or a missing library silently
ends in one several times slower. Source of the lists, their conditions and the wording of the lines: vLLM 0.32.0,
``vllm/model_executor/kernels/linear`` and the quantization methods' ``logger.info``.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from advisor.facts.results import Finding

_NAMED: Final = re.compile(
    r"(?:Using (?P<used>\w{1,80}) for (?:mixed-precision linear|\w{1,60} GEMM|Auto\w{1,60}|CompressedTensors\w{1,60})"
    r"|Selected (?P<selected>\w{1,80}Kernel\w{0,20}) for \w{1,80})"
)
_EXPERTS: Final = re.compile(r"Using '?(?P<backend>[\w -]{1,60}?)'? (?P<kind>\w{1,20}) MoE backend")
_LOADED: Final = re.compile(r"Application startup complete|Model loading took", re.IGNORECASE)
_GROUP: Final = re.compile(r"-g(\d+)$")
_GROUPED: Final = ("awq", "gptq", "rtn")
_MACHETE_GROUPS: Final = (None, 64, 128)
_VERSION: Final = "vLLM 0.32.0, order of its kernels"


class Expected(NamedTuple):
    """``names``: kernels that are right, the best first. ``why``: what they need, in plain words."""

    names: tuple[str, ...]
    why: str


def chosen_kernels(log_text: str) -> tuple[str, ...]:
    """The kernels of linear layers and experts that a log names, each once, in the log's order.

    Experts stand as ``KIND MoE: BACKEND``.
    """
    found: dict[int, str] = {}
    for m in _NAMED.finditer(log_text):
        found[m.start()] = m["used"] or m["selected"]
    for m in _EXPERTS.finditer(log_text):
        found[m.start()] = f"{m['kind']} MoE: {m['backend'].strip()}"
    return tuple(dict.fromkeys(found[at] for at in sorted(found)))


def expected_kernel(method: str, fmt: str, *, device: str, compute_capability: float | None = None) -> Expected | None:
    """The kernels that should run ``fmt`` of ``method``; ``None`` where vLLM names none or the device is not known.

    ``device``: ``cpu`` or a vendor; ``compute_capability``: NVIDIA's.
    """
    if device == "cpu":
        return _on_cpu(method)
    if device != "nvidia" or compute_capability is None or compute_capability < 7.5:
        return None
    found = _GROUP.search(fmt)
    group = int(found[1]) if found else None
    if method in _GROUPED:
        if 9.0 <= compute_capability < 10.0 and group in _MACHETE_GROUPS:
            return Expected(("MacheteLinearKernel", "MarlinLinearKernel"), "Hopper and a group of 64 or 128")
        return Expected(("MarlinLinearKernel",), "compute capability 7.5, widths that the group divides")
    if method == "w8a8":
        return Expected(("CutlassInt8ScaledMMLinearKernel",), "compute capability 7.5")
    if method == "fp8":
        if compute_capability < 8.9:
            return Expected(("MarlinFP8ScaledMMLinearKernel",), "weights in FP8, activations in 16 bits, below 8.9")
        fast: tuple[str, ...] = ("CutlassFP8ScaledMMLinearKernel",)
        if compute_capability >= 10.0:
            fast = ("FlashInferFP8ScaledMMLinearKernel", *fast)
        return Expected(fast, "compute capability 8.9")
    if method == "nvfp4":
        weight_only = ("FlashInferCuteDslNvFp4W4A16LinearKernel", "HummingNvFp4LinearKernel", "MarlinNvFp4LinearKernel")
        full = ("FlashInferCuteDslNvFp4LinearKernel", "FlashInferCutlassNvFp4LinearKernel", "CutlassNvFp4LinearKernel")
        names = (*full, *weight_only) if compute_capability >= 10.0 else weight_only[1:]
        return Expected(names, "FP4 units from 10.0 on, weights only below")
    if method == "mxfp4":
        return Expected(("FlashInferMxFp4LinearKernel", "MarlinMxFp4LinearKernel"), "compute capability 8.0")
    return None


def _on_cpu(method: str) -> Expected | None:
    if method in _GROUPED:
        return Expected(
            ("CPUWNA16LinearKernel", "ZentorchWNA16LinearKernel", "Dynamic4bitLinearKernel"), "widths that 32 divides"
        )
    if method == "w8a8":
        return Expected(("CPUInt8ScaledMMLinearKernel", "ZentorchInt8ScaledMMLinearKernel"), "any processor")
    if method == "fp8":
        # Asked for even where the processor lacks the units: what runs instead is a few tokens a second.
        return Expected(("CPUFP8W8A8ScaledMMLinearKernel",), "a processor with AMX for FP8 (amx_fp8)")
    return None


def kernel_finding(
    method: str,
    fmt: str,
    log_text: str,
    *,
    device: str,
    compute_capability: float | None = None,
) -> Finding | None:
    """What is to be said about the kernels that the log of a server that is ready names; ``None``: all as expected.

    The log must be whole, from the server's start.
    """
    expected = expected_kernel(method, fmt, device=device, compute_capability=compute_capability)
    if expected is None:
        return None
    linear = [k for k in chosen_kernels(log_text) if " MoE: " not in k]
    if any(k in chosen_kernels(log_text) for k in expected.names) and all(k in expected.names for k in linear):
        return None
    best = expected.names[0]
    if not linear:
        if _LOADED.search(log_text) is None or len(chosen_kernels(log_text)) > 0:
            return None
        return Finding(
            code="kernel-not-named",
            message=f"vLLM names no kernel for the {fmt} layers, where {best} was expected: they may not be quantized.",
            remedy="Compare the memory with the plan's (advisor status); verify the artifact: advisor verify ARTIFACT",
            sources=(_VERSION,),
        )
    odd = [k for k in linear if k not in expected.names]
    return Finding(
        code="kernel-not-expected",
        message=f"{best} expected for {fmt} ({expected.why}), got {', '.join(odd)}.",
        remedy=_remedy(method, device, odd),
        sources=(_VERSION,),
    )


def _remedy(method: str, device: str, odd: list[str]) -> str:
    if device == "cpu":
        return "This runs, but slowly. Take a format with a kernel for this processor: advisor up MODEL --method w8a8"
    if method in _GROUPED:
        if any(k.startswith(("Exllama", "Triton", "Conch")) for k in odd):
            return (
                "Marlin takes groups of 32, 64 or 128 that divide every width, symmetric GPTQ weights and no order of "
                "activations across devices: advisor quantize MODEL --group-size 64, or fewer devices."
            )
        return "advisor quantize MODEL --group-size 64"
    if method == "fp8":
        return "Take INT8 on this card: advisor up MODEL --method w8a8"
    return "Take a 4-bit integer format on this card: advisor up MODEL --method awq"
