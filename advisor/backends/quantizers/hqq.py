"""HQQ: half-quadratic quantization when a runtime loads, without calibration. Saving it writes a pickle: not done."""

from __future__ import annotations

from typing import Final

from advisor.backends.base import QuantizerCapabilities
from advisor.backends.diagnose import known
from advisor.backends.quantizing import GROUPS, RunQuantizer, nearest_group, refuse
from advisor.errors import AdvisorError
from advisor.facts.recipe import Recipe

ENV: Final = "transformers"
BITS: Final = (4, 8, 3, 2)
FORMATS: Final = tuple(f"hqq{bits}-g{group}" for bits in BITS for group in (64, *(g for g in GROUPS if g != 64)))

_FAILURES: Final = (
    known(
        r"NotImplementedError[\s\S]{0,200}[Hh]qq|[Hh]qq[\s\S]{0,200}NotImplementedError",
        "hqq-through-transformers",
        "transformers does not carry out HQQ itself: {0}",
        "advisor up MODEL --method hqq",
        "transformers 5.23, HqqConfig",
    ),
    known(
        r"Group size \d+ does not divide|group_size should be divisble|Invalid group_size param",
        "group-size",
        "The group size does not divide a matrix of the model: {0}",
        "advisor up MODEL --format hqq4-g32",
        "FMT-001",
    ),
)


def check(recipe: Recipe) -> None:
    """Refuse to save, and bits, groups and text that HQQ does not have.

    Raises:
        AdvisorError: ``illegal-recipe``.
    """
    if recipe.method != "hqq":
        raise refuse(recipe, f"hqq makes HQQ, not {recipe.method}.", recipe.method, "")
    group = nearest_group(recipe.group_size)
    if recipe.bits not in BITS:
        bits = min(sorted(BITS), key=lambda b: abs(b - recipe.bits))
        raise refuse(
            recipe, f"HQQ is 2, 3, 4 or 8 bits; {recipe.bits} was given.", recipe.bits, f"--format hqq{bits}-g{group}"
        )
    if recipe.group_size not in GROUPS:
        given = "one scale a row" if recipe.group_size is None else recipe.group_size
        raise refuse(
            recipe,
            f"HQQ has groups of 32, 64 or 128 here; {given} was given.",
            recipe.group_size,
            f"--format hqq{recipe.bits}-g{group}",
        )
    if recipe.symmetric:
        raise refuse(recipe, "HQQ fits zero points; symmetric weights were asked for.", True, "")
    if recipe.samples:
        raise refuse(recipe, f"HQQ looks at no text; {recipe.samples} samples were given.", recipe.samples, "")
    if not recipe.at_load:
        raise AdvisorError(
            "illegal-recipe",
            "hqq saves a pickle, which can run code when it is opened; the runtime quantizes when it loads instead.",
            hint=f"advisor up MODEL --method hqq --format {recipe.format}",
            data={"method": "hqq", "quantizer": "hqq", "value": False},
        )


BACKEND: Final = RunQuantizer(
    QuantizerCapabilities(
        name="hqq",
        methods={"hqq": FORMATS},
        executable=True,
        needs=(),
        runs_on=("nvidia", "amd", "cpu"),
        env=ENV,
    ),
    runner=None,
    check=check,
    failures=_FAILURES,
)
