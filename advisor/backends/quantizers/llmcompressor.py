"""llm-compressor: AWQ, GPTQ, SmoothQuant W8A8, FP8, NVFP4, MXFP4 and rounding, in the compressed-tensors form that vLLM
loads. It quantizes layer by layer, so that the model needs to fit into host memory only."""

from __future__ import annotations

from typing import Final

from advisor.backends.base import QuantizerCapabilities
from advisor.backends.diagnose import known
from advisor.backends.quantizing import GROUPS, RunQuantizer
from advisor.errors import AdvisorError
from advisor.facts.recipe import Recipe

ENV: Final = "llmcompressor"

# What the logs of all quantizers show alike comes after these.
_FAILURES: Final = (
    known(
        r"pin_memory|Cannot access accelerator device when none is available",
        "needs-accelerator",
        "This recipe pins memory for an accelerator, and there is none: {0}",
        "advisor env doctor",
    ),
    known(
        r"Encountered NaN|No finite loss was found",
        "not-finite",
        "Values that are not numbers came out: {0}",
        "Take other text, or weights in bfloat16, whose range is larger: advisor quantize MODEL --calibration FILE",
        "002 section 27.8.3",
    ),
    known(
        r"requires a calibration dataset|num_samples=0",
        "no-samples",
        "There was no usable calibration text: {0}",
        "advisor quantize MODEL --calibration FILE",
        "002 section 27.8.1",
    ),
    known(
        r"columns.{0,60}(not|in)divisib|indivisible by group|must be divisible by the group",
        "group-size",
        "The group size does not divide a row of the model: {0}",
        "advisor quantize MODEL --group-size 32",
        "FMT-001",
    ),
    known(
        r"TraceError|Failed to trace|could not be traced|symbolically traced variables cannot be used",
        "cannot-trace",
        "llm-compressor cannot go through this model layer by layer: {0}",
        "advisor recommend MODEL --method gguf",
    ),
    known(
        r"Failed to (infer|find) (layer )?mappings|No mappings|mappings.{0,60}not (found|supported)",
        "unknown-architecture",
        "llm-compressor does not know which layers of this architecture belong together: {0}",
        "advisor quantize MODEL --method gptq",
    ),
)
# The group must divide every row, so the smaller ones matter for narrow models.
FOUR_BIT: Final = tuple(f"w4a16-g{g}" for g in GROUPS)
# vLLM has kernels for 4 and 8 bits; what the library could write in 2 and 3 bits would crawl or not load.
GROUPED: Final = (*FOUR_BIT, *(f"w8a16-g{g}" for g in GROUPS))


def _check(recipe: Recipe) -> None:
    """What bits and groups there are stands in the capabilities; here, what the formats themselves forbid."""
    if not recipe.symmetric and recipe.method not in ("awq", "gptq", "rtn"):
        raise AdvisorError(
            "illegal-recipe",
            f"{recipe.format} has no zero points: its weights are symmetric.",
            hint=f"advisor quantize MODEL --method {recipe.method} --format {recipe.format}",
            data={"value": False},
        )


BACKEND: Final = RunQuantizer(
    # AWQ, GPTQ, W8A8 and static FP8 look at activations; the other methods at the weights alone.
    QuantizerCapabilities(
        name="llmcompressor",
        methods={
            "awq": FOUR_BIT,
            "gptq": GROUPED,
            "w8a8": ("w8a8",),
            "fp8": ("fp8",),
            "nvfp4": ("nvfp4",),
            "mxfp4": ("mxfp4",),
            "rtn": GROUPED,
        },
        executable=True,
        needs=(),
        runs_on=("nvidia", "amd", "cpu"),
        calibrates=(*GROUPED, "w8a8", "fp8"),
        env=ENV,
    ),
    runner="quantize_llmcompressor.py",
    check=_check,
    failures=_FAILURES,
)
