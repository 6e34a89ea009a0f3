"""Everything that could be tried: method x format x runtime x placement, with the quantizer that would make it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal, NamedTuple

from advisor.backends import recipes
from advisor.backends.base import QuantizerCapabilities, RuntimeCapabilities
from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import PlanRequest
from advisor.facts.words import GGUF_FORMATS, GGUF_SERVED, GROUPED_FORMAT, mixed
from advisor.planner import asked
from advisor.planner.parallel import machines_needed, rank_group_divides, stages
from advisor.planner.targets import Target, targets

Source = Literal["quantize", "as-is", "load-time", "prequantized"]

LLAMA_ENGINES: Final = ("llama.cpp", "llama-cpp-python", "ollama", "lmstudio", "textgen")
TENSOR_PARALLEL: Final = ("vllm", "sglang", "tgi")
PIPELINE_PARALLEL: Final = ("vllm", "sglang")
LOAD_TIME: Final = ("nf4", "int8", "hqq")

# Bits a weight takes over a whole file: GGUF types measured on Llama-3.1-8B (llama.cpp, tools/quantize/README.md),
# the others from their blocks (weights, scales, zero points).
BITS: Final[dict[str, float]] = {
    "q1_0": 1.13,
    "tq1_0": 1.69,
    "iq1_s": 2.0,
    "tq2_0": 2.06,
    "iq1_m": 2.15,
    "q2_0": 2.25,
    "iq2_xxs": 2.38,
    "iq2_xs": 2.59,
    "iq2_s": 2.74,
    "iq2_m": 2.93,
    "q2_k_s": 2.97,
    "iq3_xxs": 3.25,
    "iq3_xs": 3.5,
    "iq3_s": 3.66,
    "iq3_m": 3.76,
    "q2_k": 3.16,
    "q3_k_s": 3.64,
    "q3_k_m": 4.0,
    "q3_k_l": 4.3,
    "iq4_xs": 4.46,
    "iq4_nl": 4.68,
    "q4_0": 4.66,
    "q4_k_s": 4.67,
    "q4_k_m": 4.89,
    "q4_1": 5.13,
    "q5_0": 5.59,
    "q5_k_s": 5.57,
    "q5_k_m": 5.7,
    "q5_1": 6.06,
    "q6_k": 6.56,
    "q8_0": 8.5,
    "f16": 16.0,
    "bf16": 16.0,
    "w8a8": 8.0,
    "fp8": 8.0,
    "int8": 8.0,
    "nf4": 4.13,
    "nvfp4": 4.5,
    "mxfp4": 4.25,
}
_GGUF_CHOICE: Final = (
    "q2_k",
    "q3_k_s",
    "q3_k_m",
    "q3_k_l",
    "iq4_xs",
    "q4_k_s",
    "q4_k_m",
    "q5_k_s",
    "q5_k_m",
    "q6_k",
    "q8_0",
)
_GROUPED: Final = ("w4a16-g128", "w4a16-g64", "w4a16-g32")
FORMATS: Final[dict[str, tuple[str, ...]]] = {
    "gguf": _GGUF_CHOICE,
    "awq": _GROUPED,
    "gptq": _GROUPED,
    "rtn": _GROUPED,
    "w8a8": ("w8a8",),
    "fp8": ("fp8",),
    "nvfp4": ("nvfp4",),
    "mxfp4": ("mxfp4",),
    "nf4": ("nf4",),
    "int8": ("int8",),
    "hqq": ("hqq4-g64",),
    "none": (),
}
_QUANTIZERS: Final[dict[str, tuple[str, ...]]] = {
    "gguf": ("llama.cpp", "llama-cpp-python"),
    "awq": ("llmcompressor", "autoawq", "auto-round", "gptqmodel"),
    "gptq": ("gptqmodel", "llmcompressor", "auto-round", "optimum"),
    "rtn": ("llmcompressor",),
    "w8a8": ("llmcompressor",),
    "fp8": ("llmcompressor",),
    "nvfp4": ("llmcompressor",),
    "mxfp4": ("llmcompressor",),
    "nf4": ("bitsandbytes",),
    "int8": ("bitsandbytes",),
    "hqq": ("hqq",),
}
# Programs around llama.cpp, the ones with the least to set up first.
_ENGINE_ORDER: Final = ("llama.cpp", "llama-cpp-python", "ollama", "lmstudio", "textgen")


class Candidate(NamedTuple):
    """One thing that could be tried. ``pipeline``: groups of devices that hold some of the layers each (vLLM);
    ``types``: of a GGUF file, types of named tensors beside those that the format gives; ``kv_type``: of the KV cache,
    where it is not what was asked for or the usual one."""

    method: str
    format: str
    runtime: str
    target: Target
    quantizer: str | None
    source: Source
    pipeline: int = 1
    types: tuple[str, ...] = ()
    kv_type: str | None = None

    @property
    def unchanged(self) -> bool | None:
        """Whether what lies there is served without anything being made of it; ``None`` where that depends on what
        lies there: 16-bit weights may have to be restored from a GGUF file first."""
        if self.source == "prequantized":
            return True
        return self.source == "as-is" if self.method == "gguf" else None

    @property
    def key(self) -> tuple[str, ...]:
        """A total order that never depends on how candidates were found."""
        where = (self.target.placement, *self.target.keys, f"{self.pipeline:03}")
        return (self.method, self.format, self.runtime, *where, *self.types, self.kv_type or "", self.quantizer or "")

    @property
    def made_as(self) -> str:
        """The format with the types of named tensors, as costs are asked for it."""
        return mixed(self.format, self.types)

    @property
    def tensor_parallel(self) -> int:
        """Devices that one layer is spread over."""
        spread = self.runtime in TENSOR_PARALLEL and self.target.placement == "gpu"
        return len(self.target.devices) // self.pipeline if spread else 1


def bits_of(fmt: str) -> float | None:
    """Bits a weight takes in ``fmt``, scales included; ``None`` for a format without a figure."""
    if fmt in BITS:
        return BITS[fmt]
    group = GROUPED_FORMAT.match(fmt)
    if group is None:
        return None
    bits = int(group["bits"] or group["hbits"])
    size = int(group["group"] or group["hgroup"])
    return round(bits + (16 + bits) / size, 3)  # one 16-bit scale and one zero point a group


def group_of(fmt: str) -> int | None:
    """Weights a group, for formats with groups."""
    group = GROUPED_FORMAT.match(fmt)
    return int(group["group"] or group["hgroup"]) if group else None


def own_format(model: ModelFacts) -> str | None:
    """The format that lies on disk, where it is one that can be served as it is."""
    if model.weights_format == "gguf" and model.source_types:
        named = (model.weights_dtype or "").lower()
        if takes("gguf", named):
            return named
        types = {t: n for t, n in model.source_types.items() if t not in ("f32",)} or model.source_types
        top = max(sorted(types), key=lambda t: types[t])
        guess = {"q4_k": "q4_k_m", "q5_k": "q5_k_m", "q3_k": "q3_k_m"}.get(top, top)
        return guess if takes("gguf", guess) else None
    return None


def original_method(model: ModelFacts) -> str | None:
    """The method whose number format the makers published the weights in, where there are none of 16 bits; ``None``
    for what others quantized. Of GGUF files only those in MXFP4 of the architecture that is published so tell."""
    from advisor.cost.quality import is_original

    if model.weights_format == "gguf":
        return "mxfp4" if model.architecture == "gpt-oss" and own_format(model) == "mxfp4" else None
    own = model.quantized_method
    return own if own is not None and is_original(model, own) else None


def kept_format(model: ModelFacts) -> str | None:
    """The GGUF type that the weights have or keep: of the file that lies there, or of MXFP4 experts."""
    return "mxfp4" if original_method(model) == "mxfp4" else own_format(model)


def usual_gguf(model: ModelFacts) -> str:
    """The GGUF type to look at where none is named: that of a file which was named itself (one out of a package stands
    for its model), or which MXFP4 experts keep; the guide's default otherwise."""
    packaged = model.weights_format == "gguf" and model.kind != "gguf"
    return (None if packaged else kept_format(model)) or "q4_k_m"


