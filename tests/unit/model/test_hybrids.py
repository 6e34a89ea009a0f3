"""Hybrid architectures from their configurations: tensors, kinds of layers, widths, and what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.errors import AdvisorError
from advisor.facts.model import ModelFacts
from advisor.model.architectures import from_config
from advisor.model.tensors import computed
from tests.support.architectures import CONFIGS, facts

LFM2: dict[str, Any] = {
    "model_type": "lfm2",
    "hidden_size": 1024,
    "block_ff_dim": 6656,
    "block_auto_adjust_ff_dim": True,
    "block_ffn_dim_multiplier": 1.0,
    "block_multiple_of": 256,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "vocab_size": 65536,
    "conv_L_cache": 3,
    "full_attn_idxs": [2, 5, 8, 10, 12, 14],
}
GRANITE: dict[str, Any] = {
    "model_type": "granitemoehybrid",
    "hidden_size": 1536,
    "num_hidden_layers": 4,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "vocab_size": 100352,
    "tie_word_embeddings": True,
    "mamba_d_state": 128,
    "mamba_n_groups": 1,
    "mamba_n_heads": 48,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "layer_types": ["mamba", "attention", "mamba", "mamba"],
    "intermediate_size": 512,
    "shared_intermediate_size": 1024,
    "num_local_experts": 64,
    "num_experts_per_tok": 6,
}


def read(config: dict[str, Any]) -> ModelFacts:
    return from_config(config, name="x", ref="x")


def shapes(model: ModelFacts) -> dict[str, tuple[int, ...]]:
    return {t.name: t.shape for t in computed(model)}


# Published: the makers' model cards and llama.cpp's own figures, in billions.
@pytest.mark.parametrize(
    ("model", "billions", "active"),
    [
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", 79.67, None),
        ("Qwen/Qwen3.5-35B-A3B", 34.66, None),
        ("Qwen/Qwen3.5-122B-A10B", 122.11, None),
        ("ibm-granite/granite-4.0-h-tiny", 6.94, None),
        ("ibm-granite/granite-4.0-h-1b", 1.46, None),
        ("tiiuae/Falcon-H1-0.5B-Instruct", 0.521, None),
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", 31.58, 3.6),
        ("nvidia/NVIDIA-Nemotron-Nano-9B-v2", 8.89, None),
        ("LiquidAI/LFM2-1.2B", 1.17, None),
        ("LiquidAI/LFM2-8B-A1B", 8.34, 1.5),
        ("ai21labs/Jamba-v0.1", 51.57, 12.1),
        ("mistralai/Mamba-Codestral-7B-v0.1", 7.285, None),
        ("tiiuae/falcon-mamba-7b", 7.27, None),
        ("moonshotai/Kimi-Linear-48B-A3B-Instruct", 49.12, 3.5),
    ],
)
def test_weights_are_as_many_as_published(model: str, billions: float, active: float | None) -> None:
    found = facts(model)
    assert found.confidence == "derived"
    assert found.params / 1e9 == pytest.approx(billions, rel=0.002)
    if active is not None:
        assert found.active_params / 1e9 == pytest.approx(active, rel=0.05)


def test_delta_net_and_gated_attention() -> None:
    model = facts("Qwen/Qwen3.5-9B")
    assert model.architecture == "qwen35"
    assert model.layer_kinds == ("recurrent", "recurrent", "recurrent", "full") * 8
    found = shapes(model)
    assert found["blk.0.attn_qkv.weight"] == (2 * 16 * 128 + 32 * 128, 4096)
    assert found["blk.0.attn_gate.weight"] == (32 * 128, 4096)
    assert found["blk.0.ssm_conv1d.weight"] == (8192, 4)
    assert found["blk.3.attn_q.weight"] == (2 * 16 * 256, 4096)
    assert found["blk.3.attn_output.weight"] == (4096, 16 * 256)
    # A block for multi-token prediction follows the layers: in the file, not in the count.
    assert found["blk.32.nextn.eh_proj.weight"] == (4096, 8192)
    assert "blk.32.ssm_out.weight" not in found
    fused = shapes(facts("Qwen/Qwen3-Next-80B-A3B-Instruct"))
    assert fused["blk.0.ssm_ba.weight"] == (64, 2048)
    assert fused["blk.0.ffn_gate_inp_shexp.weight"] == (2048,)


def test_layers_of_one_kind_each() -> None:
    model = facts("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16")
    assert set(model.layer_kinds) == {"recurrent", "full", "none"}
    assert model.layer_kinds.count("full") == 6
    found = shapes(model)
    by_layer = [{n.split(".", 2)[2] for n in found if n.startswith(f"blk.{i}.")} for i in range(model.layers)]
    for kind, names in zip(model.layer_kinds, by_layer, strict=True):
        assert ("ssm_in.weight" in names) == (kind == "recurrent")
        assert ("attn_q.weight" in names) == (kind == "full")
        assert ("ffn_up_exps.weight" in names) == (kind == "none")
        assert "ffn_gate_exps.weight" not in names
    narrow = shapes(facts("nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16"))
    assert narrow["blk.1.ffn_latent_down.weight"] == (1024, 4096)
    assert narrow["blk.1.ffn_up_exps.weight"] == (512, 2688, 1024)


def test_granite_without_state_is_another_architecture() -> None:
    model = read(GRANITE)
    assert model.architecture == "granitehybrid"
    assert model.layer_kinds == ("recurrent", "full", "recurrent", "recurrent")
    assert shapes(model)["blk.0.ssm_in.weight"] == (3072 + 3072 + 2 * 128 + 48, 1536)
    assert shapes(model)["blk.1.ffn_down_shexp.weight"] == (1536, 1024)
    plain = read({**GRANITE, "layer_types": ["attention"] * 4, "num_local_experts": 0, "num_experts_per_tok": 0})
    assert plain.architecture == "granite"
    assert plain.layer_kinds == ()
    assert shapes(plain)["blk.0.ffn_up.weight"] == (1024, 1536)
    assert read({**GRANITE, "layer_types": ["attention"] * 4}).architecture == "granitemoe"


def test_attention_and_state_in_one_layer() -> None:
    model = facts("tiiuae/Falcon-H1-0.5B-Instruct")
    assert set(model.layer_kinds) == {"both"}
    found = shapes(model)
    assert found["blk.0.ssm_in.weight"] == (1536 + 1536 + 2 * 128 + 24, 1024)
    assert found["blk.0.attn_k.weight"] == (128, 1024)
    assert found["blk.0.ffn_norm"] == (1024,)
    assert "blk.0.ssm_norm.weight" not in found


def test_the_width_that_lfm2_derives() -> None:
    model = read(LFM2)
    assert model.intermediate == 4608  # two thirds of 6656, rounded up to 256
    assert model.tie_embeddings
    assert model.layer_kinds.count("full") == 6
    assert "token_embd_norm.weight" in shapes(model)
    assert "output_norm.weight" not in shapes(model)
    named = {k: v for k, v in LFM2.items() if not k.startswith("block")}
    assert read({**named, "intermediate_size": 4608}).intermediate == 4608
    assert read({**LFM2, "block_auto_adjust_ff_dim": False}).intermediate == 6656


def test_states_without_attention_have_no_heads() -> None:
    for name in ("mistralai/Mamba-Codestral-7B-v0.1", "tiiuae/falcon-mamba-7b"):
        model = facts(name)
        assert (model.heads, model.kv_heads, model.head_dim, model.intermediate) == (0, 0, 0, 0)
        assert set(model.layer_kinds) == {"recurrent"}
    auto = read({**CONFIGS["tiiuae/falcon-mamba-7b"], "time_step_rank": "auto"})
    assert auto.widths["ssm.time_step_rank"] == 256


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({**CONFIGS["moonshotai/Kimi-Linear-48B-A3B-Instruct"], "linear_attn_config": None}, "linear_attn_config"),
        (
            {**CONFIGS["moonshotai/Kimi-Linear-48B-A3B-Instruct"], "linear_attn_config": {"full_attn_layers": [0]}},
            "full_attn_layers",
        ),
        ({**LFM2, "full_attn_idxs": [[2], {}]}, "full_attn_idxs"),
        ({**LFM2, "full_attn_idxs": [2, 16]}, "full_attn_idxs"),
        ({**GRANITE, "layer_types": None, "attn_layer_indices": [True]}, "attn_layer_indices"),
        ({**GRANITE, "layer_types": ["mamba", "attention"]}, "layer_types"),
        ({**GRANITE, "mamba_n_heads": 0}, "mamba_n_heads"),
        ({**GRANITE, "mamba_d_state": "128"}, "mamba_d_state"),
        ({**LFM2, "conv_L_cache": -3}, "conv_L_cache"),
        ({**CONFIGS["ai21labs/Jamba-v0.1"], "attn_layer_period": 0}, "attn_layer_period"),
    ],
)
def test_impossible_values_name_the_field(config: dict[str, Any], field: str) -> None:
    with pytest.raises(AdvisorError) as e:
        read(config)
    assert e.value.code == "untrusted-model-config"
    assert e.value.data == {"field": field}
    assert field in e.value.message


def test_a_pattern_with_an_unknown_letter_is_refused() -> None:
    config = {
        "model_type": "nemotron_h",
        "hidden_size": 64,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "intermediate_size": 128,
        "vocab_size": 256,
        "hybrid_override_pattern": "M*X",
    }
    with pytest.raises(AdvisorError, match='names "X"'):
        read(config)
    with pytest.raises(AdvisorError, match="layers_block_type"):
        read({**config, "hybrid_override_pattern": None, "num_hidden_layers": 3})
    assert read({**config, "hybrid_override_pattern": "M*-"}).layer_kinds == ("recurrent", "full", "none")


def test_facts_without_the_sizes_that_layers_are_built_from_are_refused() -> None:
    """Facts may come from a file (``--model-facts``), which anybody may have shortened."""
    for config in (LFM2, GRANITE):
        bare = msgspec.structs.replace(read(config), widths={})
        with pytest.raises(AdvisorError, match="lack sizes") as e:
            computed(bare)
        assert e.value.code == "untrusted-model-config"


WORDS = st.text(max_size=6) | st.integers(-4, 1 << 40) | st.none() | st.booleans() | st.lists(st.integers(-2, 9))


@given(
    base=st.sampled_from([LFM2, GRANITE, *CONFIGS.values()]),
    changes=st.dictionaries(st.sampled_from(sorted({*LFM2, *GRANITE} - {"model_type"})), WORDS, max_size=3),
)
def test_any_configuration_is_read_or_refused(base: dict[str, Any], changes: dict[str, Any]) -> None:
    limits = {"num_hidden_layers": 24, "num_local_experts": 64}
    changes = {k: min(v, limits[k]) if k in limits and isinstance(v, int) else v for k, v in changes.items()}
    try:
        model = read({**base, **changes})
    except AdvisorError as e:
        assert e.code == "untrusted-model-config"
        return
    assert model.params > 0
    assert all(d > 0 for t in computed(model) for d in t.shape)
    assert msgspec.json.decode(msgspec.json.encode(model), type=ModelFacts) == model
