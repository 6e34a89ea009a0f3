from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.errors import AdvisorError
from advisor.model.architectures import from_config
from advisor.model.families import FAMILIES, load
from advisor.model.families.base import Family
from advisor.model.fields import MAX_LAYERS
from advisor.model.tensors import computed, count, role_of, tensors

LLAMA_8B: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0},
}
SMALL: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}


def facts(config: dict[str, Any], **changes: Any) -> Any:
    return from_config({**config, **changes}, name="m", ref="m")


def names(config: dict[str, Any], **changes: Any) -> dict[str, tuple[int, ...]]:
    return {t.name: t.shape for t in tensors(facts(config, **changes))}


def test_llama_8b_counts_and_names() -> None:
    f = facts(LLAMA_8B)
    assert f.params == f.active_params == 8_030_261_248
    assert (f.architecture, f.confidence, f.gqa, f.rope_factors) == ("llama", "derived", 4, 64)
    by_name = names(LLAMA_8B)
    assert len(by_name) == 292  # as llama.cpp reports for the converted model: 291 and rope_freqs
    assert by_name["rope_freqs.weight"] == (64,)
    assert by_name["blk.31.attn_k.weight"] == (1024, 4096)
    assert by_name["blk.0.ffn_down.weight"] == (4096, 14336)
    assert by_name["output.weight"] == by_name["token_embd.weight"] == (128256, 4096)


def test_tied_embeddings_have_no_output_tensor() -> None:
    f, untied = facts(SMALL, tie_word_embeddings=True), facts(SMALL)
    assert "output.weight" not in names(SMALL, tie_word_embeddings=True)
    assert untied.params - f.params == 100 * 64


@pytest.mark.parametrize(
    ("model_type", "changes", "present", "absent"),
    [
        ("llama", {"attention_bias": True, "mlp_bias": True}, {"attn_output.bias": (64,), "ffn_gate.bias": (128,)}, ()),
        ("qwen2", {}, {"attn_q.bias": (64,), "attn_k.bias": (32,)}, ("attn_output.bias", "attn_q_norm.weight")),
        ("qwen3", {"head_dim": 32}, {"attn_q.weight": (128, 64), "attn_k_norm.weight": (32,)}, ("attn_q.bias",)),
        ("gemma2", {"head_dim": 16}, {"post_attention_norm.weight": (64,), "post_ffw_norm.weight": (64,)}, ()),
        ("gemma3_text", {"head_dim": 16}, {"attn_q_norm.weight": (16,), "post_ffw_norm.weight": (64,)}, ()),
        (
            "phi3",
            {},
            {"attn_qkv.weight": (128, 64), "ffn_up.weight": (256, 64), "ffn_down.weight": (64, 128)},
            ("attn_q.weight", "ffn_gate.weight"),
        ),
        ("olmo2", {}, {"attn_q_norm.weight": (64,), "attn_k_norm.weight": (32,)}, ("attn_norm.weight",)),
        ("stablelm", {"use_qkv_bias": True}, {"attn_norm.bias": (64,), "attn_v.bias": (32,)}, ("attn_output.bias",)),
        (
            "gpt_oss",
            {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2},
            {"attn_sinks.weight": (4,), "ffn_gate_inp.bias": (4,), "ffn_down_exps.bias": (4, 64)},
            ("ffn_norm.weight",),
        ),
        (
            "qwen2_moe",
            {
                "num_experts": 4,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 32,
                "shared_expert_intermediate_size": 96,
            },
            {
                "ffn_gate_exps.weight": (4, 32, 64),
                "ffn_gate_inp_shexp.weight": (64,),
                "ffn_down_shexp.weight": (64, 96),
            },
            ("ffn_gate.weight",),
        ),
    ],
)
def test_blocks_of_each_architecture(
    model_type: str, changes: dict[str, Any], present: dict[str, tuple[int, ...]], absent: tuple[str, ...]
) -> None:
    found = names(SMALL, model_type=model_type, **changes)
    assert {k: found.get(f"blk.1.{k}") for k in present} == present
    assert not [k for k in absent if f"blk.1.{k}" in found]


def test_every_known_type_has_a_family() -> None:
    assert all(isinstance(load(k.module), Family) for k in FAMILIES.values())


def test_experts_count_by_use() -> None:
    f = facts(SMALL, model_type="mixtral", num_local_experts=8, num_experts_per_tok=2)
    routed = 2 * 8 * 3 * 64 * 128
    assert f.params - f.active_params == routed * 6 // 8
    assert (f.experts, f.experts_used, f.expert_intermediate) == (8, 2, 128)


def test_leading_dense_layers() -> None:
    found = names(SMALL, model_type="qwen3_moe", num_experts=4, num_experts_per_tok=1, mlp_only_layers=[0], head_dim=16)
    assert "blk.0.ffn_gate.weight" in found
    assert "blk.1.ffn_gate_exps.weight" in found
    f = facts(SMALL, model_type="qwen3_moe", num_experts=4, num_experts_per_tok=1, mlp_only_layers=[1])
    assert f.confidence == "low"