def sixteen_bit(model: ModelFacts) -> str:
    """The 16-bit format that the weights are in, or would be in."""
    return "f16" if (model.weights_dtype or "").lower() in ("f16", "float16", "fp16") else "bf16"


def formats(
    method: str, model: ModelFacts, request: PlanRequest, tensors: tuple[TensorSpec, ...] = (), goal: str = ""
) -> tuple[str, ...]:
    """The formats to try for ``method``; a format the user asked for is always among them.

    Of groups the usual 128 is tried, the largest smaller one where 128 does not divide the rows, and 32 where accuracy
    is the goal.
    """
    found = list(FORMATS.get(method, ()))
    if method == "none":
        found = [sixteen_bit(model), "f16" if sixteen_bit(model) == "bf16" else "bf16"]
    elif method == "gguf":
        found.append(sixteen_bit(model))
        mine = kept_format(model)
        if mine is not None and mine not in found:
            found.append(mine)
    if request.format is not None:
        return (request.format,) if request.format in found or takes(method, request.format) else ()
    if request.recipe.bits is not None or request.recipe.group_size is not None:
        return tuple(asked.narrowed(method, found, request.recipe))
    if found == list(_GROUPED):
        dividing = [f for f in found if group_divides(f, tensors)]
        found = [_GROUPED[0], *dividing[:1], *(dividing[-1:] if goal == "accuracy" else [])]
    return tuple(dict.fromkeys(found))


