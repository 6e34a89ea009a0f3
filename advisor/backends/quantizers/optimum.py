"""optimum: GPTQ through transformers, with GPTQModel's arithmetic; selectable. The whole model must be in memory."""

from __future__ import annotations

from typing import Final

from advisor.backends.base import QuantizerCapabilities
from advisor.backends.diagnose import known
from advisor.backends.quantizers import gptqmodel
from advisor.backends.quantizing import RunQuantizer

_FAILURES: Final = (
    known(
        r"requires (optimum|gptqmodel)|GPT-QModel is required|optimum version should|gptqmodel version should",
        "package-missing",
        "optimum quantizes only beside GPTQModel: {0}",
        "advisor env doctor",
    ),
    known(
        r"Block pattern could not be match|block_name_to_quantize|disk offload is not supported",
        "unknown-architecture",
        "optimum does not find the layers of this architecture: {0}",
        "advisor quantize MODEL --method gptq",
    ),
    *gptqmodel.FAILURES,
)

BACKEND: Final = RunQuantizer(
    QuantizerCapabilities(
        name="optimum",
        methods={"gptq": gptqmodel.GROUPED},
        executable=True,
        needs=(),
        runs_on=("nvidia", "amd", "cpu"),
        calibrates=gptqmodel.GROUPED,
        env=gptqmodel.ENV,
    ),
    runner="quantize_optimum.py",
    check=gptqmodel.check,
    failures=_FAILURES,
)
