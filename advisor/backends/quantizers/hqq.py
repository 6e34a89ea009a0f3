"""HQQ: half-quadratic quantization at load time, without calibration. Saving it writes a pickle: not done."""

from __future__ import annotations

from typing import Final

from advisor.backends.base import QuantizerCapabilities
from advisor.backends.declared import DeclaredQuantizer
from advisor.backends.diagnose import CUDA

BACKEND: Final = DeclaredQuantizer(
    QuantizerCapabilities(
        name="hqq",
        methods={"hqq": tuple(f"hqq{bits}-g{group}" for bits in (4, 8, 3, 2) for group in (64, 128, 32))},
        executable=False,
        needs=("hqq with torch in an environment of its own, in the process that serves",),
        runs_on=("nvidia", "amd", "cpu"),
    ),
    CUDA,
)