def takes(method: str, fmt: str) -> bool:
    """Whether ``fmt`` is a format of ``method`` at all."""
    if method == "gguf":
        return fmt in GGUF_FORMATS or fmt in GGUF_SERVED
    if method == "none":
        return fmt in ("f16", "bf16")
    if method == "hqq":
        return fmt.startswith("hqq")
    if method in ("awq", "gptq", "rtn"):
        return fmt.startswith("w") and GROUPED_FORMAT.match(fmt) is not None
    return fmt == method


def method_of(fmt: str, model: ModelFacts) -> str | None:
    """The method that ``fmt`` names where nobody names one: the usual of those that have it. MXFP4 is a GGUF type only
    for weights that are in it."""
    if fmt in FORMATS and original_method(model) != fmt and own_format(model) != fmt:
        return fmt
    return next((m for m in FORMATS if takes(m, fmt)), None)


def source_of(method: str, fmt: str, model: ModelFacts, *, adapter: bool = False) -> Source:
    """How the weights of a candidate come about; what an adapter is merged into is never served as it lies there."""
    if method == "gguf":
        return "as-is" if own_format(model) == fmt and not adapter else "quantize"
    # Bundled facts know a native type (MXFP4, FP8) by the type of the weights alone.
    own = model.quantized_method or (model.weights_dtype or "").lower()
    packed = own == method and model.quantized_format in (None, fmt) and model.weights_format != "gguf"
    if packed and not adapter:
        return "prequantized"
    if method == "none":
        return "as-is"
    return "load-time" if method in LOAD_TIME else "quantize"


def pick_quantizer(
    method: str, fmt: str, source: Source, wanted: str | None, quantizers: Mapping[str, QuantizerCapabilities]
) -> str | None:
    """The library that makes the format: what this version can carry out first, then the guide's order.

    ``None`` where nothing has to be made, or where nothing known makes it.
    """
    if source in ("as-is", "prequantized"):
        return None
    if wanted is not None:
        return wanted
    order = _QUANTIZERS.get(method, ())
    able = [q for q in quantizers.values() if q.makes(method, fmt)]
    able.sort(key=lambda q: (not q.executable, order.index(q.name) if q.name in order else 99, q.name))
    return able[0].name if able else None


