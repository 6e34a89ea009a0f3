"""vLLM's memory on devices: its own rules, and peaks that its start logs published."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.cost import paged_memory as paged
from advisor.cost.memory import memory
from advisor.cost.paged_memory import Ranks, batch_peak, cache_bytes, capture_sizes, graphs, ranks, requested
from advisor.facts.plan import Memory, Settings
from tests.support import shapes

GIB, MIB = 1 << 30, 1 << 20
KNOWN = {name: (shapes.facts(a), shapes.tensors(a)) for name, a in shapes.KNOWN.items()}
QWEN_1_5B = shapes.Arch("qwen2", 28, 1536, 8960, 12, 2, 128, 151936, tied=True, bias=True)
# "PyTorch activation peak memory takes" in published logs: shape, ranks, sequences, batched tokens, GiB. The first two
# are of vllm-project/vllm pull request 10511, the others of people's start logs.
PEAKS = [
    ("llama-3.1-8b", 1, 256, 8192, 1.26),
    ("llama-3.1-8b", 2, 256, 8192, 1.26),
    ("llama-3.1-8b", 1, 256, 8192, 1.19),
    ("qwen3-8b", 4, 256, 8192, 1.45),
    ("qwen2.5-7b", 1, 256, 4200, 1.42),
    ("qwen2.5-1.5b", 1, 256, 32768, 2.02),
]


@pytest.mark.parametrize(("name", "tensor", "sequences", "batch", "gib"), PEAKS)
def test_peaks_of_the_profile_run_as_published(name: str, tensor: int, sequences: int, batch: int, gib: float) -> None:
    model = shapes.facts(QWEN_1_5B) if name == "qwen2.5-1.5b" else KNOWN[name][0]
    settings = Settings(context=8192 * sequences, parallel=sequences, batch=batch)
    q = batch_peak(model, settings, spread=Ranks(tensor, 1))
    assert q.value / GIB == pytest.approx(gib, rel=0.06)
    assert q.low <= gib * GIB <= q.high


def test_graph_sizes_are_vllms() -> None:
    assert capture_sizes(Settings(context=1)) == (1, 2)
    assert capture_sizes(Settings(context=1, parallel=8)) == (1, 2, 4, 8, 16)
    many = capture_sizes(Settings(context=1, parallel=256))
    assert len(many) == 51 and many[-1] == 512  # as the published "PIECEWISE=51 (largest=512), FULL=35 (largest=256)"
    assert len([n for n in many if n <= 256]) == 35
    q = graphs(Settings(context=1, parallel=256))
    assert q.low <= 0.73 * GIB <= q.high and q.value == pytest.approx(0.73 * GIB, rel=0.1)


def test_it_asks_for_whole_bytes_of_its_share() -> None:
    assert requested(1001, 0.9) == 901
    assert requested(24 * GIB, 0.92) == math.ceil(24 * GIB * 0.92)


def on_gpus(name: str, count: int, settings: Settings, method: str = "none", fmt: str = "bf16") -> Memory:
    keys = tuple(f"gpu{i}" for i in range(count))
    box = shapes.machine(*(shapes.gpu(key, memory=80 * GIB) for key in keys))
    return memory(
        *KNOWN[name], method=method, fmt=fmt, runtime="vllm", settings=settings, machine=box, devices=keys
    )  # fmt: skip


def test_ranks_share_matrices_and_heads() -> None:
    settings = Settings(context=8192, tensor_parallel=2)
    one, two = on_gpus("llama-3.1-8b", 1, Settings(context=8192)), on_gpus("llama-3.1-8b", 2, settings)
    assert two.kv_cache.value == one.kv_cache.value  # four key and value heads each
    norms = 2 * 4096 * (2 * 32 + 1)
    assert two.weights.value - one.weights.value == pytest.approx(norms, abs=2)
    # One key and value head cannot be split: each of the ranks has it.
    model, tensors = KNOWN["qwen2.5-0.5b"]
    alone, spread = (cache_bytes(model, tensors, settings, spread=Ranks(n, 1)) for n in (2, 7))
    assert spread == alone
    assert cache_bytes(model, tensors, settings) == 2 * alone
    # Latent attention has one head for all.
    wide = msgspec.structs.replace(model, kv_heads=1)
    assert paged._on_rank(wide, 576, 0, 8) == 576


def test_how_devices_share() -> None:
    model, _ = KNOWN["qwen2.5-0.5b"]  # 14 heads
    assert ranks(model, Settings(context=1), 1) == (1, 1)
    assert ranks(model, Settings(context=1), 4) == (2, 2)
    assert ranks(model, Settings(context=1), 3) == (1, 3)
    assert ranks(model, Settings(context=1, tensor_parallel=2), 4) == (2, 2)
    assert ranks(model, Settings(context=1, pipeline_parallel=2), 2) == (1, 2)


def test_window_layers_hold_the_window_and_a_batch() -> None:
    model, tensors = KNOWN["gemma-3-27b"]
    long = Settings(context=131072, batch=2048)
    token = 2 * 2 * 16 * 128
    windows = len([i for i in range(62) if i % 6 < 5])
    # min(window - 1 + batch, length) tokens, a block for where it begins, and the null block.
    held = math.ceil((1024 - 1 + 2048) / 16) * 16 + 32
    assert cache_bytes(model, tensors, long) == token * (windows * held + (62 - windows) * (131072 + 16))


@given(
    name=st.sampled_from(["llama-3.1-8b", "qwen2.5-0.5b", "gemma-3-27b", "qwen3-30b-a3b"]),
    context=st.integers(1, 200_000),
    slots=st.integers(1, 300),
    count=st.integers(1, 8),
    share=st.sampled_from([1, 2, 4, 8]),
)
def test_laws(name: str, context: int, slots: int, count: int, share: int) -> None:
    more = Settings(context=2 * context, parallel=slots, tensor_parallel=share)
    q, larger = on_gpus(name, count, msgspec.structs.replace(more, context=context)), on_gpus(name, count, more)
    parts = (q.weights, q.kv_cache, q.state, q.compute, q.output, q.repack, q.overhead)
    assert q.total.value == sum(p.value for p in parts) == sum(d.value for d in q.by_device.values())
    assert all(0 <= p.low <= p.value <= p.high for p in (*parts, q.total, *q.by_device.values()))
    assert larger.total.value >= q.total.value
    assert q.reserved is not None and q.reserved.value >= 0
    each = {key: d.value for key, d in q.by_device.items() if key != "host"}
    assert len(each) == count and len(set(each.values())) == 1
    fewer = on_gpus(name, 1, msgspec.structs.replace(more, context=context, tensor_parallel=1))
    # Of each device, never more than of one device alone, but for what ranks exchange.
    assert each["gpu0"] <= fewer.by_device["gpu0"].value + paged._RANKS[0]
