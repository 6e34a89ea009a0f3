"""Whether a plan loads in the runtime that it names: by a table of its own, beside the rules and the planner.

What runs where is what the runtimes' own documents say, read in November 2026: vLLM, supported hardware for
quantization kernels; bitsandbytes, installation guide; llama.cpp, supported backends; ExLlamaV2, SGLang and TGI,
installation.
"""

from __future__ import annotations

from typing import Final

from advisor.backends import recipes
from advisor.facts.machine import Device, Machine
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Plan
from advisor.planner.candidate import group_of
from advisor.planner.costing import host_capacity
from advisor.planner.devices import device_capacity

Support = dict[str, float | frozenset[str] | bool]

_ROCM_VLLM: Final = frozenset(
    ("gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1101", "gfx1150", "gfx1151", "gfx1200", "gfx1201")
)
_ROCM_SGLANG: Final = frozenset(("gfx942", "gfx950"))
_ROCM_FP8: Final = frozenset(("gfx942", "gfx950", "gfx1200", "gfx1201"))
_LLAMA: Final = dict[str, Support](gguf={"cpu": True, "nvidia": 5.0, "amd": True, "intel": True, "apple": True})
# Kind of device -> whether it runs there: at all, from which compute capability, on which architectures of AMD's.
SUPPORT: Final[dict[str, dict[str, Support]]] = {
    "llama.cpp": _LLAMA,
    "llama-cpp-python": {"gguf": {"cpu": True}},
    "ollama": {"gguf": {"cpu": True, "nvidia": 5.0, "amd": True, "apple": True}},
    "lmstudio": _LLAMA,
    "textgen": {
        **_LLAMA,
        "gptq": {"nvidia": 7.5, "amd": True},
        "none": {"nvidia": 5.0, "amd": True, "intel": True, "apple": True, "cpu": True},
        "nf4": {"nvidia": 6.0, "amd": True, "intel": True, "cpu": True},
        "int8": {"nvidia": 7.5, "amd": True, "intel": True, "cpu": True},
    },
    "mlx": {"none": {"apple": True}},
    "vllm": {
        "awq": {"nvidia": 7.5, "intel": True, "x86": True},
        "gptq": {"nvidia": 7.5, "intel": True, "x86": True},
        "rtn": {"nvidia": 7.5, "intel": True, "x86": True},
        "w8a8": {"nvidia": 7.5, "cpu": True},
        "fp8": {"nvidia": 7.5, "amd": _ROCM_FP8},
        "nvfp4": {"nvidia": 7.5},
        "mxfp4": {"nvidia": 8.0, "amd": frozenset(("gfx950",))},
        "none": {"nvidia": 7.5, "amd": _ROCM_VLLM, "intel": True, "cpu": True},
    },
    "sglang": {
        "awq": {"nvidia": 7.5, "amd": _ROCM_SGLANG},
        "gptq": {"nvidia": 7.5, "amd": _ROCM_SGLANG},
        "w8a8": {"nvidia": 7.5},
        "fp8": {"nvidia": 8.0, "amd": _ROCM_SGLANG},
        "none": {"nvidia": 7.5, "amd": _ROCM_SGLANG},
    },
    "tgi": {
        "awq": {"nvidia": 7.5, "amd": True},
        "gptq": {"nvidia": 7.5, "amd": True},
        "w8a8": {"nvidia": 7.5},
        "fp8": {"nvidia": 8.0},
        "none": {"nvidia": 7.5, "amd": True},
    },
    "exllama": {"gptq": {"nvidia": 7.5}},
    "transformers": {
        "none": {"nvidia": 5.0, "amd": True, "intel": True, "apple": True, "cpu": True},
        "nf4": {"nvidia": 6.0, "amd": True, "intel": True, "cpu": True},
        "int8": {"nvidia": 7.5, "amd": True, "intel": True, "cpu": True},
        "hqq": {"nvidia": 7.5, "amd": True, "intel": True, "cpu": True},  # plain operations of torch
    },
}
# INT8 activations have no kernels from Blackwell on; bfloat16 has none before Ampere.
_NO_INT8_FROM: Final = 10.0
_BF16_FROM: Final = 8.0
_TENSOR_PARALLEL: Final = ("vllm", "sglang", "tgi")