def group_divides(fmt: str, tensors: tuple[TensorSpec, ...]) -> bool | None:
    """Whether the group size divides every row that is quantized; ``None`` without tensors, true without groups."""
    size = group_of(fmt)
    if size is None:
        return True
    return recipes.divides(size, tensors) if recipes.widths(tensors) else None


def _for_ranks(
    method: str, chosen: tuple[str, ...], parallel: int, tensors: tuple[TensorSpec, ...], request: PlanRequest
) -> tuple[str, ...]:
    """One more format where the usual group does not divide what each device holds of a row: the largest that does."""
    open_ = request.format is None and request.recipe.bits is None and request.recipe.group_size is None
    if (
        FORMATS.get(method) != _GROUPED
        or not open_
        or rank_group_divides(group_of(_GROUPED[0]), parallel, tensors) is not False
    ):
        return ()
    fits = (f for f in _GROUPED if group_divides(f, tensors) and rank_group_divides(group_of(f), parallel, tensors))
    return tuple(f for f in list(fits)[:1] if f not in chosen)


def candidates(
    model: ModelFacts,
    machine: Machine,
    request: PlanRequest,
    *,
    runtimes: Mapping[str, RuntimeCapabilities],
    quantizers: Mapping[str, QuantizerCapabilities],
    tensors: tuple[TensorSpec, ...] = (),
) -> Iterator[Candidate]:
    """All candidates, in an order that depends on names alone."""
    places = targets(machine)
    groups = {
        t.keys: stages(model, tensors, len(t.devices), machines_needed(machine, len(t.devices)))
        for t in places
        if t.placement == "gpu"
    }
    methods = {m: formats(m, model, request, tensors, request.goal) for m in FORMATS if request.method in (None, m)}
    for runtime in sorted(runtimes):
        if request.runtime not in (None, runtime):
            continue
        for method, chosen in methods.items():
            for fmt in chosen:
                source = source_of(method, fmt, model, adapter=request.adapter is not None)
                named = quantizers.get(request.quantizer) if request.quantizer is not None else None
                if named is not None and (source in ("as-is", "prequantized") or not named.makes(method, fmt)):
                    continue
                quantizer = pick_quantizer(method, fmt, source, request.quantizer, quantizers)
                for target in places:
                    if method == "none" and len(chosen) > 1 and (fmt == chosen[0]) == _other_16_bit(target, chosen[0]):
                        continue
                    c = Candidate(method, fmt, runtime, target, quantizer, source)
                    yield c
                    if runtime in PIPELINE_PARALLEL and 1 < groups.get(target.keys, 1) <= model.layers:
                        yield c._replace(pipeline=groups[target.keys])
                    if fmt == chosen[0] and c.tensor_parallel > 1:
                        for other in _for_ranks(method, chosen, c.tensor_parallel, tensors, request):
                            made_by = pick_quantizer(method, other, source, request.quantizer, quantizers)
                            yield c._replace(format=other, quantizer=made_by)


def _other_16_bit(target: Target, fmt: str) -> bool:
    """Whether the device takes float16 only (before compute capability 8.0) while the weights are bfloat16."""
    capabilities = [d.compute_capability for d in target.devices if d.compute_capability is not None]
    return fmt == "bf16" and target.kind == "nvidia" and bool(capabilities) and min(capabilities) < 8.0


def nearest_engine(runtimes: Mapping[str, RuntimeCapabilities], kind: str, wanted: str | None) -> str | None:
    """Among the programs around llama.cpp the one to take on ``kind``: launched by advisor first, then least to do."""
    if wanted in LLAMA_ENGINES:
        return wanted
    able = [r for r in runtimes.values() if r.name in LLAMA_ENGINES and kind in r.devices and "gguf" in r.methods]
    able.sort(key=lambda r: (not r.executable, len(r.needs.get(kind, ())), _ENGINE_ORDER.index(r.name)))
    return able[0].name if able else None
