"""Cache, state and work buffer of layers of all kinds: the engine's own figures, and laws."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.cost import kv
from advisor.cost.compute import work_buffer
from advisor.cost.graph import Graph
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Settings
from advisor.model.tensors import computed, spec
from tests.support import shapes
from tests.support.architectures import facts

MIB = 1 << 20
# Dry loads of llama.cpp (October 2026), in MiB: cache, recurrent state, work buffer.
ENGINE = [
    ("meta-llama/Llama-3.1-8B-Instruct", Settings(context=32768, parallel=4, kv_type="q8_0"), 2176.0, 0, 132.10),
    ("google/gemma-3-27b-it", Settings(context=32768, parallel=2), 3808.0, 0, 196.03),
    ("google/gemma-3n-E4B-it", Settings(context=16384), 160.0, 0, 172.03),
    ("google/gemma-4-E2B-it", Settings(context=32768, kv_type="q8_0"), 108.38, 0, 156.31),
    ("google/gemma-4-31b-it", Settings(context=16384), 2480.0, 0, 196.03),
    ("openai/gpt-oss-20b", Settings(context=32768, parallel=3), 828.0, 0, 107.36),
    ("CohereLabs/c4ai-command-r7b-12-2024", Settings(context=16384), 944.0, 0, 152.53),
    ("allenai/Olmo-3-7B-Instruct", Settings(context=16384), 3776.0, 0, 125.03),
    ("LGAI-EXAONE/EXAONE-4.0-32B", Settings(context=8192, kv_type="q5_1"), 516.0, 0, 223.18),
    ("meta-llama/Llama-4-Scout-17B-16E-Instruct", Settings(context=32768), 2760.0, 0, 148.53),
    ("deepseek-ai/DeepSeek-V2-Lite-Chat", Settings(context=16384), 486.0, 0, 100.14),
    ("deepseek-ai/DeepSeek-V3-0324", Settings(context=8192, kv_type="q8_0"), 291.66, 0, 414.01),
    ("Qwen/Qwen3-Next-80B-A3B-Instruct", Settings(context=16384), 384.0, 75.38, 106.02),
    ("Qwen/Qwen3.5-9B", Settings(context=32768, parallel=2), 1024.0, 100.50, 128.02),
    ("Qwen/Qwen3.5-35B-A3B", Settings(context=8192, kv_type="q8_0"), 85.0, 62.81, 84.29),
    ("ibm-granite/granite-4.0-h-tiny", Settings(context=16384, parallel=4), 128.0, 221.48, 56.92),
    ("ibm-granite/granite-4.0-h-1b", Settings(context=4096, ubatch=1024), 32.0, 55.37, 102.76),
    ("tiiuae/Falcon-H1-7B-Instruct", Settings(context=8192), 352.0, 133.80, 110.02),
    ("tiiuae/Falcon-H1-0.5B-Instruct", Settings(context=6000, kv_type="iq4_nl"), 30.38, 27.74, 33.37),
    ("nvidia/NVIDIA-Nemotron-Nano-9B-v2", Settings(context=16384, parallel=2), 256.0, 277.59, 174.30),
    ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", Settings(context=32768), 192.0, 47.62, 111.52),
    ("LiquidAI/LFM2-1.2B", Settings(context=32768), 384.0, 0.16, 100.02),
    ("LiquidAI/LFM2-8B-A1B", Settings(context=8192, kv_type="q5_0"), 33.0, 0.28, 70.05),
    ("ai21labs/Jamba-v0.1", Settings(context=16384), 256.0, 16.62, 224.02),
    ("mistralai/Mamba-Codestral-7B-v0.1", Settings(context=4096, parallel=3), 0, 790.50, 144.87),
    ("tiiuae/falcon-mamba-7b", Settings(context=4096), 0, 38.0, 120.60),
    ("moonshotai/Kimi-Linear-48B-A3B-Instruct", Settings(context=16384), 126.0, 42.81, 122.51),
]


@pytest.mark.parametrize(("name", "settings", "cache", "state", "work"), ENGINE)
def test_the_engines_figures(name: str, settings: Settings, cache: float, state: float, work: float) -> None:
    model = facts(name)
    tensors = computed(model)
    assert sum(kv.cache_by_layer(model, tensors, settings).values()) / MIB == pytest.approx(cache, abs=0.01)
    assert sum(kv.state_by_layer(model, tensors, settings).values()) / MIB == pytest.approx(state, abs=0.01)
    q = work_buffer(model, tensors, settings, kv.cells(model, settings))
    assert q.value / MIB == pytest.approx(work, rel=0.035, abs=0.02)
    assert q.low / MIB <= work <= q.high / MIB
    assert q.method == "formula"


def test_sparse_attention_keeps_the_keys_of_its_indexer() -> None:
    model = facts("deepseek-ai/DeepSeek-V3.2")
    cached = kv.layers(model, computed(model))[0]
    assert {(one.keys, one.values) for one in cached} == {(576 + 128, 0)}
    assert len(cached) == 61


def test_only_what_attends_is_cached() -> None:
    nemotron = facts("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16")
    cached, state = kv.layers(nemotron, computed(nemotron))
    kinds = nemotron.layer_kinds
    assert [one.layer for one in cached] == [i for i, kind in enumerate(kinds) if kind == "full"]
    assert [one.layer for one in state] == [i for i, kind in enumerate(kinds) if kind == "recurrent"]
    falcon = facts("tiiuae/Falcon-H1-0.5B-Instruct")
    cached, state = kv.layers(falcon, computed(falcon))
    assert [one.layer for one in cached] == [one.layer for one in state] == list(range(36))
    gemma = facts("google/gemma-4-E2B-it")  # the last layers read the cache of earlier ones, though they have matrices
    assert len(kv.layers(gemma, computed(gemma))[0]) == 15
    assert sum("attn_k.weight" in t.name for t in computed(gemma)) == 35
    kimi = facts("moonshotai/Kimi-Linear-48B-A3B-Instruct")
    assert [one.keys for one in kv.layers(kimi, computed(kimi))[0]] == [576] * 7


def test_a_file_that_keeps_the_decompression_in_one_matrix_caches_every_head() -> None:
    model = msgspec.structs.replace(shapes.facts(shapes.KNOWN["llama-3.1-8b"]), layers=1, heads=16, ref="old")
    old = (
        spec("blk.0.attn_q.weight", (16 * 192, 2048)),
        spec("blk.0.attn_kv_a_mqa.weight", (576, 2048)),
        spec("blk.0.attn_kv_b.weight", (16 * 256, 512)),
    )
    assert kv.layers(model, old)[0] == (kv.KvLayer(0, 16 * 192, 16 * 128, False),)
    split = (*old[:2], spec("blk.0.attn_k_b.weight", (16, 512, 128)))
    assert kv.layers(model, split)[0] == (kv.KvLayer(0, 576, 0, False),)


def test_state_is_for_each_slot_and_cache_for_all_together() -> None:
    model = facts("Qwen/Qwen3.5-9B")
    tensors = computed(model)
    one, four = Settings(context=16384), Settings(context=16384, parallel=4)
    assert kv.cache_by_layer(model, tensors, one) == kv.cache_by_layer(model, tensors, four)
    assert sum(kv.state_by_layer(model, tensors, four).values()) == 4 * sum(
        kv.state_by_layer(model, tensors, one).values()
    )
    assert kv.cache_by_layer(model, tensors, four, unified=True) == kv.cache_by_layer(model, tensors, one)
    assert kv.state_by_layer(model, tensors, one) == kv.state_by_layer(model, tensors, Settings(context=256))


@given(
    context=st.integers(1, 1 << 20),
    slots=st.integers(1, 16),
    kind=st.sampled_from(["f32", "f16", "bf16", "q8_0", "q5_1", "q4_0", "iq4_nl"]),
    name=st.sampled_from(["Qwen/Qwen3.5-0.8B", "google/gemma-4-E2B-it", "LiquidAI/LFM2-350M", "openai/gpt-oss-20b"]),
)
def test_laws_of_cache_and_work_buffer(context: int, slots: int, kind: str, name: str) -> None:
    model = facts(name)
    tensors = computed(model)
    settings = Settings(context=context, parallel=slots, kv_type=kind)
    more = msgspec.structs.replace(settings, context=context + 4096)
    small, large = (sum(kv.cache_by_layer(model, tensors, s).values()) for s in (settings, more))
    assert 0 < small <= large
    wide = msgspec.structs.replace(settings, kv_type="f32")
    assert small <= sum(kv.cache_by_layer(model, tensors, wide).values())
    q = work_buffer(model, tensors, settings, kv.cells(model, settings))
    assert 0 < q.low <= q.value <= q.high


def test_holes_are_filled() -> None:
    g = Graph()
    first = g.op(g.given(1024).size)
    second = g.op(2048, first)
    third = g.op(1024, second)  # takes the place that the first one left
    g.expand(g.same(third))
    assert g.bytes() == 1024 + 1024 + 2048
    g = Graph()
    kept = g.op(512)
    g.expand(g.op(256, g.same(kept), kept))  # what is needed again cannot be written over
    assert g.bytes() == 512 + 512 + 256


NAMES = [
    *("attn_norm", "attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output", "attn_kv_a_mqa", "attn_k_b", "attn_v_b"),
    *("ffn_norm", "ffn_gate", "ffn_up", "ffn_down", "ffn_gate_inp", "ffn_down_exps", "ffn_up_exps", "time_mix_w1"),
    *("ssm_conv1d", "ssm_in", "ssm_x", "ssm_ba", "ssm_norm", "ssm_out", "shortconv.conv", "ssm_conv1d_q", "attn_kv_b"),
]
SHAPE = st.lists(st.integers(1, 300), min_size=1, max_size=4).map(tuple)


@given(
    parts=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(NAMES), SHAPE), max_size=24, unique_by=lambda p: p[:2]),
    kinds=st.lists(st.sampled_from(["full", "window", "latent", "recurrent", "both", "none"]), max_size=4),
    used=st.integers(0, 1 << 16),
)
def test_whatever_a_file_holds_there_is_an_estimate(
    parts: list[tuple[int, str, tuple[int, ...]]], kinds: list[str], used: int
) -> None:
    tensors: tuple[TensorSpec, ...] = tuple(spec(f"blk.{i}.{name}.weight", shape) for i, name, shape in parts)
    base: ModelFacts = shapes.facts(shapes.KNOWN["smollm2-135m"])
    model = msgspec.structs.replace(base, layer_kinds=tuple(kinds), experts_used=used, sliding_window=512)
    settings = Settings(context=2048)
    q = work_buffer(model, tensors, settings, kv.cells(model, settings))
    assert 0 < q.low <= q.value <= q.high
    assert all(size >= 0 for size in kv.cache_by_layer(model, tensors, settings).values())
    assert all(size >= 0 for size in kv.state_by_layer(model, tensors, settings).values())
