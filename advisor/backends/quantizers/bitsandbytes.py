"""bitsandbytes: NF4 and INT8, when a runtime loads or saved as safetensors; without calibration."""

from __future__ import annotations

from typing import Final

from advisor.backends.base import QuantizerCapabilities
from advisor.backends.diagnose import known
from advisor.backends.quantizing import RunQuantizer, refuse
from advisor.facts.recipe import Recipe

ENV: Final = "transformers"
_BITS: Final = {"nf4": 4, "int8": 8}

_FAILURES: Final = (
    known(
        r"Using `bitsandbytes` .{0,60}requires|requires the latest version of bitsandbytes|"
        r"bitsandbytes.{0,60}(was not compiled|library load error|CUDA Setup failed)|"
        r"Native code method attempted to call",
        "package-broken",
        "bitsandbytes has no kernels for this machine: {0}",
        "advisor env doctor",
    ),
    known(
        r"Some modules are dispatched on the CPU or the disk",
        "out-of-memory",
        "The quantized model does not fit the device: {0}",
        "advisor recommend --goal smallest-memory",
    ),
)


def check(recipe: Recipe) -> None:
    """Refuse bits, groups, zero points and text that NF4 and INT8 do not have.

    Raises:
        AdvisorError: ``illegal-recipe``.
    """
    if recipe.method not in _BITS:
        raise refuse(recipe, f"bitsandbytes makes NF4 and INT8, not {recipe.method}.", recipe.method, "")
    bits = _BITS[recipe.method]
    if recipe.bits != bits:
        raise refuse(recipe, f"{recipe.method} is {bits} bits; {recipe.bits} was given.", recipe.bits, "")
    if recipe.group_size is not None and (recipe.method, recipe.group_size) != ("nf4", 64):
        blocks = "blocks of 64 weights" if recipe.method == "nf4" else "one scale a row"
        raise refuse(recipe, f"{recipe.method} has {blocks}; {recipe.group_size} was given.", recipe.group_size, "")
    if not recipe.symmetric:
        raise refuse(recipe, f"{recipe.method} has no zero points.", False, "")
    if recipe.samples:
        raise refuse(
            recipe,
            f"{recipe.method} looks at no text; {recipe.samples} samples were given.",
            recipe.samples,
            "",
        )


BACKEND: Final = RunQuantizer(
    QuantizerCapabilities(
        name="bitsandbytes",
        methods={"nf4": ("nf4",), "int8": ("int8",)},
        executable=True,
        needs=(),
        runs_on=("nvidia", "amd", "cpu"),
        env=ENV,
    ),
    runner="quantize_bitsandbytes.py",
    check=check,
    failures=_FAILURES,
)
