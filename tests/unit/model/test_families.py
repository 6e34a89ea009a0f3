"""Every family: what configurations and GGUF headers say agrees, and no configuration makes a reader fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.errors import AdvisorError
from advisor.facts.model import ModelFacts
from advisor.model import gguf_facts
from advisor.model.architectures import from_config
from advisor.model.families import ARCHITECTURES, FAMILIES, load
from advisor.model.families.base import Family
from advisor.model.fields import MAX_LAYERS
from advisor.model.tensors import computed
from tests.support.gguf_writer import write_gguf
from tests.unit.model.configurations import PUBLISHED
from tests.unit.model.terms import terms, types

MLA: dict[str, Any] = {"kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16}
EXPERTS: dict[str, Any] = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SHARED: dict[str, Any] = {"n_shared_experts": 1, "first_k_dense_replace": 1}


def small(model_type: str, layers: int = 6, **more: Any) -> dict[str, Any]:
    return terms(model_type, layers, 64, 4, 2, 128, 96, **more)


# A configuration, and what llama.cpp's converter writes of it besides the general keys.
AGREEING: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (small("llama"), {}),
    (small("cohere2", sliding_window=16), {"attention.sliding_window": 16}),
    (small("cohere", use_qk_norm=True), {}),
    (small("starcoder2"), {}),
    (small("falcon", new_decoder_architecture=True, num_kv_heads=2), {}),
    (small("phi"), {}),
    (small("bloom"), {}),
    (small("gpt2", max_position_embeddings=32), {}),
    (small("glm4"), {"attention.key_length": 128}),
    (small("glm"), {"attention.key_length": 128}),
    (small("apertus"), {}),
    (small("exaone4"), {}),
    (small("seed_oss"), {"attention.key_length": 128}),
    (small("olmo3", sliding_window=16), {"attention.sliding_window": 16}),
    (
        small("llama4_text", num_local_experts=4, num_experts_per_tok=1, interleave_moe_layer_step=2, head_dim=16),
        {"expert_count": 4, "expert_used_count": 1, "expert_feed_forward_length": 128, "interleave_moe_layer_step": 2},
    ),
    (
        small("deepseek_v3", q_lora_rank=24, num_nextn_predict_layers=1, **MLA, **EXPERTS, **SHARED),
        {
            "attention.head_count_kv": 1,
            "attention.kv_lora_rank": 32,
            "attention.q_lora_rank": 24,
            "attention.key_length": 40,
            "attention.value_length": 32,
            "attention.key_length_mla": 24,
            "attention.value_length_mla": 16,
            "rope.dimension_count": 8,
            "expert_count": 4,
            "expert_used_count": 2,
            "expert_feed_forward_length": 16,
            "leading_dense_block_count": 1,
        },
    ),
    (
        small("glm4_moe", num_nextn_predict_layers=1, **EXPERTS, **SHARED),
        {
            "block_count": 7,
            "attention.key_length": 128,
            "nextn_predict_layers": 1,
            "expert_count": 4,
            "expert_used_count": 2,
            "expert_feed_forward_length": 16,
            "leading_dense_block_count": 1,
        },
    ),
    (
        small("gemma4_text", layer_types=types(6, 3), num_kv_shared_layers=2, head_dim=16, global_head_dim=32),
        {
            "attention.key_length": 32,
            "attention.key_length_swa": 16,
            "attention.sliding_window": 512,
            "attention.sliding_window_pattern": [t == "sliding_attention" for t in types(6, 3)],
            "attention.shared_kv_layers": 2,
            "embedding_length_per_layer_input": 256,
        },
    ),
    (
        terms("gemma3n_text", 25, 64, 4, 2, 128, 96, layer_types=types(25, 5), head_dim=16),
        {
            "attention.key_length": 16,
            "attention.sliding_window": 512,
            "attention.sliding_window_pattern": [t == "sliding_attention" for t in types(25, 5)],
            "attention.shared_kv_layers": 15,
            "embedding_length_per_layer_input": 256,
        },
    ),
]


def written(folder: Path, facts: ModelFacts, more: dict[str, Any]) -> Path:
    """A GGUF file of the tensors that follow from a configuration."""
    general = {
        "block_count": facts.layers,
        "embedding_length": facts.hidden,
        "attention.head_count": facts.heads,
        "attention.head_count_kv": facts.kv_heads,
        "feed_forward_length": facts.intermediate,
        "context_length": facts.context_max or 64,
        **more,
    }
    meta = {"general.architecture": facts.architecture, **{f"{facts.architecture}.{k}": v for k, v in general.items()}}
    return write_gguf(folder / "m.gguf", meta, [(t.name, t.shape, "f16") for t in computed(facts)])


@pytest.mark.parametrize(("config", "more"), AGREEING, ids=[c["model_type"] for c, _ in AGREEING])
def test_configuration_and_header_agree(tmp_path: Path, config: dict[str, Any], more: dict[str, Any]) -> None:
    wanted = from_config(config, name="m", ref="m")
    path = written(tmp_path, wanted, more)
    found = gguf_facts.facts(path, ref="m")
    same = (
        *("architecture", "layers", "hidden", "heads", "kv_heads", "head_dim", "intermediate", "vocab"),
        *("params", "active_params", "experts", "experts_used", "expert_intermediate", "dense_layers"),
        *("sliding_window", "tie_embeddings", "layer_kinds"),
    )
    assert {n: getattr(found, n) for n in same} == {n: getattr(wanted, n) for n in same}
    shared = {k: v for k, v in wanted.widths.items() if k in found.widths}
    assert shared == {k: found.widths[k] for k in shared}
    assert found.confidence == "exact", found.notes
    path.unlink()
    assert computed(found)  # without the file, too


def test_every_type_has_a_family() -> None:
    for known in FAMILIES.values():
        assert isinstance(load(known.module), Family)
        assert ARCHITECTURES[known.arch]


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-2, 70),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.lists(st.integers(-1, 4), max_size=7),
    st.lists(st.sampled_from(["full_attention", "sliding_attention", "x"]), max_size=7),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)
EXTRA = (
    *("head_dim", "sliding_window", "sliding_window_pattern", "rope_scaling", "rope_parameters", "layer_types"),
    *("num_local_experts", "num_experts", "moe_topk", "num_shared_expert", "mlp_layer_types", "mlp_only_layers"),
    *("use_qk_norm", "attention_bias", "tie_word_embeddings", "quantization_config", "num_nextn_predict_layers"),
    *("global_head_dim", "num_global_key_value_heads", "num_kv_shared_layers", "hidden_size_per_layer_input"),
    *("attention_k_eq_v", "enable_moe_block", "use_double_wide_mlp", "altup_num_inputs", "laurel_rank"),
    *("intermediate_size_mlp", "interleave_moe_layer_step", "index_n_heads", "index_head_dim", "per_layer_config"),
    *("multi_query", "new_decoder_architecture", "num_kv_heads", "padded_vocab_size", "kv_channels"),
    *("partial_rotary_factor", "dtype", "vision_config", "moe_layer_freq", "max_position_embeddings", "n_inner"),
)
CONFIGURATIONS = [
    *(c for c, _ in AGREEING),
    *(small(t, **EXPERTS, **SHARED, **MLA, layer_types=types(6, 3)) for t in FAMILIES),
]


def sane(facts: ModelFacts) -> None:
    assert 1 <= facts.layers <= MAX_LAYERS
    assert 0 < facts.active_params <= facts.params
    assert not facts.layer_kinds or len(facts.layer_kinds) == facts.layers
    assert all(d > 0 for t in computed(facts) for d in t.shape)
    assert all(isinstance(v, int) and v >= 0 for v in facts.widths.values())
    assert facts.vision_params is None or facts.vision_params > 0
    assert facts.confidence in ("derived", "low")


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_mutated_configurations_give_facts_or_a_typed_error(data: st.DataObject) -> None:
    config = data.draw(st.sampled_from(CONFIGURATIONS))
    names = st.sampled_from([*config, *EXTRA])
    changes = data.draw(st.dictionaries(names, ANYTHING, min_size=1, max_size=3))
    removed = data.draw(st.sets(names, max_size=1))
    mutated = {k: v for k, v in {**config, **changes}.items() if k not in removed}
    try:
        facts = from_config(mutated, name="m", ref="m")
    except AdvisorError as e:
        assert e.code == "untrusted-model-config"
    else:
        sane(facts)


@given(st.sampled_from(sorted(PUBLISHED)), st.dictionaries(st.sampled_from(EXTRA), ANYTHING, max_size=2))
@settings(max_examples=60, deadline=None)
def test_mutated_real_configurations(name: str, changes: dict[str, Any]) -> None:
    config = PUBLISHED[name].config
    inner = config.get("text_config")
    mutated = {**config, "text_config": {**inner, **changes}} if inner else {**config, **changes}
    try:
        facts = from_config(mutated, name=name, ref=name)
    except AdvisorError as e:
        assert e.code == "untrusted-model-config"
    else:
        sane(facts)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (small("gemma4_text", num_global_key_value_heads=3, attention_k_eq_v=True), "num_global_key_value_heads"),
        (small("gemma3n_text", intermediate_size=[1, 2, 3, 4, 5, 6]), "intermediate_size"),
        (small("deepseek_v3", **{**MLA, "kv_lora_rank": -1}), "kv_lora_rank"),
        (small("deepseek_v3", **{**MLA, "qk_rope_head_dim": "64"}), "qk_rope_head_dim"),
        (small("glm4_moe", num_nextn_predict_layers=10**9), "num_nextn_predict_layers"),
        (small("llama4_text", interleave_moe_layer_step=0), "interleave_moe_layer_step"),
        (small("cohere", use_qk_norm="yes"), "use_qk_norm"),
        (small("exaone4", layer_types=["full_attention"]), "layer_types"),
        (
            small("deepseek_v3", **MLA, **{**EXPERTS, "moe_intermediate_size": 17, "n_shared_experts": 65_536}),
            "n_shared_experts",
        ),
    ],
)
def test_impossible_values_name_the_field(config: dict[str, Any], field: str) -> None:
    with pytest.raises(AdvisorError) as e:
        from_config(config, name="m", ref="m")
    assert e.value.code == "untrusted-model-config"
    assert e.value.data == {"field": field}
    assert field in e.value.message


def test_unknown_architecture_with_sizes_by_layer() -> None:
    found = from_config(small("banana", num_key_value_heads=[1, 2, 4]), name="m", ref="m")
    assert (found.kv_heads, found.confidence) == (4, "low")
    assert any("num_key_value_heads differ by layer" in n for n in found.notes)


def test_falcon_norms() -> None:
    def norms(**more: Any) -> set[str]:
        made = computed(from_config(small("falcon", **more), name="m", ref="m"))
        return {t.name.split(".", 2)[2] for t in made if t.name.startswith("blk.0.attn_norm")}

    assert norms(num_key_value_heads=1) == {"attn_norm.weight", "attn_norm.bias"}
    assert "attn_norm_2.weight" in norms(new_decoder_architecture=True)
    assert "attn_norm_2.weight" not in norms(new_decoder_architecture=True, num_ln_in_parallel_attn=1)


@pytest.mark.parametrize("key", ["attention.shared_kv_layers", "nextn_predict_layers", "attention.sliding_window"])
def test_absurd_metadata_is_refused_or_left_out(tmp_path: Path, key: str) -> None:
    wanted = from_config(AGREEING[-2][0], name="m", ref="m")
    for value in (2**31, 10**6, "many", -5):
        path = written(tmp_path, wanted, {**AGREEING[-2][1], key: value})
        try:
            found = gguf_facts.facts(path, ref="m")
        except AdvisorError as e:
            assert e.code == "untrusted-model-header"
        else:
            assert found.layers == 6
            assert len(found.layer_kinds) == 6


def test_contexts_that_configurations_understate() -> None:
    def context(config: dict[str, Any]) -> int | None:
        return from_config(config, name="m", ref="m").context_max

    assert context(small("cohere", max_position_embeddings=8192, model_max_length=131_072)) == 131_072
    assert context(small("cohere", max_position_embeddings=8192)) == 8192
    assert context(small("falcon")) == 2048
    dynamic = {"rope_scaling": {"type": "dynamic", "alpha": 1000.0}, "max_position_embeddings": 32_768}
    assert context(small("hunyuan_v1_dense", **dynamic)) == 262_144
    assert context(small("hunyuan_v1_dense", max_position_embeddings=32_768)) == 32_768


SEEN = [name for name, p in PUBLISHED.items() if "vision_config" in p.config]
VISION = (
    *("hidden_size", "embed_dim", "intermediate_size", "depth", "num_hidden_layers", "patch_size", "image_size"),
    *("out_hidden_size", "spatial_merge_size", "temporal_patch_size", "num_position_embeddings", "model_type"),
    *("deepstack_visual_indexes", "projector_input_dim", "vision_output_dim", "position_embedding_size", "head_dim"),
)


@given(st.sampled_from(SEEN), st.dictionaries(st.sampled_from(VISION), ANYTHING, min_size=1, max_size=3))
@settings(max_examples=100, deadline=None)
def test_mutated_vision_parts(name: str, changes: dict[str, Any]) -> None:
    config = PUBLISHED[name].config
    try:
        facts = from_config({**config, "vision_config": {**config["vision_config"], **changes}}, name=name, ref=name)
    except AdvisorError as e:
        assert e.code == "untrusted-model-config"
        assert "vision_config" in e.message
    else:
        sane(facts)
