"""transformers: planned with, not started by this version."""

from __future__ import annotations

from typing import Final

from advisor.backends.base import ANY_FORMAT, RuntimeCapabilities
from advisor.backends.declared import DeclaredRuntime
from advisor.backends.diagnose import CUDA

_ENV: Final = "transformers with torch in an environment of its own"

BACKEND: Final = DeclaredRuntime(
    RuntimeCapabilities(
        name="transformers",
        methods={
            "awq": ("w4a16-g128", "w4a16-g64", "w4a16-g32"),
            "gptq": (ANY_FORMAT,),
            "nf4": ("nf4",),
            "int8": ("int8",),
            "hqq": (ANY_FORMAT,),
            "none": ("bf16", "f16"),
        },
        devices=("nvidia", "amd", "intel", "apple", "cpu"),
        executable=False,
        needs={
            "nvidia": (_ENV, "a CUDA build of torch that the driver supports"),
            "amd": (_ENV, "a ROCm build of torch"),
            "intel": (_ENV, "an XPU build of torch"),
            "apple": (_ENV,),
            "cpu": (_ENV,),
        },
        min_compute_capability={"awq": 7.5, "bf16": 8.0},
    ),
    failures=CUDA,
)
