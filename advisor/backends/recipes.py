"""From a method, a format and what a person asked for to a complete recipe; illegal ones are refused before any work.

A value comes from the person, else from the guide's rules (a plan's parameters), else from ``methods.CHOICES``, which
names its source. A refusal names the value seen, the rule where one stands in ``rules/``, and the nearest choice that
is legal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from advisor.backends.methods import BLOCKS, CHOICES, DAMP, SMOOTHING, Method
from advisor.backends.registry import quantizers, runtimes
from advisor.errors import AdvisorError, word_not_found
from advisor.facts.model import TensorSpec
from advisor.facts.recipe import Recipe, RecipeOptions
from advisor.facts.text import clean
from advisor.facts.words import GROUPED_FORMAT, METHODS, MethodName

Parameters = Mapping[str, str | bool | int | float]
SHORTEST: Final = 32  # tokens of a piece; a shorter one is mostly its beginning
MOST: Final = 8192  # samples; more than sixteen times what any method asks for
_TOLD: Final = {"group_size": "a group size", "sym": "a choice between symmetric and asymmetric", "samples": "samples"}
_OPTION: Final = {"damp": "--damp", "samples": "--samples"}


class _Fault(NamedTuple):
    """What is wrong with a recipe, which rule says so, and the recipe as it would be right."""

    message: str
    mended: Recipe
    value: object
    rule: str | None = None
    keep: str | None = None


def recipe(
    method: str,
    fmt: str,
    quantizer: str | None,
    options: RecipeOptions,
    parameters: Parameters | None = None,
    *,
    tensors: tuple[TensorSpec, ...] | None = None,
    runtime: str | None = None,
) -> Recipe:
    """The complete recipe of a method and a format, checked.

    Args:
        quantizer: the library; ``None`` takes the method's usual one.
        options: what a person asked for; it has to agree with ``fmt``.
        parameters: what the rules set, ``quantize.samples`` and the like; what the method has no use for is ignored.
        tensors, runtime: as for ``check``; the choice that a refusal hints at is legal for them, too.

    Raises:
        AdvisorError: ``illegal-recipe``; ``word-not-found`` for an unknown method or quantizer.
    """
    choice = CHOICES.get(method)
    if choice is None:
        if method not in METHODS:
            raise word_not_found("method", clean(method, 40), METHODS)
        raise AdvisorError(
            "illegal-recipe",
            "GGUF files are made by llama.cpp's own tools; their types say all there is to say.",
            hint="advisor quantize MODEL --method gguf",
        )
    if quantizer is not None and quantizer not in quantizers() and quantizer not in choice.quantizers:
        raise word_not_found("quantizer", clean(quantizer, 40), tuple(quantizers()))
    made = _filled(method, fmt, quantizer or choice.quantizers[0], options, parameters or {})
    fault = _asked(made, choice, options)
    if fault is not None:
        _refuse(fault, tensors, runtime)
    check(made, tensors, runtime)
    return made


def _asked(made: Recipe, choice: Method, options: RecipeOptions) -> _Fault | None:
    """What a person asked for that the method does not take, or that its format says otherwise."""
    for name, value in msgspec.structs.asdict(options).items():
        if value is not None and name not in choice.options:
            told = _TOLD.get(name, f"the option {name}")
            return _Fault(f"{made.method} does not take {told}; {value} was given.", made, value)
    stored = GROUPED_FORMAT.match(made.format)
    inside = {"bits": made.bits, "group_size": made.group_size} if stored is not None else {}
    wish = _with_format(made, options.bits or made.bits, options.group_size or made.group_size)
    for name, held in inside.items():
        given = getattr(options, name)
        if given is not None and given != held:
            what = "bits" if name == "bits" else "a group size of"
            return _Fault(f"{made.format} says {what} {held}; {given} was given.", wish, given)
    if options.bits is not None and options.bits not in choice.bits:
        return _bits_fault(made, choice, options.bits, made)
    if made.static_activations is False and (options.samples or options.sequence_length):
        return _Fault("FP8 with a scale for each token looks at no text; text was asked for.", made, options.samples)
    if options.samples == 0 and options.smoothing is not None:
        usual = msgspec.structs.replace(made, samples=choice.samples, sequence_length=choice.length)
        return _Fault("SmoothQuant's strength is found with text; 0 samples were given.", usual, 0, keep="samples")
    return None


def _bits_fault(r: Recipe, choice: Method, given: int, mended: Recipe) -> _Fault:
    many = " or ".join(str(b) for b in sorted(choice.bits))
    rule = "FMT-003" if r.method == "awq" else None
    return _Fault(f"{r.method} is {many} bits; {given} was given.", mended, given, rule)


def _filled(method: str, fmt: str, quantizer: str, options: RecipeOptions, parameters: Parameters) -> Recipe:
    choice = CHOICES[method]

    def value(name: str, otherwise: object) -> object:
        own = getattr(options, name)
        return own if own is not None else parameters.get(f"quantize.{name}", otherwise)

    found = GROUPED_FORMAT.match(fmt)
    bits = int(found["bits"] or found["hbits"]) if found else choice.bits[0]
    group = int(found["group"] or found["hgroup"]) if found else BLOCKS.get(method)
    takes = choice.options
    static = bool(value("static_activations", False)) if method == "fp8" else None
    samples, length = 0, 0
    if "samples" in takes and (method != "fp8" or static):
        samples = int(value("samples", choice.samples))  # type: ignore[call-overload]
        length = choice.length if options.sequence_length is None else options.sequence_length
    smoothing = float(value("smoothing", SMOOTHING)) if method == "w8a8" else None  # type: ignore[arg-type]
    if method == "w8a8" and samples == 0 and options.smoothing is None:
        smoothing, length = None, 0  # plain rounding, which needs no text
    layout = value("layout", "gemm" if method == "awq" and quantizer == "autoawq" else None)
    # llm-compressor's order costs nothing when the model runs; that of the native format does.
    order = value("desc_act", quantizer == "llmcompressor") if method == "gptq" else None
    return Recipe(
        method=_method(method),
        format=fmt,
        quantizer=quantizer,
        bits=bits,
        group_size=group,
        symmetric=bool(value("sym", method not in ("awq", "hqq"))) if "sym" in takes else method != "hqq",
        desc_act=None if order is None else bool(order),
        damp=float(value("damp", DAMP)) if method == "gptq" else None,  # type: ignore[arg-type]
        smoothing=smoothing,
        static_activations=static,
        double_quant=bool(value("double_quant", True)) if method == "nf4" else None,
        layout=None if layout is None else str(layout),
        samples=samples,
        sequence_length=length,
        at_load=method == "hqq",
    )


def _method(word: str) -> MethodName:
    known: MethodName = msgspec.convert(word, MethodName)
    return known


def check(recipe: Recipe, tensors: tuple[TensorSpec, ...] | None, runtime: str | None) -> None:
    """Refuse what the method, the library, the model's widths, or the runtime that is to load it cannot take.

    Args:
        tensors: of the model; ``None`` leaves the widths out.
        runtime: that will load it; ``None`` leaves it out. One that loads nothing of the method is not judged here:
            the planner's rules say why.

    Raises:
        AdvisorError: ``illegal-recipe``, with the nearest legal choice as a hint and ``data.rule``, ``data.value`` and
            ``data.nearest`` (a format).
    """
    fault = _fault(recipe, tensors, runtime)
    if fault is not None:
        _refuse(fault, tensors, runtime)
    backend = quantizers().get(recipe.quantizer)
    if backend is not None:
        backend.check(recipe)


def _fault(r: Recipe, tensors: tuple[TensorSpec, ...] | None, runtime: str | None) -> _Fault | None:
    return _library(r) or _shape(r, tensors) or _loads(r, runtime) or _ranges(r)


def _library(r: Recipe) -> _Fault | None:
    """Whether the library makes this format of this method."""
    choice, usual = CHOICES[r.method], CHOICES[r.method].quantizers[0]
    backend = quantizers().get(r.quantizer)
    made = backend.capabilities().methods.get(r.method, ()) if backend is not None else ()
    if not made and r.quantizer != usual:
        other = msgspec.structs.replace(r, quantizer=usual, layout=None)
        return _Fault(f"{r.quantizer} does not make {r.method}; {usual} does.", other, r.quantizer)
    if r.layout is not None and r.quantizer != "autoawq":
        plain = msgspec.structs.replace(r, layout=None)
        return _Fault(
            f"Only autoawq knows layouts; {clean(r.layout, 20)} was given for {r.quantizer}.", plain, r.layout
        )
    if r.layout not in (None, "gemm", "gemv"):
        return _Fault(
            f"AutoAWQ's layouts are gemm and gemv; {clean(str(r.layout), 20)} was given.",
            msgspec.structs.replace(r, layout="gemm"),
            r.layout,
        )
    if r.method == "none" or r.format in made:
        return None
    if r.bits not in choice.bits:
        return _bits_fault(r, choice, r.bits, _nearest(r, made))
    said = ", ".join(made)
    return _Fault(
        f"{r.quantizer} does not make {clean(r.format, 40)} of {r.method}; it makes {said}.",
        _nearest(r, made),
        r.format,
    )


def widths(tensors: tuple[TensorSpec, ...]) -> dict[int, str]:
    """Row widths of the matrices that are quantized, each with the name of the first such matrix."""
    out: dict[int, str] = {}
    for t in tensors:
        if t.packed:
            out.setdefault(t.width, t.name)
    return out


def divides(group: int | None, tensors: tuple[TensorSpec, ...] | None) -> bool:
    """Whether ``group`` divides every row that is quantized; true without a group or without tensors."""
    return not group or all(w % group == 0 for w in widths(tensors or ()))


def _shape(r: Recipe, tensors: tuple[TensorSpec, ...] | None) -> _Fault | None:
    if divides(r.group_size, tensors) or r.group_size is None:
        return None
    width, name = next((w, n) for w, n in widths(tensors or ()).items() if w % r.group_size)
    message = f"A group of {r.group_size} does not divide the {width} weights in a row of {clean(name, 80)} (FMT-001)."
    formats = [f for f in _formats(r) if divides(_group(f), tensors)]
    return _Fault(message, _nearest(r, formats), r.group_size, "FMT-001")


def _loads(r: Recipe, runtime: str | None) -> _Fault | None:
    if runtime is None or runtime not in runtimes() or r.method == "none":
        return None
    can = runtimes()[runtime].capabilities()
    if r.layout == "gemv" and runtime == "vllm":
        gemm = msgspec.structs.replace(r, layout="gemm")
        return _Fault("vLLM loads AWQ in the layout gemm only; gemv was given.", gemm, r.layout)
    if r.method not in can.methods or can.loads(r.method, r.format):
        return None
    formats = [f for f in _formats(r) if can.loads(r.method, f)]
    message = f"{runtime} does not load {r.format} of {r.method}; it loads {', '.join(can.methods[r.method])}."
    return _Fault(message, _nearest(r, formats), r.format)


def _ranges(r: Recipe) -> _Fault | None:
    choice = CHOICES[r.method]
    if r.damp is not None and not 0 < r.damp < 1:
        fixed = msgspec.structs.replace(r, damp=DAMP)
        return _Fault(f"damp lies between 0 and 1, both excluded; {r.damp:g} was given.", fixed, r.damp, keep="damp")
    if r.smoothing is not None and not 0 <= r.smoothing <= 1:
        fixed = msgspec.structs.replace(r, smoothing=SMOOTHING)
        return _Fault(f"SmoothQuant's strength lies between 0 and 1; {r.smoothing:g} was given.", fixed, r.smoothing)
    text = r.method in ("awq", "gptq") or r.smoothing is not None or bool(r.static_activations)
    if text and not 1 <= r.samples <= MOST:
        usual = min(max(r.samples, choice.samples), MOST)
        fixed = msgspec.structs.replace(r, samples=usual)
        message = f"{r.method} takes 1 to {MOST} samples of text; {r.samples} was given."
        return _Fault(message, fixed, r.samples, keep="samples")
    if not text and r.samples:
        fixed = msgspec.structs.replace(r, samples=0, sequence_length=0)
        return _Fault(f"{r.method} looks at the weights alone here; {r.samples} samples were given.", fixed, r.samples)
    if text and r.sequence_length < SHORTEST:
        fixed = msgspec.structs.replace(r, sequence_length=choice.length)
        message = f"A piece of text has {SHORTEST} tokens or more; {r.sequence_length} was given."
        return _Fault(message, fixed, r.sequence_length)
    return None


def _formats(r: Recipe) -> tuple[str, ...]:
    backend = quantizers().get(r.quantizer)
    return backend.capabilities().methods.get(r.method, ()) if backend is not None else ()


def _group(fmt: str) -> int | None:
    found = GROUPED_FORMAT.match(fmt)
    return int(found["group"] or found["hgroup"]) if found else None


def _with_format(r: Recipe, bits: int, group: int | None) -> Recipe:
    """The recipe with other bits and another group; its format follows."""
    found = GROUPED_FORMAT.match(r.format)
    word = ("hqq{}-g{}" if found["hbits"] else "w{}a16-g{}").format(bits, group) if found else r.format
    return msgspec.structs.replace(r, bits=bits, group_size=group, format=word)


def _nearest(r: Recipe, formats: list[str] | tuple[str, ...]) -> Recipe:
    """The recipe in that one of ``formats`` whose bits, then whose group, are nearest; smaller groups before larger.

    Where there is none, INT8 weights and activations: they have one scale a row, so that every width is right.
    """
    if not formats:
        if r.method == "w8a8":
            return r
        return _filled("w8a8", "w8a8", CHOICES["w8a8"].quantizers[0], RecipeOptions(), {})
    group = r.group_size or 128

    def distance(fmt: str) -> tuple[int, bool, int, str]:
        found = GROUPED_FORMAT.match(fmt)
        if found is None:
            return (0, False, 0, fmt)
        bits, size = int(found["bits"] or found["hbits"]), int(found["group"] or found["hgroup"])
        return (abs(bits - r.bits), size > group, abs(size - group), fmt)

    best = min(formats, key=distance)
    found = GROUPED_FORMAT.match(best)
    if found is None:
        choice = CHOICES[r.method]
        return msgspec.structs.replace(r, format=best, bits=choice.bits[0], group_size=BLOCKS.get(r.method))
    bits, size = int(found["bits"] or found["hbits"]), int(found["group"] or found["hgroup"])
    return msgspec.structs.replace(r, format=best, bits=bits, group_size=size)


def _refuse(fault: _Fault, tensors: tuple[TensorSpec, ...] | None, runtime: str | None) -> None:
    """Raise ``illegal-recipe`` with a command for the recipe that is left when everything wrong is mended."""
    kept = {fault.keep} if fault.keep else set()
    mended, again = fault.mended, _fault(fault.mended, tensors, runtime)
    for _ in range(8):
        if again is None:
            break
        kept |= {again.keep} if again.keep else set()
        mended, again = again.mended, _fault(again.mended, tensors, runtime)
    words = ["advisor quantize MODEL", f"--method {mended.method}", f"--format {mended.format}"]
    if mended.quantizer != CHOICES[mended.method].quantizers[0]:
        words.append(f"--quantizer {mended.quantizer}")
    words += ["--static-activations"] if mended.static_activations else []
    words += [f"{_OPTION[k]} {getattr(mended, k):g}" for k in sorted(kept) if mended.method == fault.mended.method]
    raise AdvisorError(
        "illegal-recipe",
        fault.message if fault.rule is None or fault.rule in fault.message else f"{fault.message[:-1]} ({fault.rule}).",
        hint=" ".join(words),
        data={"rule": fault.rule, "value": fault.value, "nearest": mended.format, "method": mended.method},
    )
