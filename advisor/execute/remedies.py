"""What comes next after too much loss: more bits, finer groups, a method that calibrates. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

from advisor.facts.words import GGUF_FORMATS, GROUPED_FORMAT

# The smallest group that the fast kernels for 4-bit weights take (vLLM's Marlin: 32, 64, 128, or a whole row).
_GROUPS: Final = (128, 64, 32)
# Of formats without groups: which is next nearer to the original, and runs where the former did.
_PLAIN: Final[dict[str, tuple[str, str]]] = {
    "mxfp4": ("nvfp4", "nvfp4"),
    "nvfp4": ("fp8", "fp8"),
    "nf4": ("int8", "int8"),
    "int8": ("none", "bf16"),
    "w8a8": ("none", "bf16"),
    "fp8": ("none", "bf16"),
}
_CALIBRATED: Final = frozenset({"awq", "gptq", "w8a8"})


class Choice(NamedTuple):
    """A method and a format of the contract."""

    method: str
    format: str

    def command(self, model: str) -> str:
        """The command that makes and serves it."""
        if self.method == "none":
            return f"advisor up {model} --method none"
        method = "" if self.method == "gguf" else f" --method {self.method}"
        return f"advisor up {model}{method} --format {self.format}"


def next_format(fmt: str) -> str | None:
    """The next GGUF format that is nearer to the original, or ``None`` where there is none.

    The rungs are the guide's own: mixed K types before the older uniform ones (002 section 27.5.2). MXFP4 is made of
    weights that were published in it alone, so nothing is nearer.
    """
    fmt = fmt.partition(":")[0]
    order = ("q3_k_m", "q4_k_m", "q5_k_m", "q6_k", "q8_0", "f16")
    if fmt not in GGUF_FORMATS or fmt in ("f16", "bf16", "mxfp4"):
        return None
    better = [f for f in order if GGUF_FORMATS.index(f) > GGUF_FORMATS.index(fmt)]
    return better[0] if better else None


def next_choice(method: str, fmt: str) -> Choice | None:
    """The next choice that is nearer to the original; ``None`` where only the original is.

    Rounding to nearest gives way to GPTQ with the same bits and groups; calibrated methods to smaller groups, then to
    more bits; a group that divides a model's widths divides them when halved. Four bits with the smallest groups give
    way to W8A8, which every runtime with 4-bit kernels has too. Two and three bits become four.
    """
    if method == "gguf" or (method != "none" and fmt in GGUF_FORMATS and fmt not in ("f16", "bf16", "mxfp4")):
        better = next_format(fmt)
        return Choice("gguf", better) if better else None
    if method == "none" or fmt in ("f16", "bf16"):
        return None
    if fmt in _PLAIN:
        return Choice(*_PLAIN[fmt])
    found = GROUPED_FORMAT.match(fmt)
    if found is None:
        return None
    hqq = found["bits"] is None
    bits, group = int(found["hbits"] if hqq else found["bits"]), int(found["hgroup"] if hqq else found["group"])
    if bits == 8:
        return Choice("none", "bf16")
    if bits < 4:
        return Choice("hqq", f"hqq4-g{group}") if hqq else Choice(_weights(method), f"w4a16-g{group}")
    if method == "rtn":
        return Choice("gptq", fmt)
    finer = [g for g in _GROUPS if g < group]
    if hqq:
        return Choice("hqq", f"hqq4-g{finer[0]}") if finer else Choice("int8", "int8")
    return Choice(method, f"w4a16-g{finer[0]}") if finer else Choice("w8a8", "w8a8")


def _weights(method: str) -> str:
    """The method that quantizes weights to four bits: rounding to nearest is no improvement to send a person to."""
    return "gptq" if method == "rtn" else method


def more_quality(fmt: str, imatrix: bool, *, method: str = "gguf", model: str = "MODEL") -> str:
    """What to do against too much loss: more bits or finer groups, or a broader calibration."""
    fmt = fmt.partition(":")[0]
    better = next_choice(method, fmt)
    if method == "gguf" and fmt == "mxfp4":
        parts = ["nothing is nearer to weights that were published in MXFP4: fetch the model again"]
    elif better is None or better.method == "none":
        parts = ["use the unquantized model: --method none"]
    elif method == "gguf":
        parts = [f"use more bits: --format {better.format}"]
    else:
        parts = [f"use {better.method} in {better.format}: {better.command(model)}"]
    if imatrix or method in _CALIBRATED:
        parts.append("or calibrate on a broader text, nearer to the use: --calibration FILE")
    elif method == "gguf" and fmt in GGUF_FORMATS and fmt not in ("q8_0", "q6_k", "f16", "bf16", "mxfp4"):
        parts.append("or measure an importance matrix on a broad text first")
    return (parts[0][:1].upper() + parts[0][1:] + "".join(f"; {p}" for p in parts[1:])) + "."
