"""Laws of a llama.cpp server's memory, and what it keeps on the host."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import settings as hyp
from hypothesis import strategies as st

from advisor.cost import host_caches
from advisor.cost.host_caches import DEFAULTS, Kept, checkpoint_bytes
from advisor.cost.llama_memory import memory as llama_memory
from advisor.cost.llama_memory import overhead
from advisor.cost.memory import memory
from advisor.facts.machine import Machine
from advisor.facts.plan import Memory, Settings
from advisor.model.tensors import spec
from tests.support import shapes

MIB = 1 << 20
KNOWN = {name: (shapes.facts(a), shapes.tensors(a)) for name, a in shapes.KNOWN.items()}
CPU, PLAIN = shapes.machine(), shapes.machine(isa=())
GPUS = shapes.machine(shapes.gpu("gpu0"), shapes.gpu("gpu1"))
NAMES = ("smollm2-135m", "qwen2.5-0.5b", "gemma-3-27b", "qwen3-30b-a3b", "llama-3.1-8b")


def at(name: str, fmt: str, settings: Settings, machine: Machine = CPU, devices: tuple[str, ...] = ("host",)) -> Memory:
    return llama_memory(*KNOWN[name], fmt=fmt, settings=settings, machine=machine, devices=devices)


@hyp(max_examples=50, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    fmt=st.sampled_from(["q4_k_m", "q4_0", "q8_0", "iq4_nl", "f16"]),
    mode=st.sampled_from(["mmap", "none", "mlock", "auto"]),
    context=st.integers(256, 60_000),
    slots=st.integers(1, 4),
    kind=st.sampled_from(["f16", "q8_0"]),
)
def test_laws_on_the_host(name: str, fmt: str, mode: str, context: int, slots: int, kind: str) -> None:
    asked = Settings(context=context, parallel=slots, kv_type=kind, load_mode=mode)
    q = at(name, fmt, asked)
    parts = (q.weights, q.kv_cache, q.state, q.compute, q.output, q.repack, q.overhead)
    assert q.total.value == sum(p.value for p in parts) == sum(d.value for d in q.by_device.values())
    assert at(name, fmt, msgspec.structs.replace(asked, context=2 * context)).total.value >= q.total.value
    assert q.total.value >= at(name, fmt, asked, PLAIN).total.value, "repacked weights never take less"
    assert at(name, fmt, asked, PLAIN).repack.value <= max(0, q.repack.value)


@hyp(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["smollm2-135m", "llama-3.1-8b", "qwen3-30b-a3b"]),
    context=st.integers(256, 40_000),
    layers=st.integers(0, 40),
    experts=st.integers(0, 20),
    devices=st.sampled_from([("gpu0", "host"), ("gpu0", "gpu1", "host")]),
)
def test_laws_of_a_split(name: str, context: int, layers: int, experts: int, devices: tuple[str, ...]) -> None:
    asked = Settings(context=context, gpu_layers=layers, cpu_moe_layers=experts)

    def stored(n: int, moe: int) -> dict[str, float]:
        """Bytes of each device, with a work buffer of one token: a few rows more or less by where layers begin."""
        tried = msgspec.structs.replace(asked, gpu_layers=n, cpu_moe_layers=moe)
        q = at(name, "q4_k_m", tried, GPUS, devices)
        parts = (q.weights, q.kv_cache, q.state, q.compute, q.output, q.repack, q.overhead)
        assert q.total.value == sum(p.value for p in parts) == sum(d.value for d in q.by_device.values())
        assert set(q.by_device) == set(devices)
        tiny = at(name, "q4_k_m", msgspec.structs.replace(tried, ubatch=1), GPUS, devices)
        return {key: float(d.value) for key, d in tiny.by_device.items()}

    fewer, more = stored(layers, experts), stored(layers + 1, experts)
    # With several devices a layer more moves where one begins, so that only their sum grows.
    there, here = (sum(v for key, v in d.items() if key != "host") for d in (fewer, more))
    assert here >= there - MIB
    away = stored(layers, experts + 1)
    assert sum(v for key, v in away.items() if key != "host") <= there + MIB


def test_advisors_own_servers_keep_nothing() -> None:
    settings = Settings(context=8192)
    for runtime in ("llama.cpp", "llama-cpp-python"):
        q = memory(
            *KNOWN["gemma-3-27b"], method="gguf", fmt="q4_k_m", runtime=runtime, settings=settings, machine=CPU,
            devices=("host",),
        )  # fmt: skip
        assert q.overhead.high < 512 * MIB
    left = memory(
        *KNOWN["gemma-3-27b"], method="gguf", fmt="q4_k_m", runtime="ollama", settings=settings, machine=CPU,
        devices=("host",),
    )  # fmt: skip
    assert left.overhead.high > DEFAULTS.prompts
    one = checkpoint_bytes(*KNOWN["gemma-3-27b"], settings)
    bare = overhead(KNOWN["gemma-3-27b"][0], "build", rows=512)
    assert left.overhead.value - bare.value == one > 0
    assert left.overhead.low <= bare.low


def test_a_checkpoint_is_what_cannot_be_cut_back() -> None:
    model, tensors = KNOWN["gemma-3-27b"]
    windows = len([i for i in range(62) if i % 6 < 5])
    cell = 2 * 2 * 16 * 128
    assert checkpoint_bytes(model, tensors, Settings(context=32768)) == windows * 1536 * cell
    # Of slots each has its own.
    assert checkpoint_bytes(model, tensors, Settings(context=32768, parallel=4)) == windows * 1536 * cell
    assert checkpoint_bytes(*KNOWN["llama-3.1-8b"], Settings(context=32768)) == 0
    state = (spec("blk.0.shortconv.conv.weight", (1024, 3)),)
    rest = tuple(t for t in shapes.tensors(shapes.KNOWN["qwen3-0.6b"]) if not t.name.startswith("blk.0."))
    assert checkpoint_bytes(KNOWN["qwen3-0.6b"][0], rest + state, Settings(context=512, parallel=2)) == 4 * 2 * 1024


@given(slots=st.integers(1, 8), prompts=st.integers(0, 1 << 33), count=st.integers(0, 64))
def test_what_is_kept_is_bounded(slots: int, prompts: int, count: int) -> None:
    model, tensors = KNOWN["gemma-2-9b"]
    settings = Settings(context=8192, parallel=slots)
    q = host_caches.kept_bytes(model, tensors, settings, Kept(prompts, count))
    assert 0 == q.low <= q.value <= q.high
    assert q.high == prompts + count * slots * checkpoint_bytes(model, tensors, settings)
    assert q.method == ("formula" if q.high else "exact")


def test_process_grows_with_slots_and_vocabulary() -> None:
    small, large = KNOWN["smollm2-135m"][0], KNOWN["qwen2.5-0.5b"][0]
    for provider in ("wheel", "build", "path", "binding"):
        one, four = overhead(small, provider), overhead(small, provider, slots=4)
        assert one.low < one.value <= one.high
        assert four.value >= one.value
        assert overhead(large, provider).value > one.value
