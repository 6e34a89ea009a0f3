"""Every fact that a condition of a rule may ask for: its type, its unit, what it means and which words it takes.

A fact whose value is not known is ``None``; conditions on it are neither true nor false. ``device.*`` speaks of the
device that a candidate would run on (the first, where it takes several); on the host its vendor is ``none``.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from advisor.facts.words import GOALS, KV_TYPES, LOAD_MODES, METHODS, RUNTIMES

FactValue = str | bool | int | float | tuple[str, ...]
FactType = Literal["word", "words", "number", "bool", "version"]


class FactDef(NamedTuple):
    """``type`` ``words`` is a set of words: a condition asks for one of them. ``words`` empty: any word. A ``version``
    is text (``"0.31.0"``) whose parts are compared as numbers."""

    type: FactType
    meaning: str
    unit: str | None = None
    words: tuple[str, ...] = ()


_VENDORS: Final = ("none", "nvidia", "amd", "intel", "apple", "other")
_APIS: Final = ("rocm", "vulkan", "level-zero")
_SUPPORT: Final = ("native", "weight-only", "none")
_QUANTIZERS: Final = (
    "llmcompressor",
    "gptqmodel",
    "autoawq",
    "optimum",
    "bitsandbytes",
    "hqq",
    "llama.cpp",
    "auto-round",
    "torchao",
)


def _word(meaning: str, *words: str) -> FactDef:
    return FactDef("word", meaning, None, words)


def _number(meaning: str, unit: str | None = None) -> FactDef:
    return FactDef("number", meaning, unit)


def _flag(meaning: str) -> FactDef:
    return FactDef("bool", meaning)


FACTS: Final[dict[str, FactDef]] = {
    # the candidate
    "candidate.method": _word("quantization method", *METHODS),
    "candidate.format": _word("format that the weights are stored in"),
    "candidate.bits": _number("bits a weight takes over the whole file of a typical 8B model", "bits"),
    "candidate.group": _number("weights that share one scale; absent for formats without groups", "weights"),
    "candidate.group_divides": _flag("the group size divides the row width of every layer that is quantized"),
    "candidate.runtime": _word("program that serves the model", *RUNTIMES),
    "candidate.quantizer": _word("library that makes the format", *_QUANTIZERS),
    "candidate.placement": _word("where the weights live", "cpu", "gpu", "split"),
    "candidate.source": _word("how the weights come about", "quantize", "as-is", "load-time", "prequantized"),
    "candidate.imatrix": _flag("an importance matrix is computed and used"),
    "candidate.imatrix_need": _word("whether the format wants an importance matrix", "required", "recommended", "none"),
    "candidate.exceeds_source": _flag("the format has clearly more bits than the quantized file it is made of"),
    "candidate.supported": _flag("the runtime takes this method and format"),
    "candidate.device_supported": _flag("the runtime has a build for this kind of device"),
    "candidate.kv_type": _word("type of the KV cache", *KV_TYPES),
    "candidate.tensor_types": _flag("tensors of one kind have another type than the format gives them"),
    "candidate.tensor_parallel": _number("devices that one layer is spread over", "devices"),
    "candidate.heads_divide": _flag("the number of tensor-parallel devices divides the attention and KV heads"),
    "candidate.columns_divide": _flag(
        "the number of tensor-parallel devices divides the columns of every matrix that they share out"
    ),
    "candidate.across_machines": _flag("each layer would be spread over devices of several machines"),
    "candidate.pipeline_parallel": _number("groups of devices that share out the layers", "groups"),
    "candidate.fits_fewer_devices": _flag("the same method, format and runtime fit fewer devices"),
    "candidate.rank_group_divides": _flag(
        "the group size divides what each tensor-parallel device holds of every row that is quantized"
    ),
    "candidate.runtime_version": FactDef("version", "version of the runtime that is installed on the machine"),
    "candidate.engine_duplicate": _flag("another runtime with the same engine serves the same file and is nearer"),
    "candidate.fits_gpu_alone": _flag("the same method, format and runtime fit the accelerator without the host"),
    "candidate.kernels_lacked": _flag("a launch on this machine showed that this runtime lacks kernels for it there"),
    "candidate.repacked_ratio": _number("share of the weights that llama.cpp puts into a layout of this CPU", "ratio"),
    # the device it runs on
    "device.kind": _word(
        "kind of device; mixed: of several vendors", "cpu", "nvidia", "amd", "intel", "apple", "other", "mixed"
    ),
    "device.vendor": _word("vendor of the accelerator; none on the host, mixed of several", *_VENDORS, "mixed"),
    "device.arch": _word("architecture of the accelerator as its maker names it: gfx1100, Ada Lovelace ..."),
    "device.apis": FactDef("words", "what programs of this user reach the accelerator through", None, _APIS),
    "device.compute_capability": _number("CUDA compute capability"),
    "device.memory_total_bytes": _number("all memory of the device", "bytes"),
    "device.memory_usable_bytes": _number("memory that a process gets on the idle device", "bytes"),
    "device.bandwidth_bytes_per_s": _number("memory bandwidth", "bytes/s"),
    "device.unified_memory": _flag("device and host share one memory"),
    "device.count": _number("devices the candidate takes", "devices"),
    "device.formats.fp8": _word("8-bit floating point matrix units", *_SUPPORT),
    "device.formats.fp4": _word("4-bit floating point matrix units", *_SUPPORT),
    "device.formats.bf16": _word("bfloat16 matrix units", *_SUPPORT),
    "device.formats.int8": _word("8-bit integer matrix units", *_SUPPORT),
    # the machine
    "machine.has_gpu": _flag("there is a usable accelerator"),
    "machine.gpu_vendors": FactDef("words", "vendors of the usable accelerators", None, _VENDORS[1:]),
    "machine.gpu_count": _number("usable accelerators", "devices"),
    "machine.mixed_gpus": _flag("the accelerators are not all alike"),
    "machine.os": _word("operating system", "linux", "darwin", "windows"),
    "machine.arch": _word("instruction set of the host", "x86_64", "aarch64", "arm64", "riscv64", "ppc64le", "s390x"),
    "host.isa": FactDef("words", "vector instructions of the CPU, as the kernel names them"),
    "host.cores_granted": _number("CPU cores that may really be used", "cores"),
    "host.memory_total_bytes": _number("host memory", "bytes"),
    "host.memory_limit_bytes": _number("limit of the control group, where there is one", "bytes"),
    "host.memory_available_bytes": _number("host memory that can be taken now", "bytes"),
    # the model
    "model.params": _number("weights", "weights"),
    "model.active_params": _number("weights used for one token", "weights"),
    "model.architecture": _word("architecture, as llama.cpp names it"),
    "model.is_moe": _flag("mixture of experts"),
    "model.experts": _number("experts a layer", "experts"),
    "model.layers": _number("layers", "layers"),
    "model.kind": _word("what kind of reference named the model", "hub", "folder", "gguf", "pypi", "size"),
    "model.weights_format": _word("what lies on disk", "none", "safetensors", "gguf"),
    "model.weights_dtype": _word("number format of the weights on disk"),
    "model.source_quantized": _flag("the weights on disk are already quantized"),
    "model.packed_checkpoint": _flag("a checkpoint that another method has quantized and packed already"),
    "model.source_bits": _number("bits a weight takes on disk", "bits"),
    "model.width_256_divisible": _flag("every quantized row is a multiple of 256 weights long"),
    "model.native_method": _word("method whose number format the weights were published in: mxfp4, fp8 ...", *METHODS),
    "model.original_method": _word(
        "method of the only weights that the makers published: there are none of 16 bits", *METHODS
    ),
    "model.vision": _flag("the model has parts for images that its weights do not count"),
    "model.latent_attention": _flag("keys and values are kept as one compressed row (MLA)"),
    "model.sliding_window": _flag("some layers look back over a window only"),
    "model.heads_32_divisible": _flag("32 divides the width of a head's keys and of its values"),
    "model.confidence": _word("how sure the facts of the model are", "exact", "derived", "low"),
    "model.context_max": _number("longest context the model was trained for", "tokens"),
    "model.chat_template": _flag("the model has a chat template"),
    # the goal and the user's own wishes
    "goal.id": _word("what the user is after", *GOALS),
    "goal.context": _number("tokens of one conversation", "tokens"),
    "goal.parallel": _number("conversations at once", "requests"),
    "goal.min_decode_tps": _number("tokens a second that the goal wants at least", "tokens/s"),
    "request.method": _word("method the user asked for", *METHODS),
    "request.format": _word("format the user asked for"),
    "request.runtime": _word("runtime the user asked for", *RUNTIMES),
    "request.quantizer": _word("quantizer the user asked for", *_QUANTIZERS),
    "request.kv_type": _word("type of the KV cache the user asked for", *KV_TYPES),
    "request.min_tps": _number("tokens a second the user wants at least", "tokens/s"),
    "request.max_memory_bytes": _number("memory the user allows", "bytes"),
    "request.min_quality": _number("share of the original's quality the user wants at least", "ratio"),
    "request.within_s": _number("time the user allows for fetching, quantizing and starting", "s"),
    "request.no_download": _flag("nothing may be downloaded"),
    "request.adapter": _flag("an adapter was named that is merged into the weights"),
    # known after the cost is
    "fit.fits": _flag("the candidate fits every memory it needs, headroom left"),
    "fit.headroom_ratio": _number("share of the tightest memory that stays free", "ratio"),
    "fit.within_max_memory": _flag("the candidate stays within the memory the user allows"),
    "fit.gpu_16bit_fits": _flag("16-bit weights and the context fit the accelerator"),
    "fit.gpu_8bit_fits": _flag("8-bit weights and the context fit the accelerator"),
    "fit.gpu_4bit_fits": _flag("4-bit weights and the context fit the accelerator"),
    "fit.host_16bit_fits": _flag("16-bit weights and the context fit the host"),
    "fit.host_8bit_fits": _flag("8-bit weights and the context fit the host"),
    "fit.host_4bit_fits": _flag("4-bit weights and the context fit the host"),
    "speed.decode_tps": _number("predicted tokens a second of one request", "tokens/s"),
    "speed.above_min": _flag("the prediction reaches what the user wants at least"),
    "speed.above_goal": _flag("the prediction reaches what the goal wants at least"),
    "quality.kld": _number("predicted mean KL divergence from the 16-bit model", "nats"),
    "quality.above_min": _flag("the predicted quality reaches what the user wants at least"),
    "time.quantize_s": _number("predicted time to make the format", "s"),
    "time.within_deadline": _flag("fetching, quantizing and starting stay within the time the user allows"),
    "disk.download_bytes": _number("bytes that have to be fetched", "bytes"),
    "disk.needs_download": _flag("something has to be fetched"),
}

# Known only once the cost of a candidate is: rules that ask for one of these run after the others.
LATE_PREFIXES: Final = ("fit.", "speed.", "quality.", "time.", "disk.")
# Different from candidate to candidate; the rest is fixed for one recommendation.
OPEN_PREFIXES: Final = ("candidate.", "device.", *LATE_PREFIXES)

# What a rule of kind ``prefer`` may add to: the five terms of a goal, and the guide's own term (weight 1).
SCORES: Final = ("quality", "speed", "memory", "time", "disk", "guide")

# What a rule of kind ``set`` may set.
SET_KEYS: Final[dict[str, FactDef]] = {
    "quantize.desc_act": _flag("quantize columns in the order of falling activations"),
    "quantize.sym": _flag("symmetric: no zero point"),
    "quantize.damp": _number("share of the mean Hessian diagonal added to it", "ratio"),
    "quantize.samples": _number("calibration samples", "samples"),
    "quantize.zero_point": _flag("each group has a zero point"),
    "quantize.kernel": _word("layout of the weights", "gemm", "gemv", "marlin"),
    "quantize.double_quant": _flag("the scales are quantized too"),
    "quantize.smoothing": _number("share of the difficulty moved from activations to weights", "ratio"),
    "quantize.merge_adapter": _flag("an adapter is merged into the weights first"),
    "quantize.calibration": _word("text that the quantizer looks at", "none", "required", "recommended"),
    "settings.load_mode": _word("how llama.cpp gets the file into memory", *LOAD_MODES),
}
# Settings of the runtime are settled before the cost of a candidate is known.
SETTING_PREFIX: Final = "settings."
