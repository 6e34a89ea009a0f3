"""llm-compressor: AWQ, GPTQ, SmoothQuant W8A8, FP8 and NVFP4 in the compressed-tensors form that vLLM loads."""

from __future__ import annotations

from typing import Final

from advisor.backends.base import QuantizerCapabilities
from advisor.backends.declared import DeclaredQuantizer
from advisor.backends.diagnose import CUDA, known

_FAILURES: Final = (
    known(
        r"pin_memory|Cannot access accelerator device when none is available",
        "needs-accelerator",
        "This recipe pins memory for an accelerator, and there is none: {0}",
        "Quantize to GGUF on this machine: advisor quantize MODEL --method gguf",
    ),
    *CUDA,
)
# The group must divide every row, so the smaller ones matter for narrow models.
GROUPED: Final = ("w4a16-g128", "w4a16-g64", "w4a16-g32")

BACKEND: Final = DeclaredQuantizer(
    QuantizerCapabilities(
        name="llmcompressor",
        methods={
            "awq": GROUPED,
            "gptq": (*GROUPED, "w8a16-g128"),
            "w8a8": ("w8a8",),
            "fp8": ("fp8",),
            "nvfp4": ("nvfp4",),
            "rtn": GROUPED,
        },
        executable=False,
        needs=("llm-compressor with torch in an environment of its own", "the original 16-bit weights"),
        runs_on=("nvidia", "amd", "cpu"),
        calibrates=(*GROUPED, "w8a16-g128", "w8a8", "nvfp4"),
    ),
    _FAILURES,
)
