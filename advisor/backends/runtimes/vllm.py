"""vLLM: planned with, not started by this version."""

from __future__ import annotations

from typing import Final

from advisor.backends.base import RuntimeCapabilities
from advisor.backends.declared import DeclaredRuntime
from advisor.backends.diagnose import CUDA, known

_FAILURES: Final = (
    known(
        r"max seq len \(\d+\) is larger than the maximum number of tokens|KV cache is needed, which is larger than",
        "context-too-large",
        "The KV cache of the whole context does not fit: {0}",
        "advisor up MODEL --context 8192",
    ),
    known(
        r"Free memory on device .{0,120} is less than desired GPU memory utilization",
        "memory-taken",
        "Another process holds memory of the device: {0}",
        "End the other process, or plan with less: advisor recommend MODEL --max-memory",
    ),
    known(
        r"address already in use|Errno 98",
        "port-taken",
        "The port is in use: {0}",
        "advisor up MODEL --port 8081",
    ),
    known(
        r"Model architectures \[.{0,120}\] (are not supported|failed to be inspected)",
        "unknown-architecture",
        "vLLM does not know the architecture: {0}",
        "advisor recommend MODEL --runtime llama.cpp",
    ),
    *CUDA,
)
_GROUPED: Final = ("w4a16-g128", "w4a16-g64", "w4a16-g32")
_ENV: Final = "vLLM in an environment of its own"

BACKEND: Final = DeclaredRuntime(
    RuntimeCapabilities(
        name="vllm",
        methods={
            "awq": _GROUPED,
            "gptq": (*_GROUPED, "w8a16-g128", "w8a16-g64", "w8a16-g32"),
            "rtn": _GROUPED,
            "w8a8": ("w8a8",),
            "fp8": ("fp8",),
            "nvfp4": ("nvfp4",),
            "mxfp4": ("mxfp4",),
            "nf4": ("nf4",),
            "none": ("bf16", "f16"),
        },
        devices=("nvidia", "amd", "intel", "cpu"),
        executable=False,
        needs={
            "nvidia": (_ENV, "an NVIDIA driver that its CUDA build supports"),
            "amd": ("a ROCm build of vLLM in an environment of its own",),
            "intel": ("an XPU build of vLLM in an environment of its own",),
            "cpu": ("a CPU build of vLLM in an environment of its own",),
        },
        # Marlin kernels start at 7.5; below 8.9 FP8 is weight-only, below 10.0 NVFP4 is.
        min_compute_capability={
            "awq": 7.5,
            "gptq": 7.5,
            "rtn": 7.5,
            "w8a8": 7.5,
            "fp8": 7.5,
            "nvfp4": 7.5,
            "mxfp4": 7.5,
            "nf4": 7.5,
            "bf16": 8.0,
            "f16": 7.5,
        },
    ),
    failures=_FAILURES,
)
