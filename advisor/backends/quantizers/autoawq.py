"""AutoAWQ: AWQ in its native form. No longer maintained; selectable, never the first choice.

It works on a CPU, a few minutes for small models; what it makes is meant for GPUs.
"""

from __future__ import annotations

from typing import Final

from advisor.backends.base import QuantizerCapabilities
from advisor.backends.diagnose import known
from advisor.backends.quantizing import GROUPS, RunQuantizer, check_needs, nearest_group, refuse
from advisor.facts.recipe import Recipe

ENV: Final = "autoawq"
GROUPED: Final = tuple(f"w4a16-g{group}" for group in GROUPS)
LAYOUTS: Final = ("gemm", "gemv")

_FAILURES: Final = (
    known(
        r"AutoAWQ does not know the architecture|TypeError: \S+ isn't supported yet",
        "unknown-architecture",
        "AutoAWQ does not know this architecture, and no release will: {0}",
        "advisor quantize MODEL --method awq",
    ),
    known(
        r"No module named 'triton'|Please (install|compile) AWQ|awq_ext",
        "needs-accelerator",
        "AutoAWQ's kernels need a GPU, and there is none: {0}",
        "advisor quantize MODEL --method awq",
    ),
    known(
        r"packing \d-bit codes needs multiples",
        "width",
        "A matrix of the model is too odd in size for packed codes: {0}",
        "advisor recommend MODEL --method gguf",
    ),
    # A search that never found a finite error raises a bare Exception.
    known(
        r"_compute_best_scale[\s\S]{0,200}raise Exception|assert torch\.isnan",
        "not-finite",
        "The search for scales found no finite error: {0}",
        "Take other text: advisor quantize MODEL --method awq --quantizer autoawq --calibration FILE",
        "AutoAWQ 0.2.9, _compute_best_scale",
    ),
)


def check(recipe: Recipe) -> None:
    """Refuse other bits than 4, weights without zero points, other groups and layouts than its kernels have.

    Raises:
        AdvisorError: ``illegal-recipe``.
    """
    by = "--quantizer autoawq"
    if recipe.method != "awq":
        raise refuse(recipe, f"AutoAWQ makes AWQ, not {recipe.method}.", recipe.method, "")
    group = nearest_group(recipe.group_size)
    if recipe.bits != 4:
        raise refuse(
            recipe, f"AWQ's kernels are 4 bits; {recipe.bits} was given.", recipe.bits, f"{by} --format w4a16-g{group}"
        )
    check_needs(recipe, by, kernels="AWQ's kernels", samples=64)
    if recipe.symmetric:
        raise refuse(
            recipe, "AutoAWQ writes zero points always; symmetric weights were asked for.", True, f"{by} --no-sym"
        )
    if recipe.layout not in (None, *LAYOUTS):
        raise refuse(recipe, f"AutoAWQ's layouts are gemm and gemv; {recipe.layout} was given.", recipe.layout, by)


BACKEND: Final = RunQuantizer(
    QuantizerCapabilities(
        name="autoawq",
        methods={"awq": GROUPED},
        executable=True,
        needs=(),
        runs_on=("nvidia", "amd", "cpu"),
        calibrates=GROUPED,
        env=ENV,
    ),
    runner="quantize_autoawq.py",
    check=check,
    failures=_FAILURES,
)
