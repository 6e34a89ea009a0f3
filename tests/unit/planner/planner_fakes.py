"""Machines, models, capabilities and a plain cost for tests of the planner."""

from __future__ import annotations

from typing import Any, NamedTuple

from advisor.backends.base import QuantizerCapabilities, RuntimeCapabilities
from advisor.facts.machine import Cpu, Device, DeviceMemory, Host, HostMemory, Machine
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Disk, Memory, Quality, Settings, Speed, Time
from advisor.facts.quantity import Quantity, exact, total
from advisor.planner.candidate import bits_of

GB = 10**9
GIB = 2**30


def host(
    memory: int, *, cores: float = 2.0, physical: int | None = None, arch: str = "x86_64", os: str = "linux"
) -> Host:
    return Host(
        os=os,
        arch=arch,
        cpu=Cpu(
            name="CPU",
            isa=("avx2", "fma"),
            cores_physical=physical if physical is not None else max(1, int(cores)),
            cores_logical=max(1, int(cores)) * 2,
            cores_granted=cores,
        ),
        memory=HostMemory(total_bytes=memory, limit_bytes=None, available_bytes=int(memory * 0.95)),
        bandwidth=exact(25 * GB, "bytes/s", "test"),
    )


def nvidia(name: str, memory: int, bandwidth: int, cc: float, *, n: int = 0, fp8: str = "none") -> Device:
    return Device(
        id=f"gpu{n}",
        vendor="nvidia",
        name=name,
        profile=None,
        memory=DeviceMemory(total_bytes=memory, usable_bytes=int(memory * 0.98), free_bytes=int(memory * 0.97)),
        bandwidth=exact(bandwidth, "bytes/s", "test"),
        compute_capability=cc,
        formats={"fp8": fp8, "bf16": "native" if cc >= 8 else "none"},
        unified_memory=False,
        link=None,
        unusable=None,
    )


def machine(h: Host, *devices: Device, named: str | None = None) -> Machine:
    return Machine(host=h, devices=devices, runtimes=(), provenance=(), named=named)


def cpu_only() -> Machine:
    return machine(host(24 * GB))


def tiny() -> Machine:
    return machine(host(4 * GB))


def rtx_4090() -> Machine:
    card = nvidia("NVIDIA GeForce RTX 4090", 24 * GIB, 1008 * GB, 8.9, fp8="native")
    return machine(host(64 * GB, cores=16), card, named="rtx-4090")


def t4() -> Machine:
    return machine(host(32 * GB, cores=4), nvidia("Tesla T4", 8 * GIB, 320 * GB, 7.5), named="t4-8gb")


def h100() -> Machine:
    card = nvidia("NVIDIA H100", 80 * GIB, 3350 * GB, 9.0, fp8="native")
    return machine(host(256 * GB, cores=32), card, named="h100")


def m2_ultra() -> Machine:
    gpu = Device(
        id="gpu0",
        vendor="apple",
        name="Apple M2 Ultra (76)",
        profile=None,
        memory=DeviceMemory(total_bytes=192 * GIB, usable_bytes=144 * GIB, free_bytes=140 * GIB),
        bandwidth=exact(800 * GB, "bytes/s", "test"),
        compute_capability=None,
        formats={},
        unified_memory=True,
        link=None,
        unusable=None,
    )
    return machine(host(192 * GIB, cores=24, arch="arm64", os="darwin"), gpu, named="m2-ultra-76")


def model(billions: float, **changes: Any) -> ModelFacts:
    shapes = {0.135: (30, 576, 9, 3, 64, 1536), 8.0: (32, 4096, 32, 8, 128, 14336), 70.0: (80, 8192, 64, 8, 128, 28672)}
    layers, hidden, heads, kv_heads, head_dim, inter = shapes[billions]
    values: dict[str, Any] = {
        "name": f"model-{billions:g}b",
        "ref": f"org/model-{billions:g}b",
        "kind": "hub",
        "architecture": "llama",
        "model_type": "llama",
        "layers": layers,
        "hidden": hidden,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "intermediate": inter,
        "vocab": 128_256,
        "context_max": 131_072,
        "tie_embeddings": False,
        "params": int(billions * 1e9),
        "active_params": int(billions * 1e9),
        "confidence": "exact",
        "source": "test",
    }
    return ModelFacts(**(values | changes))


def tensors(m: ModelFacts) -> tuple[TensorSpec, ...]:
    return (
        TensorSpec(name="token_embd.weight", shape=(m.vocab, m.hidden), role="token_embd"),
        TensorSpec(name="blk.0.attn_q.weight", shape=(m.heads * m.head_dim, m.hidden), role="attn_q", layer=0),
        TensorSpec(name="blk.0.ffn_up.weight", shape=(m.intermediate, m.hidden), role="ffn_up", layer=0),
        TensorSpec(name="blk.0.ffn_down.weight", shape=(m.hidden, m.intermediate), role="ffn_down", layer=0),
    )


class FakeCost(NamedTuple):
    """The fields of a cost that the planner reads."""

    memory: Memory
    speed: Speed
    quality: Quality
    time: Time
    disk: Disk
    file_bytes: int | None
    fallbacks: dict[str, int]
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
    making_memory: Quantity | None = None


_MINUTES = {"gptq": 150, "awq": 30, "gguf": 5, "nf4": 0, "int8": 0, "hqq": 0, "none": 0}


def _kld(method: str, bits: float) -> float:
    if bits >= 16:
        return 0.0
    base = 0.9 * 2.0 ** (-1.9 * (bits - 2))
    return base * {"rtn": 3.0, "nf4": 1.5, "hqq": 1.3}.get(method, 1.0)