def test_sliding_windows_are_those_of_the_engine() -> None:
    gemma = facts(SMALL, model_type="gemma2", sliding_window=4096)
    assert (gemma.sliding_window, gemma.sliding_pattern) == (4096, 2)
    gemma = facts(SMALL, model_type="gemma3_text", sliding_window=512, sliding_window_pattern=5)
    assert (gemma.sliding_window, gemma.sliding_pattern) == (512, 5)
    mistral = facts(SMALL, model_type="mistral", sliding_window=4096, max_position_embeddings=32768)
    assert mistral.sliding_window is None
    assert any("sliding window of 4096" in n for n in mistral.notes)
    qwen = facts(SMALL, model_type="qwen2", sliding_window=4096, use_sliding_window=False)
    assert qwen.sliding_window is None
    assert not qwen.notes


def test_longrope_tables_follow_the_rotated_part() -> None:
    f = facts(SMALL, model_type="phi3", rope_scaling={"type": "longrope"}, partial_rotary_factor=0.75)
    assert f.rope_factors == 6
    assert {t.name for t in computed(f) if t.name.startswith("rope_")} == {
        "rope_factors_long.weight",
        "rope_factors_short.weight",
    }
    assert count(computed(f), 0, 0)[0] == f.params == facts(SMALL, model_type="phi3").params


def test_text_part_of_a_multimodal_model() -> None:
    f = from_config({"model_type": "gemma3", "text_config": SMALL | {"model_type": "gemma3_text"}}, name="m", ref="m")
    assert f.architecture == "gemma3"
    assert any("images or sound" in n for n in f.notes)


def test_unknown_architecture_is_estimated_and_says_so() -> None:
    f = facts(SMALL, model_type="banana")
    assert f.confidence == "low"
    assert "low confidence: unknown architecture banana" in f.notes
    assert f.params == facts(SMALL).params
    f = from_config({"hidden_size": 256, "n_layer": 2, "vocab_size": 10, "num_experts": 16}, name="m", ref="m")
    assert f.confidence == "low"
    assert f.params > 0
    assert len(f.notes) == 3


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("num_hidden_layers", 10**9, "1000000000"),
        ("num_hidden_layers", -1, "-1"),
        ("num_hidden_layers", 0, "0"),
        ("num_hidden_layers", "32", "text"),
        ("num_hidden_layers", 32.0, "fraction"),
        ("num_hidden_layers", True, "truth value"),
        ("num_hidden_layers", None, "missing"),
        ("num_hidden_layers", [1], "list"),
        ("hidden_size", 10**12, "1000000000000"),
        ("hidden_size", 66, "66"),
        ("num_attention_heads", None, "missing"),
        ("num_key_value_heads", 3, "3"),
        ("num_key_value_heads", [2, 2], "differs by layer"),
        ("intermediate_size", None, "missing"),
        ("vocab_size", "\x1b[31mx", "text"),
        ("tie_word_embeddings", "yes", "yes"),
        ("attention_bias", 1, "true or false"),
        ("model_type", 5, "text"),
        ("layer_types", ["full_attention"], "2 layers"),
    ],
)
def test_bad_fields_are_named(field: str, value: Any, words: str) -> None:
    with pytest.raises(AdvisorError) as e:
        facts(SMALL, **{field: value})
    assert e.value.code == "untrusted-model-config"
    assert e.value.exit_code == 7
    assert field in e.value.message
    assert words in e.value.message
    assert "\x1b" not in e.value.message
    assert e.value.data["field"] == field


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"num_local_experts": 8}, "num_experts_per_tok"),
        ({"num_local_experts": 8, "num_experts_per_tok": 9}, "num_experts_per_tok"),
        ({"num_local_experts": 10**6, "num_experts_per_tok": 1}, "num_local_experts"),
    ],
)
def test_bad_experts_are_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(AdvisorError) as e:
        facts(SMALL, model_type="mixtral", **changes)
    assert e.value.data["field"] == field


def test_quantized_checkpoints_are_noted() -> None:
    f = facts(SMALL, quantization_config={"quant_method": "awq", "bits": 4})
    assert f.weights_dtype == "awq"
    assert "already quantized: awq, 4 bits" in f.notes


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.lists(st.integers(0, 4), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)
FIELDS = [*SMALL, "head_dim", "num_experts", "sliding_window", "rope_scaling", "text_config", "layer_types", "dtype"]


@given(st.dictionaries(st.sampled_from(FIELDS), ANYTHING, min_size=1, max_size=3), st.sampled_from(sorted(FAMILIES)))
@settings(max_examples=200, deadline=None)
def test_any_field_gives_facts_or_a_typed_error(changes: dict[str, Any], model_type: str) -> None:
    try:
        f = facts({**SMALL, "model_type": model_type}, **changes)
    except AdvisorError as e:
        assert e.code == "untrusted-model-config"
    else:
        assert 1 <= f.layers <= MAX_LAYERS
        assert 0 < f.active_params <= f.params


def test_roles() -> None:
    assert role_of("blk.3.ffn_gate_inp.weight") == ("ffn_gate_inp", 3)
    assert role_of("blk.3.ffn_down.7.weight") == ("ffn_down_exps", 3)
    assert role_of("blk.3.attn_q_norm.weight") == ("norm", 3)
    assert role_of("blk.3.attn_q.bias") == ("bias", 3)
    assert role_of("rope_freqs.weight") == ("other", None)
    assert role_of("output.weight") == ("output", None)
    assert role_of("v.patch_embd.weight") == ("other", None)
