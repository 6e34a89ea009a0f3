"""Memory of servers against the engine's own figures, and its laws."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import settings as hyp
from hypothesis import strategies as st

from advisor.cost import kv, repack
from advisor.cost.gguf_file import weight_map
from advisor.cost.llama_memory import memory as llama_memory
from advisor.cost.memory import memory
from advisor.cost.offload import gpu_layers_that_fit
from advisor.cost.placement import place
from advisor.cost.repack import WHEEL_ISA, rules
from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Memory, Settings
from advisor.model.tensors import spec
from tests.support import shapes

MIB = 1 << 20
CPU = shapes.machine()
KNOWN = {name: (shapes.facts(a), shapes.tensors(a)) for name, a in shapes.KNOWN.items()}


def on_cpu(name: str, settings: Settings, fmt: str = "q4_k_m", machine: Machine = CPU) -> Memory:
    model, tensors = KNOWN[name]
    return llama_memory(model, tensors, fmt=fmt, settings=settings, machine=machine, devices=("host",))


# What llama.cpp of October 2026 reserves on a CPU, in MiB: cache, work buffer, output.
ENGINE = [
    ("llama-3.1-8b", Settings(context=8192), 1024.0, 132.02, 0.49),
    ("llama-3.1-8b", Settings(context=8192, ubatch=2048), 1024.0, 528.1, 0.49),
    ("llama-3.1-8b", Settings(context=8192, parallel=4), 1024.0, 126.02, 1.96),
    ("llama-3.1-8b", Settings(context=8192, kv_type="q8_0"), 544.0, 132.02, 0.49),
    ("llama-2-7b", Settings(context=8192), 4096.0, 112.52, 0.12),
    ("qwen2.5-7b", Settings(context=8192), 448.0, 154.02, 0.58),
    ("qwen2.5-0.5b", Settings(context=8192), 96.0, 45.27, 0.58),
    ("qwen3-8b", Settings(context=8192), 1152.0, 120.02, 0.58),
    ("qwen3-8b", Settings(context=8192, ubatch=128), 1152.0, 30.02, 0.58),
    ("qwen3-30b-a3b", Settings(context=8192), 768.0, 96.02, 0.58),
    ("mixtral-8x7b", Settings(context=8192), 1024.0, 216.02, 0.12),
    ("gemma-2-9b", Settings(context=8192), 1344.0 + 756.0, 131.53, 0.98),
    ("gemma-3-27b", Settings(context=8192), 640.0 + 624.0, 188.03, 1.0),
    ("gemma-3-27b", Settings(context=32768), 3184.0, 212.03, 1.0),
    ("smollm2-135m", Settings(context=8192), 180.0, 22.64, 0.19),
]


@pytest.mark.parametrize(("name", "settings", "cache", "work", "output"), ENGINE)
def test_buffers(name: str, settings: Settings, cache: float, work: float, output: float) -> None:
    q = on_cpu(name, settings)
    assert q.kv_cache.value / MIB == cache
    assert q.compute.value / MIB == pytest.approx(work, abs=0.1)
    assert q.output.value / MIB == pytest.approx(output, abs=0.01)
    assert q.state.value == 0
    assert q.state.method == "exact"
    assert q.reserved is None


def test_weights_and_their_second_copy() -> None:
    q = on_cpu("llama-3.1-8b", Settings(context=8192))
    assert q.weights.value / MIB == pytest.approx(4685.3, abs=0.05)
    assert q.repack.value / MIB == 3204.0
    assert on_cpu("qwen2.5-7b", Settings(context=8192)).repack.value / MIB == 2976.75
    assert on_cpu("llama-3.1-8b", Settings(context=8192), fmt="q8_0").repack.value == 0
    assert on_cpu("llama-3.1-8b", Settings(context=8192, load_mode="none")).repack.value == 0
    # 8.77 GiB were resident after a short prompt.
    assert q.total.value == pytest.approx(8.77 * 1024 * MIB, rel=0.03)
    assert q.total.high >= 8.77 * 1024 * MIB


def test_which_types_are_copied() -> None:
    assert rules(("sse4_2",)) == {}
    assert set(rules(("avx2",))) == {"q4_0", "q4_k", "iq4_nl", "mxfp4"}
    assert "q2_k" in rules(("avx2", "avx512f"))
    assert "q2_k" not in rules(("avx2", "avx512f"), WHEEL_ISA)
    assert {"q8_0", "q6_k", "q5_k"} <= set(rules(("asimd", "asimddp"), WHEEL_ISA, arch="aarch64"))
    assert rules((), arch="arm64") == rules(("asimddp",))
    assert rules(("vxe", "zarch"), arch="s390x") == {"q4_0": 4}
    assert rules(("vxe",), WHEEL_ISA) == {}
    # An embedding that is the output matrix too is multiplied with, so it is copied if its type is.
    arch = shapes.KNOWN["qwen2.5-0.5b"]
    stored = tuple(
        TensorSpec(
            name=t.name, shape=t.shape, role=t.role, layer=t.layer, gguf_type="q4_0" if len(t.shape) > 1 else "f32"
        )
        for t in shapes.tensors(arch)
    )
    model = shapes.facts(arch, weights_format="gguf", kind="gguf")
    q = llama_memory(model, stored, fmt="q4_0", settings=Settings(context=2048), machine=CPU, devices=("host",))
    assert q.repack.value / MIB == pytest.approx(264.98, abs=0.01)
    unmapped = Settings(context=8192, load_mode="none")  # with a cache larger than the buffer for reading
    q = llama_memory(model, stored, fmt="q4_0", settings=unmapped, machine=CPU, devices=("host",))
    assert (q.weights.value + q.repack.value) / MIB == pytest.approx(73.30 + 264.98, abs=0.01)


def test_a_file_that_is_read_is_there_once() -> None:
    mapped, read = (on_cpu("llama-3.1-8b", Settings(context=8192, load_mode=mode)) for mode in ("mmap", "none"))
    left = read.overhead.value - mapped.overhead.value  # of the buffer, in the heap
    assert mapped.total.value + left - read.total.value == mapped.repack.value == 3204 * MIB
    assert left == 12 * MIB
    assert read.repack.high == 0  # the buffer for reading is gone before the larger cache is there
    assert on_cpu("llama-3.1-8b", Settings(context=8192, load_mode="mlock")).total == read.total
    # Matrices of 144 MiB, a cache of half a MiB: the peak is while they are read (measured: 147 MiB over the weights).
    arch = shapes.Arch("llama", 1, 2048, 131072, 16, 4, 128, 4096)
    q = llama_memory(
        shapes.facts(arch), shapes.tensors(arch), fmt="q4_0", machine=CPU, devices=("host",),
        settings=Settings(context=256, ubatch=8, load_mode="none"),
    )  # fmt: skip
    matrix = 2048 * 131072 * 18 // 32
    assert q.repack.value == matrix - int(q.kv_cache.value + q.compute.value + q.output.value) > 100 * MIB
    # Beside a device nothing is repacked, however the file is loaded.
    model, tensors = KNOWN["smollm2-135m"]
    for mode in ("mmap", "none"):
        q = llama_memory(
            model, tensors, fmt="q4_0", settings=Settings(context=512, gpu_layers=12, load_mode=mode),
            machine=shapes.machine(shapes.gpu()), devices=("gpu0", "host"),
        )  # fmt: skip
        assert (q.repack.value, q.repack.high) == (0, 0)


def test_share_that_is_repacked() -> None:
    def share(name: str, fmt: str, provider: str = "wheel", machine: Machine = CPU) -> float:
        weights = weight_map(*KNOWN[name], fmt, imatrix=False)
        return repack.ratio(weights, repack.here(machine, provider))

    assert share("llama-3.1-8b", "q4_k_m") == pytest.approx(3204.0 / 4685.3, abs=1e-4)
    assert share("llama-3.1-8b", "q6_k") == share("llama-3.1-8b", "f16") == 0.0
    # Narrow rows fall back to types that are not repacked: 7.6 of 98.9 MiB.
    assert share("smollm2-135m", "q4_k_m") == pytest.approx(0.077, abs=0.001)
    # A build for the CPU itself knows more types.
    wide = shapes.machine(isa=("avx2", "avx512f"))
    assert share("llama-3.1-8b", "q2_k", "wheel", wide) < share("llama-3.1-8b", "q2_k", "build", wide)


def latent() -> tuple[ModelFacts, tuple[TensorSpec, ...]]:
    """The attention of DeepSeek-V2-Lite: 27 layers that cache 512 + 64 values."""
    arch = shapes.KNOWN["llama-3.1-8b"]._replace(layers=27, hidden=2048, heads=16, kv=1, dim=576, ff=10944)
    tensors = [t for t in shapes.tensors(arch) if "attn_k" not in t.name and "attn_v" not in t.name]
    tensors += [spec(f"blk.{i}.attn_kv_a_mqa.weight", (576, 2048)) for i in range(27)]
    return shapes.facts(arch, architecture="deepseek2"), tuple(tensors)


def test_latent_attention_caches_keys_only() -> None:
    model, tensors = latent()
    q = llama_memory(model, tensors, fmt="q8_0", settings=Settings(context=32768), machine=CPU, devices=("host",))
    assert q.kv_cache.value / MIB == 972.0


def test_recurrent_state_does_not_grow_with_context() -> None:
    arch = shapes.KNOWN["llama-3.1-8b"]._replace(layers=2, hidden=1024, heads=8, kv=8, dim=128, ff=2048, vocab=1024)
    mamba2 = (
        spec("blk.0.ssm_conv1d.weight", (2048 + 2 * 128, 4)),
        spec("blk.0.ssm_a", (32, 1)),
        spec("blk.0.ssm_norm.weight", (1, 2048)),
        spec("blk.0.ssm_out.weight", (1024, 2048)),
    )
    tensors = tuple(t for t in shapes.tensors(arch) if not t.name.startswith("blk.0.attn")) + mamba2
    model = shapes.facts(arch, architecture="granitehybrid")
    expected = 4 * (3 * (2048 + 256) + 128 * 2048)
    for context in (2048, 65536):
        for slots in (1, 3):
            asked = Settings(context=context, parallel=slots)
            q = llama_memory(model, tensors, fmt="q8_0", settings=asked, machine=CPU, devices=("host",))
            assert q.state.value == expected * slots
    only = kv.layers(model, tensors)[0]
    assert [one.layer for one in only] == [1]


def test_contexts_are_padded() -> None:
    model, _ = KNOWN["llama-3.1-8b"]
    assert kv.cells(model, Settings(context=1)).full == 256
    assert kv.cells(model, Settings(context=4000, parallel=3)) == (1536, 1536, 3, 1536)
    assert kv.cells(model, Settings(context=4000, parallel=3), unified=True) == (4096, 4096, 1, 4096)
    gemma, _ = KNOWN["gemma-3-27b"]
    assert kv.cells(gemma, Settings(context=32768)).window == 1536
    assert kv.cells(gemma, Settings(context=32768, parallel=4), unified=True).window == 4608
    assert kv.cells(gemma, Settings(context=512)).window == 512


def test_split_follows_the_layers() -> None:
    model, tensors = KNOWN["smollm2-135m"]
    box = shapes.machine(shapes.gpu())
    asked = Settings(context=512, gpu_layers=12)
    q = llama_memory(model, tensors, fmt="q8_0", settings=asked, machine=box, devices=("gpu0", "host"))
    at = place(30, asked, box, ("gpu0", "host"))
    # Twelve: the output matrix and the last eleven layers.
    assert at.layers.count("gpu0") == 11
    assert at.output == "gpu0"
    assert at.layers[18] == "host"
    assert q.kv_cache.value == 30 * 512 * 2 * 192 * 2
    assert q.repack.value == 0
    embedding = 49152 * 576 * 34 // 32
    assert (
        q.weights.value
        == llama_memory(model, tensors, fmt="q8_0", settings=asked, machine=box, devices=("host",)).weights.value
        + embedding
    )
    assert set(q.by_device) == {"host", "gpu0"}
    assert q.total.value == sum(d.value for d in q.by_device.values())
    one = place(30, Settings(context=512, gpu_layers=1), box, ("gpu0", "host"))
    assert one.layers.count("gpu0") == 0
    assert one.output == "gpu0"


def test_split_is_the_engines() -> None:
    # llama.cpp with a Vulkan device and 12 layers: 68.18 MiB of weights there, 96.90 MiB mapped on the host.
    model, tensors = KNOWN["smollm2-135m"]
    box = shapes.machine(shapes.gpu())
    weights = weight_map(model, tensors, "q8_0", imatrix=False)
    at = place(30, Settings(context=512, gpu_layers=12), box, ("gpu0", "host"))
    there = sum(b for b, home in zip(weights.layers, at.layers, strict=True) if home == "gpu0")
    assert (there + weights.output + weights.embedding) / MIB == pytest.approx(68.18, abs=0.02)
    assert (weights.loaded - there - weights.output) / MIB == pytest.approx(96.90, abs=0.02)
    by_layer = kv.cache_by_layer(model, tensors, Settings(context=512))
    assert sum(by_layer[i] for i in range(19, 30)) / MIB == pytest.approx(4.12, abs=0.01)


def test_several_devices_share_by_the_split() -> None:
    box = shapes.machine(shapes.gpu("gpu0"), shapes.gpu("gpu1"))
    even = place(32, Settings(context=512), box, ("gpu0", "gpu1"))
    assert even.layers.count("gpu0") == 17
    assert even.output == "gpu1"
    uneven = place(32, Settings(context=512, tensor_split=(0.75, 0.25)), box, ("gpu0", "gpu1"))
    assert uneven.layers.count("gpu0") == 25
    experts = place(32, Settings(context=512, cpu_moe_layers=5), box, ("gpu0",))
    assert experts.experts_on_host == frozenset(range(5))
    with pytest.raises(KeyError, match="gpu7"):
        memory(
            *KNOWN["smollm2-135m"], method="gguf", fmt="q8_0", runtime="llama.cpp", settings=Settings(context=512),
            machine=box, devices=("gpu7",),
        )  # fmt: skip


def test_experts_on_the_host() -> None:
    model, tensors = KNOWN["qwen3-30b-a3b"]
    box = shapes.machine(shapes.gpu())

    def at(n: int) -> Memory:
        asked = Settings(context=4096, cpu_moe_layers=n)
        return llama_memory(model, tensors, fmt="q4_k_m", settings=asked, machine=box, devices=("gpu0",))

    none, all_ = at(0), at(48)
    assert all_.by_device["gpu0"].value < 0.2 * none.by_device["gpu0"].value
    assert all_.weights.value == none.weights.value


def test_layers_that_fit() -> None:
    model, tensors = KNOWN["llama-3.3-70b"]
    asked = Settings(context=8192)

    def fit(gib: int | None) -> int:
        device = shapes.gpu(memory=gib << 30) if gib else shapes.gpu()
        if gib is None:
            import msgspec

            unknown = msgspec.structs.replace(device.memory, total_bytes=None, usable_bytes=None)
            device = msgspec.structs.replace(device, memory=unknown)
        return gpu_layers_that_fit(
            model, tensors, fmt="q4_k_m", settings=asked, machine=shapes.machine(device), device="gpu0"
        )

    assert fit(None) == 0
    assert fit(1) == 0
    assert 0 < fit(12) < fit(24) < 81
    assert fit(80) == 81
    need = llama_memory(
        model, tensors, fmt="q4_k_m", settings=Settings(context=8192, gpu_layers=fit(24)),
        machine=shapes.machine(shapes.gpu()), devices=("gpu0", "host"),
    )  # fmt: skip
    assert need.by_device["gpu0"].high <= 24 << 30


@hyp(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["smollm2-135m", "gemma-3-27b", "qwen3-30b-a3b"]),
    context=st.integers(1, 200_000),
    slots=st.integers(1, 8),
    kind=st.sampled_from(["f16", "q8_0", "q4_0", "f32"]),
    gpu_layers=st.integers(0, 70),
)
def test_bounds_and_growth(name: str, context: int, slots: int, kind: str, gpu_layers: int) -> None:
    model, tensors = KNOWN[name]
    box = shapes.machine(shapes.gpu())

    def at(n: int) -> Memory:
        asked = Settings(context=n, parallel=slots, kv_type=kind, gpu_layers=gpu_layers)
        return llama_memory(model, tensors, fmt="q4_k_m", settings=asked, machine=box, devices=("gpu0", "host"))

    small, large = at(context), at(context * 2)
    for q in (small, large):
        parts = [q.weights, q.kv_cache, q.state, q.compute, q.output, q.repack, q.overhead]
        for part in [*parts, q.total, *q.by_device.values()]:
            assert 0 <= part.low <= part.value <= part.high
        assert q.total.value == sum(p.value for p in parts)
    assert large.kv_cache.value >= small.kv_cache.value


def checkpoint_memory(method: str, fmt: str, runtime: str, machine: Machine, *devices: str) -> Memory:
    return memory(
        *KNOWN["llama-3.1-8b"], method=method, fmt=fmt, runtime=runtime,
        settings=Settings(context=8192, load_mode=None), machine=machine, devices=devices,
    )  # fmt: skip


def test_checkpoints() -> None:
    box = shapes.machine(shapes.gpu())
    q = checkpoint_memory("awq", "w4a16-g128", "vllm", box, "gpu0")
    assert q.weights.value == pytest.approx(5.73e9, rel=0.002)
    assert q.kv_cache.value == 1026 * MIB  # 512 blocks of 16 tokens, and the null block
    assert q.reserved is not None
    # The driver's context is there before vLLM counts, so it is not in what it asks for.
    assert q.reserved.value == math.ceil(0.92 * (24 << 30)) - (q.by_device["gpu0"].value - 500 * MIB)
    assert checkpoint_memory("none", "bf16", "vllm", box, "gpu0").weights.value == pytest.approx(16.06e9, rel=0.001)
    assert checkpoint_memory("nf4", "nf4", "transformers", box, "gpu0").weights.value == pytest.approx(5.70e9, rel=0.01)
    assert checkpoint_memory("fp8", "fp8", "vllm", box, "gpu0").weights.value == pytest.approx(9.08e9, rel=0.01)
    assert checkpoint_memory("fp8", "fp8", "transformers", box, "gpu0").reserved is None
    two = shapes.machine(shapes.gpu("gpu0"), shapes.gpu("gpu1"))
    shared = checkpoint_memory("none", "bf16", "vllm", two, "gpu0", "gpu1")
    assert shared.by_device["gpu0"].value == shared.by_device["gpu1"].value
    assert (
        shared.by_device["gpu0"].value < checkpoint_memory("none", "bf16", "vllm", box, "gpu0").by_device["gpu0"].value
    )
    assert checkpoint_memory("none", "bf16", "transformers", box, "host").by_device.keys() == {"host"}


class Answer:
    """What an engine says."""

    kv_cache_bytes = 123 * MIB
    state_bytes = 0
    compute_bytes = 7 * MIB
    output_bytes = 3 * MIB
    weights_bytes = 5


def test_the_engine_is_believed() -> None:
    model, tensors = KNOWN["llama-3.1-8b"]
    q = llama_memory(
        model, tensors, fmt="q4_k_m", settings=Settings(context=8192), machine=CPU, devices=("host",),
        engine=lambda *_: Answer(),
    )  # fmt: skip
    assert q.kv_cache.value == 123 * MIB
    assert q.compute.value == 7 * MIB
    assert q.output.value == 3 * MIB
    assert {q.kv_cache.method, q.compute.method, q.state.method, q.output.method} == {"engine"}


# docs/measured/binding.md: vocabulary, layers, format and context of files of SmolLM2's shape, and MiB of the process.
BINDING = [
    (1024, 2, "q8_0", 2048, 100.3),
    (32000, 2, "q8_0", 2048, 123.8),
    (128256, 2, "q8_0", 2048, 197.6),
    (256000, 2, "q8_0", 2048, 295.6),
    (49152, 30, "q8_0", 2048, 281.6),
    (49152, 30, "q4_k_m", 8192, 388.2),
]


@pytest.mark.parametrize(("vocab", "layers", "fmt", "context", "mib"), BINDING)
def test_the_server_of_llama_cpp_python_as_measured(
    vocab: int, layers: int, fmt: str, context: int, mib: float
) -> None:
    arch = shapes.KNOWN["smollm2-135m"]._replace(vocab=vocab, layers=layers)
    model, tensors, wanted = shapes.facts(arch), shapes.tensors(arch), Settings(context=context)

    def of(runtime: str) -> Memory:
        return memory(
            model, tensors, method="gguf", fmt=fmt, runtime=runtime, settings=wanted, machine=CPU, devices=("host",)
        )

    told = of("llama-cpp-python")
    assert told.total.low / MIB <= mib <= told.total.high / MIB
    merges = 200 * vocab * (2 if vocab == 128256 else 1) / MIB  # the vocabularies of these files have none
    assert told.total.value / MIB - merges == pytest.approx(mib, rel=0.08)
    assert told.overhead.method == "measured"
    assert told.overhead.source.startswith("measured")
    assert told.overhead.value > of("llama.cpp").overhead.value > of("ollama").overhead.value
