"""What a checkpoint folder holds by its headers and its config.json, and what a runtime loaded of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from advisor.errors import AdvisorError
from advisor.execute import gate
from advisor.execute.remedies import Choice
from advisor.facts.base import Shape
from advisor.facts.results import Finding
from advisor.facts.text import clean
from advisor.model.jsonfile import read_object
from advisor.model.safetensors import read_header

if TYPE_CHECKING:
    from advisor.facts.recipe import Recipe

_FLOATS: Final = frozenset({"F16", "BF16", "F32", "F64"})
# The matrices of a layer; routers and norms are not quantized by any of the methods.
_MATRIX: Final = re.compile(
    r"\.(?:layers|h|blocks)\.\d+\..*(?:_proj|query_key_value|qkv|dense\w*|fc\d|c_attn|c_proj|c_fc|w[123])\.weight$"
)
# What the methods call themselves in quantization_config.
_NAMED: Final[dict[str, frozenset[str]]] = {
    "awq": frozenset({"awq", "compressed-tensors", "gptq"}),
    "gptq": frozenset({"gptq", "compressed-tensors"}),
    "rtn": frozenset({"compressed-tensors", "gptq"}),
    "w8a8": frozenset({"compressed-tensors"}),
    "fp8": frozenset({"compressed-tensors", "fp8", "fbgemm_fp8"}),
    "nvfp4": frozenset({"compressed-tensors", "modelopt"}),
    "mxfp4": frozenset({"compressed-tensors", "mxfp4", "quark"}),
    "nf4": frozenset({"bitsandbytes"}),
    "int8": frozenset({"bitsandbytes"}),
}
# vLLM's kernels that compute in 16 bits where the hardware has none for the format, by a part of their class's name.
_EMULATED: Final = re.compile(r"Emulat|Dequant", re.IGNORECASE)
# torch multiplies FP8 in hardware on a GPU only; on a processor it took 20 times as long as 16 bits.
_SLOW_ON_CPU: Final = re.compile(r"Emulat|Dequant|TorchFP8|TorchNvFp4", re.IGNORECASE)


class Stored(Shape, frozen=True, kw_only=True):
    """``types``: tensors by type; ``floating``: the matrices of layers that are stored in floating point; ``matrices``:
    how many matrices the layers have; ``named``: ``quant_method`` of config.json; ``bits`` and ``group`` as it says."""

    types: dict[str, int]
    floating: tuple[str, ...]
    matrices: int
    named: str | None
    bits: int | None
    group: int | None


def read(folder: Path) -> Stored:
    """Read the headers of all weights and the quantization in config.json; no tensor is read.

    Raises:
        AdvisorError: ``file-not-found``, ``untrusted-model-header``, ``untrusted-model-config``.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise AdvisorError("file-not-found", f"There are no safetensors files in {folder}.")
    types: Counter[str] = Counter()
    floating: list[str] = []
    packed: set[str] = set()
    for file in files:
        for name, tensor in read_header(file).tensors.items():
            types[tensor.dtype.lower()] += 1
            if _MATRIX.search(name) and tensor.dtype in _FLOATS:
                floating.append(name)
            elif name.endswith((".qweight", ".weight_packed")) or (name.endswith(".weight") and _MATRIX.search(name)):
                packed.add(name.rpartition(".")[0])
    named, bits, group = _quantization(folder / "config.json")
    return Stored(
        types=dict(sorted(types.items())),
        floating=tuple(floating),
        matrices=len(packed) + len(floating),
        named=named,
        bits=bits,
        group=group,
    )


def _quantization(path: Path) -> tuple[str | None, int | None, int | None]:
    config = read_object(path).get("quantization_config")
    if not isinstance(config, dict):
        return None, None, None
    inner: Mapping[str, Any] = config
    groups = config.get("config_groups")
    if isinstance(groups, dict) and groups:
        first = next(iter(groups.values()))
        weights = first.get("weights") if isinstance(first, dict) else None
        inner = weights if isinstance(weights, dict) else {}
    bits = inner.get("num_bits", inner.get("bits", inner.get("w_bit")))
    if config.get("load_in_4bit") is True:
        bits = 4
    elif config.get("load_in_8bit") is True:
        bits = 8
    group = inner.get("group_size", inner.get("q_group_size"))
    return (
        clean(str(config.get("quant_method"))),
        bits if isinstance(bits, int) else None,
        group if isinstance(group, int) and group > 0 else None,
    )


