"""AutoAWQ: AWQ in its native form. No longer maintained; selectable, never the first choice."""

from __future__ import annotations

from typing import Final

from advisor.backends.base import QuantizerCapabilities
from advisor.backends.declared import DeclaredQuantizer
from advisor.backends.diagnose import CUDA

GROUPED: Final = ("w4a16-g128", "w4a16-g64", "w4a16-g32")

BACKEND: Final = DeclaredQuantizer(
    QuantizerCapabilities(
        name="autoawq",
        methods={"awq": GROUPED},
        executable=False,
        needs=("AutoAWQ 0.2.9, its last release, in an environment of its own", "the original 16-bit weights"),
        runs_on=("nvidia",),
        calibrates=GROUPED,
    ),
    CUDA,
)
