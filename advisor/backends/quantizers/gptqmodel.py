"""GPTQModel: GPTQ in its native form, which transformers, ExLlama and vLLM load; a layer at a time."""

from __future__ import annotations

from typing import Final

from advisor.backends.base import QuantizerCapabilities
from advisor.backends.diagnose import known
from advisor.backends.quantizing import GROUPS, RunQuantizer, check_needs, nearest_group, refuse
from advisor.facts.recipe import Recipe

ENV: Final = "gptqmodel"
BITS: Final = (4, 8, 3, 2)
GROUPED: Final = tuple(f"w{bits}a16-g{group}" for bits in BITS for group in GROUPS)

FAILURES: Final = (
    known(
        r"requests \d+ workers but parent \S+ only has|negative dimension|max_workers must be greater than 0",
        "too-few-cores",
        "GPTQModel gave itself too few workers, as it does by default with two cores or fewer: {0}",
        "advisor env doctor",
        "GPTQModel 7.6.0, _default_cpu_workers",
    ),
    known(
        r"(in|out)_features must be divisible by 32|packing \d-bit codes needs multiples",
        "width",
        "A matrix of the model is too odd in size for packed codes: {0}",
        "advisor recommend MODEL --method gguf",
    ),
    known(
        r"is not supported by GPT-?QModel|Unsupported model_type|isn't supported yet|"
        r"TypeError: \S+ isn't supported|No supported layer modules",
        "unknown-architecture",
        "GPTQModel does not know this architecture: {0}",
        "advisor quantize MODEL --method gptq --quantizer llmcompressor",
    ),
)


def check(recipe: Recipe) -> None:
    """Refuse other bits than 2, 3, 4 and 8, other groups than kernels have, and damping outside 0 to 1.

    Raises:
        AdvisorError: ``illegal-recipe``.
    """
    by = "" if recipe.quantizer == "gptqmodel" else f"--quantizer {recipe.quantizer} "
    if recipe.method != "gptq":
        raise refuse(recipe, f"{recipe.quantizer} makes GPTQ here, not {recipe.method}.", recipe.method, "")
    if recipe.bits not in BITS:
        bits = min(sorted(BITS), key=lambda b: abs(b - recipe.bits))
        raise refuse(
            recipe,
            f"{recipe.quantizer} makes GPTQ of 2, 3, 4 or 8 bits; {recipe.bits} was given.",
            recipe.bits,
            f"{by}--bits {bits} --group-size {nearest_group(recipe.group_size)}",
        )
    check_needs(recipe, by.strip(), kernels="The kernels for GPTQ", samples=128)
    if recipe.damp is None or not 0 < recipe.damp < 1:
        raise refuse(
            recipe,
            f"damp lies between 0 and 1, without both; {recipe.damp} was given.",
            recipe.damp,
            f"{by}--damp 0.01",
        )


BACKEND: Final = RunQuantizer(
    QuantizerCapabilities(
        name="gptqmodel",
        methods={"gptq": GROUPED},
        executable=True,
        needs=(),
        runs_on=("nvidia", "amd", "cpu"),
        calibrates=GROUPED,
        env=ENV,
    ),
    runner="quantize_gptqmodel.py",
    check=check,
    failures=FAILURES,
)
