"""What a person asked of the quantizer, as formats to try and as parameters of a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from advisor.facts.plan import PlanRequest
from advisor.facts.recipe import RecipeOptions
from advisor.facts.words import GROUPED_FORMAT

# Keys of a plan's parameters that no rule sets: a user's calibration file and adapter.
CALIBRATION: Final = "quantize.calibration_file"
ADAPTER: Final = "quantize.adapter"
# The artifact is proven by itself: what holding it against the original takes was not there.
ALONE: Final = "verify.alone"
_CALIBRATED: Final = frozenset(("awq", "gptq", "w8a8", "fp8", "gguf"))
_BITS: Final = {"w8a8": 8, "fp8": 8, "int8": 8, "nf4": 4, "nvfp4": 4, "mxfp4": 4}
_APPLIES: Final[dict[str, frozenset[str]]] = {
    "desc_act": frozenset(("gptq",)),
    "damp": frozenset(("gptq",)),
    "sym": frozenset(("gptq", "awq", "rtn")),
    "samples": _CALIBRATED,
    "smoothing": frozenset(("w8a8",)),
    "static_activations": frozenset(("fp8",)),
    "double_quant": frozenset(("nf4",)),
    "layout": frozenset(("awq",)),
}


def narrowed(method: str, formats: Sequence[str], asked: RecipeOptions) -> list[str]:
    """The formats of ``method`` that have the bits and the group size that are asked for.

    A group or bits that the list lacks gives a format of its own, so that what is illegal about it can be said.
    """
    bits, group = asked.bits, asked.group_size
    if bits is None and group is None:
        return list(formats)
    if method in ("awq", "gptq", "rtn", "hqq"):
        sizes = [group] if group is not None else [g for f in formats if (g := _group(f)) is not None]
        word = "hqq{}-g{}" if method == "hqq" else "w{}a16-g{}"
        made = [word.format(bits or 4, g) for g in sizes]
        return [f for f in dict.fromkeys(made) if GROUPED_FORMAT.match(f)]
    if group is not None:
        return []
    if method == "gguf":
        return [f for f in formats if bits == _gguf_bits(f)]
    return [f for f in formats if _BITS.get(f, 16) == bits]


def _gguf_bits(fmt: str) -> int | None:
    """The bits that a GGUF type has in its name."""
    if fmt in _BITS:
        return _BITS[fmt]
    digits = fmt.removeprefix("i").removeprefix("t").lstrip("qbf").partition("_")[0]
    return int(digits) if digits.isdigit() else None


def _group(fmt: str) -> int | None:
    found = GROUPED_FORMAT.match(fmt)
    return int(found["group"] or found["hgroup"]) if found else None


def calibration(parameters: Mapping[str, str | bool | int | float]) -> str | None:
    """The file, or the text of the hub, that a plan calibrates on; ``None``: the bundled text."""
    named = parameters.get(CALIBRATION)
    return str(named) if named else None


def alone(parameters: Mapping[str, str | bool | int | float]) -> bool:
    """Whether a plan gave up holding its artifact against the original."""
    return bool(parameters.get(ALONE))


def parameters(request: PlanRequest, method: str, source: str) -> dict[str, str | bool | int | float]:
    """What was asked for that applies to a candidate, in the keys of a plan's parameters."""
    out: dict[str, str | bool | int | float] = {}
    if request.adapter is not None:
        out[ADAPTER] = request.adapter
    if source not in ("quantize", "load-time"):
        return out
    for name, methods in _APPLIES.items():
        value = getattr(request.recipe, name)
        if value is not None and method in methods:
            out[f"quantize.{name}"] = value
    if request.calibration is not None and method in _CALIBRATED:
        out[CALIBRATION] = request.calibration
    return out
