"""bitsandbytes: NF4 and INT8 at load time or saved, without calibration."""

from __future__ import annotations

from typing import Final

from advisor.backends.base import QuantizerCapabilities
from advisor.backends.declared import DeclaredQuantizer
from advisor.backends.diagnose import CUDA

BACKEND: Final = DeclaredQuantizer(
    QuantizerCapabilities(
        name="bitsandbytes",
        methods={"nf4": ("nf4",), "int8": ("int8",)},
        executable=False,
        needs=("bitsandbytes with transformers and torch in an environment of its own",),
        runs_on=("nvidia", "amd", "intel", "cpu"),
    ),
    CUDA,
)
