"""No quantization: the 16-bit weights as they are. Through llama.cpp that is method gguf, format f16 or bf16."""

from __future__ import annotations

from typing import Final

from advisor.backends.base import QuantizerCapabilities
from advisor.backends.declared import DeclaredQuantizer

BACKEND: Final = DeclaredQuantizer(
    QuantizerCapabilities(
        name="none",
        methods={"none": ("bf16", "f16")},
        executable=True,
        needs=(),
        runs_on=("nvidia", "amd", "intel", "apple", "cpu"),
    )
)