def problems(plan: Plan, where: Machine, model: ModelFacts, tensors: tuple[TensorSpec, ...]) -> list[str]:
    """Why the plan would not load; nothing where it does."""
    told = []
    table = SUPPORT.get(plan.runtime, {}).get(plan.method)
    used = [d for key in plan.devices for d in where.devices if d.id == key]
    if table is None:
        told.append(f"{plan.runtime} does not load {plan.method}")
    elif not used:
        x86 = where.host.arch == "x86_64"
        if not (table.get("cpu") or (x86 and table.get("x86"))):
            told.append(f"{plan.runtime} has no kernels for {plan.method} on {where.host.arch} processors")
    else:
        told += [f"{d.id} ({d.name}): {why}" for d in used if (why := _device(plan, d, table)) is not None]
    told += _together(plan, used)
    told += _shapes(plan, model, tensors)
    told += _sizes(plan, where, model)
    if not plan.commands.serve:
        told.append("no command serves it")
    return told


def _device(plan: Plan, d: Device, table: Support) -> str | None:
    wanted, have = table.get(d.vendor), d.compute_capability
    if d.unusable is not None:
        return f"cannot be used: {d.unusable}"
    if not wanted:
        return f"{plan.runtime} does not run {plan.method} on {d.vendor}"
    if isinstance(wanted, frozenset):
        return None if d.arch in wanted else f"{plan.runtime} is not built for {d.arch}"
    if d.vendor != "nvidia" or have is None:
        return None
    if have < float(wanted):
        return f"{plan.method} in {plan.runtime} needs compute capability {wanted}, this is {have}"
    if plan.method == "w8a8" and plan.runtime == "vllm" and have >= _NO_INT8_FROM:
        return "no kernels for INT8 activations"
    if plan.method == "none" and plan.format == "bf16" and have < _BF16_FROM:
        return "no bfloat16"
    return None


def _together(plan: Plan, used: list[Device]) -> list[str]:
    told = []
    if len({d.vendor for d in used}) > 1 and plan.runtime != "llama.cpp":  # its Vulkan build sees cards of any maker
        told.append("devices of two makers in one process")
    if len(used) > 1 and any(d.mig is not None for d in used):
        told.append("a process sees one slice only")
    if "host" in plan.devices and used and plan.method != "gguf":
        told.append("only llama.cpp shares a model out to card and host")
    return told


def _shapes(plan: Plan, model: ModelFacts, tensors: tuple[TensorSpec, ...]) -> list[str]:
    told = []
    ranks = plan.settings.tensor_parallel
    if plan.runtime in _TENSOR_PARALLEL and ranks > 1 and model.heads % ranks:
        told.append(f"{model.heads} heads are not shared out among {ranks} devices")
    group = group_of(plan.format)
    if group is not None and tensors and not recipes.divides(group, tensors):
        told.append(f"groups of {group} do not divide the rows")
    if plan.method == "gguf" and not 0 <= plan.settings.gpu_layers <= model.blocks + 1:
        told.append(f"{plan.settings.gpu_layers} layers on devices of {model.blocks + 1}")
    return told


def _sizes(plan: Plan, where: Machine, model: ModelFacts) -> list[str]:
    told = []
    each = plan.settings.context // plan.settings.parallel
    if model.context_max is not None and each > model.context_max:
        told.append(f"a context of {each} for a model of {model.context_max}")
    for key, taken in plan.memory.by_device.items():
        device = next((d for d in where.devices if d.id == key), None)
        have = host_capacity(where) if device is None else device_capacity(device)
        if have is not None and taken.value > have:
            told.append(f"{key} has {have} bytes, {int(taken.value)} are needed")
    return told