def fake_cost(
    m: ModelFacts,
    _tensors: tuple[TensorSpec, ...],
    *,
    method: str,
    fmt: str,
    runtime: str,
    settings: Settings,
    machine: Machine,
    devices: tuple[str, ...],
    imatrix: bool = False,
    engine: object = None,
    as_is: bool | None = None,
) -> FakeCost:
    bits = bits_of(fmt) or 16.0
    weights = int(m.params * bits / 8)
    cache = settings.context * m.layers * m.kv_heads * m.head_dim * 2 * (2 if settings.kv_type == "f16" else 1)
    parts = {"weights": weights, "kv_cache": cache, "compute": 300_000_000, "overhead": 200_000_000}
    named = {k: exact(parts.get(k, 0), "bytes", "test") for k in
             ("weights", "kv_cache", "state", "compute", "output", "repack", "overhead")}  # fmt: skip
    whole = sum(parts.values())
    if "host" in devices and len(devices) > 1:
        share = settings.gpu_layers / (m.layers + 1)
        cards = [d for d in devices if d != "host"]
        by = {d: int(whole * share) // len(cards) for d in cards} | {"host": whole - int(whole * share)}
    else:
        each = whole // len(devices)
        by = dict.fromkeys(devices, each)
        if devices != ("host",):
            by["host"] = 500_000_000
    memory = Memory(
        **named,
        total=total(list(named.values()), "test"),
        reserved=None,
        by_device={k: exact(v, "bytes", "test") for k, v in by.items()},
    )
    bandwidth = {"host": machine.host.bandwidth, **{d.id: d.bandwidth for d in machine.devices}}
    read = m.active_params * bits / 8
    if len(devices) > 1 and "host" in devices:
        share = settings.gpu_layers / (m.layers + 1)
        seconds = read * share / bandwidth[devices[0]].value + read * (1 - share) / bandwidth["host"].value
    else:
        seconds = read / sum(bandwidth[d].value for d in devices)
    decode = 0.7 / seconds
    kld = _kld(method, bits)
    made = 0.0 if as_is else 60 * _MINUTES.get(method, 10) * m.params / 8e9
    return FakeCost(
        memory=memory,
        speed=Speed(prefill=exact(decode * 20, "tokens/s", "test"), decode=exact(decode, "tokens/s", "test")),
        quality=Quality(
            kld=exact(kld, "nats", "test"), perplexity_ratio=exact(1 + kld, "ratio", "test"), recovery=None
        ),
        time=Time(fetch=None, quantize=exact(made, "s", "test"), start=exact(10.0, "s", "test")),
        disk=Disk(download_bytes=0 if m.path else m.params * 2, peak_bytes=m.params * 2 + weights),
        file_bytes=weights,
        fallbacks={},
        assumptions=(),
        warnings=(),
    )


def fake_layers(
    m: ModelFacts,
    _tensors: tuple[TensorSpec, ...],
    *,
    fmt: str,
    settings: Settings,
    machine: Machine,
    device: str,
    as_is: bool | None = None,
) -> int:
    card = next(d for d in machine.devices if d.id == device)
    weights = m.params * (bits_of(fmt) or 16) / 8
    cache = settings.context * m.layers * m.kv_heads * m.head_dim * 4
    room = (card.memory.free_bytes or card.memory.usable_bytes or 0) * 0.94 - 500_000_000
    return max(0, min(m.layers + 1, int(room / ((weights + cache) / (m.layers + 1)))))


_ALL = ("*",)


def runtimes() -> dict[str, RuntimeCapabilities]:
    cuda = {"cpu": (), "nvidia": ("a CUDA build of llama.cpp",), "apple": ("a Metal build of llama.cpp",)}
    checkpoints = dict.fromkeys(("awq", "gptq", "rtn", "w8a8", "fp8", "nvfp4", "mxfp4", "none"), _ALL)
    caps = [
        ("llama.cpp", {"gguf": _ALL}, ("cpu", "nvidia", "amd", "intel", "apple"), True, cuda),
        ("ollama", {"gguf": _ALL}, ("cpu", "nvidia", "amd", "apple"), False, {}),
        ("vllm", checkpoints, ("cpu", "nvidia", "amd"), True, {"cpu": (), "nvidia": ("vllm installed",)}),
        ("transformers", dict.fromkeys(("none", "nf4", "int8", "hqq", "gptq", "awq"), _ALL), ("cpu", "nvidia"), False,
         {"cpu": (), "nvidia": ("transformers with CUDA",)}),
        ("exllama", {"gptq": _ALL}, ("nvidia",), False, {"nvidia": ("TabbyAPI installed",)}),
        ("mlx", {"none": _ALL}, ("apple",), False, {"apple": ("mlx-lm installed",)}),
    ]  # fmt: skip
    return {
        name: RuntimeCapabilities(name=name, methods=methods, devices=devices, executable=able, needs=needs)  # type: ignore[arg-type]
        for name, methods, devices, able, needs in caps
    }


def quantizers() -> dict[str, QuantizerCapabilities]:
    made = {
        "llama.cpp": {"gguf": _ALL},
        "llmcompressor": dict.fromkeys(("awq", "gptq", "rtn", "w8a8", "fp8", "nvfp4"), _ALL),
        "gptqmodel": {"gptq": _ALL},
        "bitsandbytes": {"nf4": _ALL, "int8": _ALL},
        "hqq": {"hqq": _ALL},
    }
    return {
        n: QuantizerCapabilities(name=n, methods=m, executable=True, needs=(), runs_on=("cpu", "nvidia"))  # type: ignore[arg-type]
        for n, m in made.items()
    }
