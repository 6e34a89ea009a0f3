"""Total and active weights against those that were published, and numbers of tensors against GGUF files."""

from __future__ import annotations

import pytest

from advisor.errors import AdvisorError
from advisor.facts.model import ModelFacts
from advisor.model.architectures import from_config
from advisor.model.tensors import computed, is_table
from tests.unit.model.configurations import PUBLISHED
from tests.unit.model.terms import terms, types


def facts(name: str) -> ModelFacts:
    return from_config(PUBLISHED[name].config, name=name, ref=name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_total_and_active_weights(name: str) -> None:
    published, found = PUBLISHED[name], facts(name)
    assert found.confidence == "derived", found.notes
    assert found.params == pytest.approx(published.total, rel=0.005 if published.total % 1e6 else 0.003)
    if published.active is None:
        assert found.active_params == found.params
    else:
        assert found.active_params == pytest.approx(published.active, rel=0.01)
    if published.every is not None:
        held = sum(t.elements for t in computed(found) if not is_table(t)) + (found.vision_params or 0)
        assert held == published.every


# Tensors that llama.cpp names when it loads the file; the sources are logs in its pull requests and issues.
@pytest.mark.parametrize(
    ("name", "tensors"),
    [
        ("google/gemma-4-31B-it", 833),  # llama.cpp pull request 21760
        ("google/gemma-4-26B-A4B", 658),  # ik_llama.cpp issue 1772
        ("google/gemma-4-E4B-it", 720),  # lemonade issue 1595
        ("zai-org/GLM-4.5-Air", 803),  # llama.cpp pull request 14939
        ("google/gemma-3n-E4B-it", 847),  # llama.cpp issue 14979
        ("google/gemma-3n-E2B-it", 727),  # rk-llama.cpp issue 6
        ("deepseek-ai/DeepSeek-V3", 1086),  # ik_llama.cpp pull request 394
        ("moonshotai/Kimi-K2-Instruct", 1096),  # GGUF-Tool-Suite issue 30
        ("openai/gpt-oss-20b", 459),  # ik_llama.cpp issue 822
    ],
)
def test_numbers_of_tensors(name: str, tensors: int) -> None:
    assert len(computed(facts(name))) == tensors


def test_what_weights_are_stored_as() -> None:
    v3 = facts("deepseek-ai/DeepSeek-V3")
    assert (v3.weights_dtype, v3.quantized_method, v3.quantized_format) == ("fp8", "fp8", "fp8")
    assert "already quantized: fp8 in blocks of 128 x 128" in v3.notes
    config = PUBLISHED["openai/gpt-oss-20b"].config | {"quantization_config": {"quant_method": "mxfp4"}}
    oss = from_config(config, name="gpt-oss", ref="gpt-oss")
    assert (oss.weights_dtype, oss.quantized_method, oss.quantized_format) == ("mxfp4", "mxfp4", "mxfp4")
    assert "already quantized: mxfp4 (the experts; other weights are 16-bit)" in oss.notes


def test_vision_tower_is_its_own_figure() -> None:
    small = facts("mistralai/Mistral-Small-3.2-24B-Instruct-2506")
    assert small.vision_params == 438_958_080
    assert small.architecture == "mistral3"
    assert any("439M weights for images" in n for n in small.notes)
    unknown = terms("llama", 2, 64, 4, 2, 128, 100, vision_config={"model_type": "something", "depth": 3})
    assert from_config(unknown, name="m", ref="m").vision_params is None


def test_latent_attention_is_stored_split() -> None:
    found = facts("deepseek-ai/DeepSeek-V3")
    shapes = {t.name: t.shape for t in computed(found)}
    assert shapes["blk.0.attn_kv_a_mqa.weight"] == (576, 7168)
    assert shapes["blk.0.attn_k_b.weight"] == (128, 512, 128)
    assert shapes["blk.0.attn_v_b.weight"] == (128, 128, 512)
    assert shapes["blk.0.attn_q_b.weight"] == (128 * 192, 1536)
    assert "blk.2.ffn_gate.weight" in shapes
    assert shapes["blk.3.ffn_up_shexp.weight"] == (2048, 7168)
    assert "blk.61.attn_norm.weight" not in shapes  # its converter leaves the last layer out
    assert found.layer_kinds == ("latent",) * 61
    assert (found.kv_heads, found.head_dim) == (1, 576)
    lite = {t.name: t.shape for t in computed(facts("deepseek-ai/DeepSeek-V2-Lite"))}
    assert lite["blk.0.attn_q.weight"] == (16 * 192, 2048)
    assert "blk.1.exp_probs_b.bias" not in lite


def test_layers_that_predict_ahead_are_stored_and_not_counted() -> None:
    air = facts("zai-org/GLM-4.5-Air")
    names = {t.name for t in computed(air)}
    assert (air.layers, air.blocks, air.widths["nextn_predict_layers"]) == (46, 47, 1)
    assert {"blk.46.nextn.eh_proj.weight", "blk.46.nextn.embed_tokens.weight", "blk.46.ffn_up_exps.weight"} <= names
    assert "blk.92.nextn.embed_tokens.weight" not in {t.name for t in computed(facts("zai-org/GLM-4.6"))}


def test_windows_and_shared_caches() -> None:
    e4b = facts("google/gemma-4-E4B-it")
    assert e4b.layer_kinds == (*(("window",) * 5 + ("full",)) * 4, *("none",) * 18)
    shapes = {t.name: t.shape for t in computed(e4b)}
    assert shapes["blk.4.attn_k.weight"] == (2 * 256, 2560)
    assert shapes["blk.5.attn_k.weight"] == (2 * 512, 2560)
    assert shapes["blk.41.attn_q.weight"] == (8 * 512, 2560)
    large = {t.name: t.shape for t in computed(facts("google/gemma-4-31B-it"))}
    assert large["blk.5.attn_k.weight"] == (4 * 512, 5376)
    assert "blk.5.attn_v.weight" not in large
    nano = facts("google/gemma-3n-E4B-it")
    assert nano.layer_kinds == (*(("window",) * 4 + ("full",)) * 4, *("none",) * 15)
    scout = facts("meta-llama/Llama-4-Scout-17B-16E")
    assert (scout.sliding_window, scout.sliding_pattern) == (8192, 4)
    assert facts("CohereLabs/c4ai-command-r7b-12-2024").sliding_pattern == 4
    assert facts("CohereLabs/c4ai-command-r-v01").sliding_window is None
    kinds = types(64, 4)
    kinds[0] = "full_attention"
    large_exaone = terms("exaone4", 64, 64, 4, 2, 128, 100, sliding_window=8, layer_types=kinds)
    assert from_config(large_exaone, name="m", ref="m").layer_kinds[:4] == ("full", "window", "window", "full")
    letters = from_config(large_exaone | {"sliding_window_pattern": "LLLG"}, name="m", ref="m")
    assert letters.sliding_pattern == 4
    assert from_config(large_exaone | {"sliding_window": None}, name="m", ref="m").layer_kinds == ()
    small_exaone = terms("exaone4", 4, 64, 4, 2, 128, 100, sliding_window=8, layer_types=types(4, 4))
    assert from_config(small_exaone, name="m", ref="m").sliding_window is None


def test_interleaved_experts() -> None:
    names = {t.name for t in computed(facts("meta-llama/Llama-4-Maverick-17B-128E"))}
    assert "blk.0.ffn_gate.weight" in names
    assert "blk.1.ffn_gate_exps.weight" in names
    assert "blk.1.ffn_up_shexp.weight" in names


def test_vision_sizes_out_of_range_name_the_field() -> None:
    config = PUBLISHED["google/gemma-3-4b-it"].config
    for value in (-1, 0, "wide", 1.5, 10**9):
        broken = config | {"vision_config": {"model_type": "siglip_vision_model", "hidden_size": value}}
        with pytest.raises(AdvisorError) as e:
            from_config(broken, name="m", ref="m")
        assert e.value.code == "untrusted-model-config"
        assert e.value.data == {"field": "hidden_size"}
        assert "vision_config" in e.value.message
