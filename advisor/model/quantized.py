"""What a checkpoint's ``quantization_config`` says: the contract's method and format, as far as it tells."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple


class Quantized(NamedTuple):
    """``method`` and ``format`` in the contract's words, ``None`` where the configuration tells of nothing known."""

    method: str | None
    format: str | None


_NOTHING = Quantized(None, None)
# Of compressed-tensors, AutoAWQ and transformers, bitsandbytes, AutoFP8.
_LEFT_OUT = ("ignore", "modules_to_not_convert", "llm_int8_skip_modules", "ignored_layers")
_SIMPLE = re.compile(r"(?:[\w.\\^$*-]|\[\^\.\]){1,200}")


def read(config: object) -> Quantized:
    """Read ``quantization_config`` of AutoAWQ, GPTQModel, compressed-tensors, bitsandbytes, ModelOpt and FP8.

    compressed-tensors does not say which algorithm chose the codes: grouped 4-bit weights with zero points count as
    AWQ, with an activation order as GPTQ, else as rounded.
    """
    if not isinstance(config, Mapping):
        return _NOTHING
    method = str(config.get("quant_method", "")).lower()
    if method in ("awq", "gptq"):
        return Quantized(method, grouped(config.get("bits"), config.get("group_size")))
    if method == "bitsandbytes":
        if config.get("load_in_4bit"):
            return Quantized("nf4", "nf4") if config.get("bnb_4bit_quant_type", "nf4") == "nf4" else _NOTHING
        return Quantized("int8", "int8") if config.get("load_in_8bit") else _NOTHING
    if method in ("fp8", "fbgemm_fp8"):
        return Quantized("fp8", "fp8")
    if method == "mxfp4":
        return Quantized(method, method)
    if method == "modelopt":
        algorithm = str(config.get("quant_algo", "")).lower()
        return Quantized(algorithm, algorithm) if algorithm in ("fp8", "nvfp4") else _NOTHING
    if method == "compressed-tensors":
        return _compressed(config)
    return _NOTHING


def left_out(config: object) -> tuple[str, ...]:
    """Modules that a ``quantization_config`` names as not quantized: names, or ``re:`` and a pattern to match with.

    Patterns are somebody else's: those that could take long to match (more than three repetitions, groups) are dropped.
    """
    if not isinstance(config, Mapping):
        return ()
    found = next((v for key in _LEFT_OUT if isinstance(v := config.get(key), list) and v), [])
    words = [w for w in found if isinstance(w, str)]
    patterns = [
        w if w.startswith("re:") or "*" not in w else "re:" + re.escape(w).replace(r"\*", "[^.]*") for w in words
    ]
    return tuple(w for w in patterns if not w.startswith("re:") or (_SIMPLE.fullmatch(w[3:]) and w.count("*") <= 3))


def grouped(bits: object, group: object) -> str | None:
    """``w4a16-g128``; ``None`` for what is no such format (groups of a whole row among them)."""
    if isinstance(bits, bool) or not isinstance(bits, int) or bits not in (2, 3, 4, 8):
        return None
    if isinstance(group, bool) or not isinstance(group, int) or group <= 0:
        return None
    return f"w{bits}a16-g{group}"


def _compressed(config: Mapping[str, Any]) -> Quantized:
    groups = config.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = first.get("weights") if isinstance(first, Mapping) else None
    if not isinstance(weights, Mapping):
        return _NOTHING
    inputs = first.get("input_activations") if isinstance(first, Mapping) else None
    bits, group, kind = weights.get("num_bits"), weights.get("group_size"), weights.get("type")
    if kind == "float" and bits == 8:
        return Quantized("fp8", "fp8")
    if kind == "float" and bits == 4:
        name = "nvfp4" if group == 16 else "mxfp4" if group == 32 else None
        return Quantized(name, name)
    if isinstance(inputs, Mapping) and bits == 8:
        return Quantized("w8a8", "w8a8")
    fmt = grouped(bits, group)
    if fmt is None:
        return _NOTHING
    order = weights.get("actorder")
    return Quantized("gptq" if order else "rtn" if weights.get("symmetric", True) else "awq", fmt)
