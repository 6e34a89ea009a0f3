"""Types of tensors and sizes of files."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.cost.gguf_file import file_bytes, stored_types, weight_map
from advisor.cost.gguf_mix import DEFAULTS, assign, category, fallbacks, imatrix_need, more_bits
from advisor.cost.gguf_rules import OTHERS
from advisor.cost.gguf_types import BLOCKS, row_bytes, tensor_bytes
from advisor.cost.work import bytes_read, types_read, weights_of
from advisor.errors import AdvisorError
from advisor.facts.model import TensorSpec
from advisor.facts.words import GGUF_FORMATS
from advisor.model.bundled import get
from advisor.model.tensors import computed
from tests.support import shapes

LLAMA = shapes.KNOWN["llama-3.1-8b"]
MODEL, TENSORS = shapes.facts(LLAMA), shapes.tensors(LLAMA)
# Bits a weight of whole Llama-3.1-8B files: llama.cpp tools/quantize/README.md.
PUBLISHED = {
    "iq4_xs": 4.4597, "iq4_nl": 4.6818, "q2_k": 3.1593, "q3_k_s": 3.6429, "q3_k_m": 3.9960, "q3_k_l": 4.2979,
    "q4_k_s": 4.6672, "q4_k_m": 4.8944, "q5_k_s": 5.5704, "q5_k_m": 5.7036, "q6_k": 6.5633, "q8_0": 8.5008,
}  # fmt: skip


@pytest.mark.parametrize("fmt", PUBLISHED)
def test_bits_a_weight_are_the_published_ones(fmt: str) -> None:
    loaded = weight_map(MODEL, TENSORS, fmt, imatrix=False).loaded
    assert loaded * 8 / MODEL.params == pytest.approx(PUBLISHED[fmt], rel=2e-4)
    whole = file_bytes(MODEL, TENSORS, fmt)
    assert whole.low <= whole.value <= whole.high
    assert whole.value * 8 / MODEL.params == pytest.approx(PUBLISHED[fmt], rel=2.5e-3)


@pytest.mark.parametrize(
    ("name", "size"), [("llama-3.1-8b", 4.9155e9), ("qwen2.5-7b", 4.680e9), ("llama-3.3-70b", 42.515e9)]
)
def test_files_of_known_models(name: str, size: float) -> None:
    arch = shapes.KNOWN[name]
    q = file_bytes(shapes.facts(arch), shapes.tensors(arch), "q4_k_m")
    assert q.value == pytest.approx(size, rel=2e-3)


def counts(name: str, fmt: str, *, imatrix: bool = False) -> Counter[str]:
    arch = shapes.KNOWN[name]
    return Counter(a.type for a in assign(shapes.facts(arch), shapes.tensors(arch), fmt, imatrix=imatrix))


def test_narrow_rows_fall_back() -> None:
    assert counts("smollm2-135m", "q4_k_m") == {"f32": 61, "q5_0": 166, "q8_0": 15, "q6_k": 14, "q4_k": 16}
    assert counts("smollm2-135m", "q5_k_m") == {"f32": 61, "q5_1": 166, "q8_0": 15, "q6_k": 14, "q5_k": 16}
    assert counts("smollm2-135m", "q2_k") == {"f32": 61, "q4_0": 180, "q8_0": 1, "q3_k": 30}
    assert counts("smollm2-135m", "q6_k") == {"f32": 61, "q8_0": 181, "q6_k": 30}
    arch = shapes.KNOWN["smollm2-135m"]
    assigned = assign(shapes.facts(arch), shapes.tensors(arch), "q4_k_m", imatrix=False)
    assert fallbacks(assigned) == {"q4_k->q5_0": 166, "q6_k->q8_0": 15}
    assert sum(a.fallback for a in assigned) == 181
    assert fallbacks(assign(MODEL, TENSORS, "q4_k_m", imatrix=False)) == {}


def test_sizes_of_a_narrow_model() -> None:
    arch = shapes.KNOWN["smollm2-135m"]
    for fmt, size in {"q8_0": 144_811_072, "q6_k": 138_382_912, "f16": 270_885_728}.items():
        q = file_bytes(shapes.facts(arch), shapes.tensors(arch), fmt)
        assert q.value == pytest.approx(size, rel=2.5e-3)
        assert q.low <= size <= q.high


def test_a_matrix_changes_types() -> None:
    assert counts("llama-3.1-8b", "q4_0", imatrix=True)["q4_1"] == 4
    assert counts("llama-3.1-8b", "q4_0")["q4_1"] == 0
    assert counts("llama-3.1-8b", "iq4_xs")["q5_k"] == 32 + 4
    assert counts("llama-3.1-8b", "iq4_xs", imatrix=True)["q5_k"] == 32


def test_eighty_layers_and_eight_experts() -> None:
    arch = shapes.KNOWN["llama-3.3-70b"]
    by_name = {a.tensor.name: a.type for a in assign(shapes.facts(arch), shapes.tensors(arch), "q4_k_m", imatrix=False)}
    assert by_name["blk.20.attn_v.weight"] == "q5_k"
    arch = shapes.KNOWN["mixtral-8x7b"]
    by_name = {a.tensor.name: a.type for a in assign(shapes.facts(arch), shapes.tensors(arch), "q4_k_m", imatrix=False)}
    assert by_name["blk.3.attn_k.weight"] == by_name["blk.3.attn_v.weight"] == "q8_0"
    assert by_name["blk.3.attn_output.weight"] == "q5_k"
    assert by_name["blk.3.ffn_gate_inp.weight"] == "f32"


@pytest.mark.parametrize("name", shapes.KNOWN)
@pytest.mark.parametrize("fmt", DEFAULTS)
def test_every_row_holds_whole_blocks(name: str, fmt: str) -> None:
    arch = shapes.KNOWN[name]
    for a in assign(shapes.facts(arch), shapes.tensors(arch), fmt, imatrix=True):
        assert a.tensor.width % BLOCKS[a.type][0] == 0
        assert tensor_bytes(a.tensor, a.type) > 0
        if len(a.tensor.shape) == 1:
            assert a.type == "f32"


@given(
    layers=st.integers(1, 40),
    hidden=st.integers(1, 40),
    unit=st.sampled_from([32, 48, 256]),
    fmt=st.sampled_from(list(DEFAULTS)),
    imatrix=st.booleans(),
)
def test_any_shape_gets_types(layers: int, hidden: int, unit: int, fmt: str, imatrix: bool) -> None:
    arch = LLAMA._replace(layers=layers, hidden=hidden * unit, ff=2 * hidden * unit, heads=4, kv=2, dim=32, vocab=64)
    tensors = shapes.tensors(arch)
    assigned = assign(shapes.facts(arch), tensors, fmt, imatrix=imatrix)
    assert tuple(a.tensor for a in assigned) == tensors
    for a in assigned:
        assert a.tensor.width % BLOCKS[a.type][0] == 0
        assert a.fallback == (a.type != a.wanted)


def test_order_of_tensors_does_not_matter() -> None:
    turned = tuple(reversed(TENSORS))
    one = {a.tensor.name: a.type for a in assign(MODEL, TENSORS, "q3_k_m", imatrix=False)}
    other = {a.tensor.name: a.type for a in assign(MODEL, turned, "q3_k_m", imatrix=False)}
    assert one == other


def test_known_formats_and_unknown_ones() -> None:
    assert set(DEFAULTS) == set(GGUF_FORMATS)
    with pytest.raises(AdvisorError) as e:
        assign(MODEL, TENSORS, "q4_k", imatrix=False)
    assert e.value.code == "bad-option"
    assert imatrix_need("iq2_xxs") == imatrix_need("q2_k_s") == "required"
    assert imatrix_need("q2_k") == imatrix_need("q4_k_m") == "recommended"
    assert imatrix_need("q8_0") == imatrix_need("f16") == "none"


def test_rows_and_names() -> None:
    assert row_bytes("q4_k", 4096) == 16 * 144
    with pytest.raises(ValueError, match="whole q4_k blocks"):
        row_bytes("q4_k", 576)
    assert more_bits(0, 32) and more_bits(31, 32) and more_bits(6, 32) and not more_bits(5, 32)
    assert category("blk.0.attn_qkv.weight") == "attn_v"
    assert category("blk.0.ffn_down_exps.weight") == "ffn_down"
    assert category("blk.0.ssm_in.weight") == "other"


def test_a_files_own_types_are_kept() -> None:
    arch = shapes.KNOWN["smollm2-135m"]
    stored = tuple(
        TensorSpec(
            name=t.name, shape=t.shape, role=t.role, layer=t.layer, gguf_type="q4_1" if len(t.shape) > 1 else "f32"
        )
        for t in shapes.tensors(arch)
    )
    model = shapes.facts(arch, kind="gguf", weights_format="gguf", weights_bytes=98_362_432)
    assert stored_types(model, stored, "q4_1")
    assert not stored_types(model, stored, "q4_k_m")
    assert not stored_types(shapes.facts(arch), stored, "q4_1")
    own = weight_map(model, stored, "q4_1", imatrix=False)
    assert {a.type for a in own.assigned} == {"q4_1", "f32"}
    assert own.file.value == 98_362_432
    assert own.file.method == "exact"
    made = weight_map(model, stored, "q4_1", imatrix=False, as_is=False)
    assert {a.type for a in made.assigned} == {"q4_1", "f32", "q8_0"}


def test_layers_for_prediction_of_several_tokens_are_not_loaded() -> None:
    arch = LLAMA._replace(layers=3)
    extra = (
        TensorSpec(name="blk.3.nextn.eh_proj.weight", shape=(4096, 8192), role="other", layer=3),
        TensorSpec(name="blk.3.attn_q.weight", shape=(4096, 4096), role="attn_q", layer=3),
    )
    tensors = shapes.tensors(arch) + extra
    model = shapes.facts(arch)
    plain = weight_map(model, shapes.tensors(arch), "q8_0", imatrix=False)
    longer = weight_map(model, tensors, "q8_0", imatrix=False)
    assert longer.loaded == plain.loaded
    assert longer.not_loaded == (4096 * 8192 + 4096 * 4096) * 34 // 32
    assert longer.file.value > plain.file.value + longer.not_loaded


# With a matrix where the quantizer asks for one: llama.cpp tools/quantize/README.md.
SMALL = {
    "iq1_s": 2.0042, "iq1_m": 2.1460, "iq2_xxs": 2.3824, "iq2_xs": 2.5882, "iq2_s": 2.7403, "iq2_m": 2.9294,
    "iq3_xxs": 3.2548, "iq3_xs": 3.4977, "iq3_s": 3.6606, "iq3_m": 3.7628, "q2_k_s": 2.9697,
}  # fmt: skip


@pytest.mark.parametrize("fmt", SMALL)
def test_types_that_others_make_are_sized_too(fmt: str) -> None:
    loaded = weight_map(MODEL, TENSORS, fmt, imatrix=True).loaded
    assert loaded * 8 / MODEL.params == pytest.approx(SMALL[fmt], rel=2e-5)
    assert imatrix_need(fmt) == ("recommended" if fmt in ("iq3_s", "iq3_m") else "required")


def test_experts_alone_get_mxfp4() -> None:
    assert counts("qwen3-30b-a3b", "mxfp4") == {"f32": 5 * 48 + 1, "q8_0": 4 * 48 + 2, "mxfp4": 3 * 48}
    arch = shapes.KNOWN["qwen3-30b-a3b"]
    assert fallbacks(assign(shapes.facts(arch), shapes.tensors(arch), "mxfp4", imatrix=False)) == {}


def test_eight_experts_in_the_smallest_types() -> None:
    arch = shapes.KNOWN["mixtral-8x7b"]
    by_name = {a.tensor.name: a.type for a in assign(shapes.facts(arch), shapes.tensors(arch), "iq2_m", imatrix=True)}
    assert by_name["blk.9.attn_k.weight"] == by_name["blk.9.attn_v.weight"] == "q4_k"
    assert by_name["blk.9.attn_output.weight"] == "q5_k"
    assert by_name["blk.3.ffn_down_exps.weight"] == "iq3_s"
    assert by_name["blk.4.ffn_down_exps.weight"] == "iq2_s"


def test_a_matrix_decides_where_it_is_not_required() -> None:
    without = {a.tensor.name: a.type for a in assign(MODEL, TENSORS, "iq3_xxs", imatrix=False)}
    assert without["blk.0.ffn_down.weight"] == "q4_k"
    assert without["blk.20.ffn_down.weight"] == "q3_k"
    assert counts("llama-2-7b", "iq3_xxs")["iq3_s"] == 32 + 32 + 1
    assert counts("llama-2-7b", "iq3_xxs", imatrix=True)["iq3_s"] == 32 + 1


@given(st.sampled_from(sorted(OTHERS)), st.sampled_from(sorted(shapes.KNOWN)))
def test_rows_of_other_types_hold_whole_blocks(fmt: str, name: str) -> None:
    arch = shapes.KNOWN[name]
    for a in assign(shapes.facts(arch), shapes.tensors(arch), fmt, imatrix=True):
        assert a.tensor.width % BLOCKS[a.type][0] == 0


def test_a_token_reads_a_row_of_an_embedding_by_layer() -> None:
    """Gemma 3n's embeddings for every layer are a third of its weights, and none of its arithmetic."""
    model = get("google/gemma-3n-E4B-it")
    assert model is not None
    laid = weight_map(model, computed(model), "q8_0", imatrix=False)
    table = next(p for p in laid.parts if p.name == "per_layer_token_embd.weight")
    read = bytes_read(laid, model)
    assert table.bytes > sum(read.values()) / 2
    assert read["q8_0"] == sum(p.bytes for p in laid.parts if p.type == "q8_0" and p.matrix) - table.bytes
    shares = dict(types_read(laid, model))
    assert sum(shares.values()) == pytest.approx(1)
    total = sum(weights_of(kind, size) for kind, size in read.items())
    assert shares["q8_0"] == pytest.approx(weights_of("q8_0", read["q8_0"]) / total)
