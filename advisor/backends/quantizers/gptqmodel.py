"""GPTQModel: GPTQ in its native form, which transformers, ExLlama and vLLM load."""

from __future__ import annotations

from typing import Final

from advisor.backends.base import QuantizerCapabilities
from advisor.backends.declared import DeclaredQuantizer
from advisor.backends.diagnose import CUDA, known

_FAILURES: Final = (
    known(
        r"negative dimension|max_workers must be greater than 0|CPU_WORKERS",
        "too-few-cores",
        "GPTQModel fails with two cores or fewer unless it is told how many workers to use: {0}",
        "Set GPTQMODEL_CPU_WORKERS=2 and run it again.",
    ),
    *CUDA,
)
GROUPED: Final = tuple(f"w{bits}a16-g{group}" for bits in (4, 8, 3, 2) for group in (128, 64, 32))

BACKEND: Final = DeclaredQuantizer(
    QuantizerCapabilities(
        name="gptqmodel",
        methods={"gptq": GROUPED},
        executable=False,
        needs=("GPTQModel with torch in an environment of its own", "the original 16-bit weights"),
        runs_on=("nvidia", "amd", "intel", "cpu"),
        calibrates=GROUPED,
    ),
    _FAILURES,
)