def check(stored: Stored, recipe: Recipe | None) -> Finding | None:
    """Hold the files against the recipe: the method, bits and groups it names, and that the matrices are packed."""
    if recipe is None or recipe.at_load or recipe.method in ("none", "gguf"):
        return None
    said: str | None = None
    allowed = _NAMED.get(recipe.method)
    if stored.named is None:
        said = "config.json names no quantization"
    elif allowed is not None and stored.named not in allowed:
        said = f"config.json names {stored.named}, not {' or '.join(sorted(allowed))}"
    elif stored.bits is not None and stored.bits != recipe.bits:
        said = f"config.json says {stored.bits} bits, not {recipe.bits}"
    elif (
        stored.group is not None
        and recipe.group_size is not None
        and stored.group != recipe.group_size
        and recipe.method not in ("nvfp4", "mxfp4", "nf4")
    ):
        said = f"config.json says groups of {stored.group}, not {recipe.group_size}"
    kept = [n for n in stored.floating if not _ignored(n, recipe.ignore)]
    if said is None and kept:
        said = f"{len(kept)} of {stored.matrices} matrices are in floating point, {clean(kept[0])} among them"
    return None if said is None else _finding(said, recipe)


def _ignored(name: str, ignore: tuple[str, ...]) -> bool:
    module = name.removesuffix(".weight")
    for word in ignore:
        if word.startswith("re:"):
            try:
                if re.match(word[3:], module):
                    return True
            except re.error:
                continue
        elif module == word or module.endswith(f".{word}") or f".{word}." in f".{module}.":
            return True
    return False


def check_loaded(loaded: Mapping[str, Any], recipe: Recipe | None, runtime: str) -> Finding | None:
    """Hold what the runtime loaded against the recipe: an accepted setting may have changed nothing."""
    if recipe is None or recipe.method in ("none", "gguf"):
        return None
    kept = [n for n in loaded.get("kept") or [] if not _ignored(n, recipe.ignore)]
    quantized = int(loaded.get("quantized") or 0)
    # vLLM fuses matrices under names of its own: where some are left out by name the numbers of both tell nothing.
    if quantized and (not kept or len(recipe.ignore) > 1):
        return None
    where = f", {clean(str(kept[0]))} among them" if kept else ""
    said = f"{runtime} loaded {quantized} matrices quantized and {len(kept)} in {loaded.get('dtype')}{where}"
    return _finding(said, recipe)


def _finding(said: str, recipe: Recipe) -> Finding:
    again = Choice(recipe.method, recipe.format)
    return Finding(
        code="wrong-types",
        message=f"The weights are not those of {recipe.method} in {recipe.format}: {said}.",
        remedy="Quantized at another precision than asked for, or not saved: make it again from the original: "
        + again.command("MODEL"),
        sources=(gate.GUIDE_FAILURES,),
    )


def slow_kernels(loaded: Mapping[str, Any], recipe: Recipe | None, runtime: str, *, device: str) -> tuple[Finding, ...]:
    """A finding where the runtime multiplies by kernels that unpack to 16 bits first: no speed is gained."""
    if recipe is None:
        return ()
    slowly = _SLOW_ON_CPU if device == "cpu" else _EMULATED
    slow = sorted(k for k in loaded.get("modules") or {} if slowly.search(str(k)))
    if not slow:
        return ()
    return (
        Finding(
            code="no-speed-up",
            message=f"{runtime} multiplies with {', '.join(clean(s) for s in slow)}: this hardware has no kernel for "
            f"{recipe.format}, so it computes in 16 bits.",
            remedy="Take a format that the hardware has kernels for: advisor recommend MODEL; or another runtime for "
            "this one (ExLlama for GPTQ, GEMM kernels for AWQ).",
            sources=(gate.GUIDE_FAILURES,),
        ),
    )
