"""Sizes of checkpoints against files that were really written: SmolLM2-135M-Instruct, cut to two layers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.cost.formats import checkpoint, packing
from advisor.facts.recipe import Recipe
from tests.support import shapes

ARCH = shapes.KNOWN["smollm2-135m"]._replace(layers=2)
MODEL, TENSORS = shapes.facts(ARCH), shapes.tensors(ARCH)
HEADER = 6_800  # bytes of the largest of these files' headers, which count as no weights

# Bytes of model.safetensors as llm-compressor 0.14.0.1 wrote it.
WRITTEN: list[tuple[dict[str, Any], int]] = [
    ({"method": "rtn", "format": "w4a16-g64", "group_size": 64}, 60_394_400),
    ({"method": "rtn", "format": "w4a16-g32", "group_size": 32}, 60_615_592),
    ({"method": "rtn", "format": "w8a16-g64", "bits": 8, "group_size": 64}, 63_933_352),
    ({"method": "awq", "format": "w4a16-g64", "group_size": 64, "symmetric": False}, 60_451_296),
    ({"method": "gptq", "format": "w4a16-g64", "group_size": 64, "desc_act": True}, 60_394_400),
    ({"method": "gptq", "format": "w3a16-g64", "bits": 3, "group_size": 64}, 59_509_656),
    ({"method": "w8a8", "format": "w8a8", "bits": 8}, 63_731_232),
    ({"method": "fp8", "format": "fp8", "bits": 8}, 63_731_304),
    ({"method": "fp8", "format": "fp8", "bits": 8, "static_activations": True}, 63_712_072),
    ({"method": "nvfp4", "format": "nvfp4", "group_size": 16}, 60_615_592),
    ({"method": "mxfp4", "format": "mxfp4", "group_size": 32}, 60_392_832),
]


def by(values: dict[str, Any]) -> Recipe:
    return Recipe(**{"quantizer": "llmcompressor", "bits": 4, **values})


@pytest.mark.parametrize(("values", "written"), WRITTEN)
def test_llm_compressor(values: dict[str, Any], written: int) -> None:
    recipe = by(values)
    told = checkpoint(MODEL, TENSORS, recipe.method, recipe.format, recipe=recipe).total
    assert written - HEADER < told.value < written
    assert told.low <= written <= told.high


def test_the_native_forms_have_zero_points_and_an_order() -> None:
    matrices = [t for t in TENSORS if t.packed]
    groups = sum(t.elements // 64 for t in matrices)
    plain = checkpoint(MODEL, TENSORS, "gptq", "w4a16-g64", "llmcompressor").total.value
    native = checkpoint(MODEL, TENSORS, "gptq", "w4a16-g64").total.value
    order = sum(4 * t.width for t in matrices)
    assert native - plain == groups // 2 + order - 16 * len(matrices)
    autoawq = checkpoint(MODEL, TENSORS, "awq", "w4a16-g64", "autoawq").total.value
    usual = checkpoint(MODEL, TENSORS, "awq", "w4a16-g64").total.value
    assert usual - autoawq == 16 * len(matrices)


def test_experts_are_matrices_of_their_own() -> None:
    arch = shapes.KNOWN["mixtral-8x7b"]
    model, tensors = shapes.facts(arch), shapes.tensors(arch)
    recipe = by({"method": "nvfp4", "format": "nvfp4", "group_size": 16})
    whole = checkpoint(model, tensors, "nvfp4", "nvfp4", recipe=recipe).total.value
    packed = [t for t in tensors if t.packed]
    count = sum(t.shape[0] if len(t.shape) == 3 else 1 for t in packed)
    assert count == 32 * (4 + 3 * 8)
    left = sum(2 * t.elements for t in tensors if not t.packed)
    assert whole == left + sum(t.elements * 9 // 16 for t in packed) + 4 * count


def test_what_stays_in_16_bits() -> None:
    assert {t.role for t in TENSORS if not t.packed} == {"token_embd", "norm"}
    arch = shapes.KNOWN["qwen3-30b-a3b"]
    assert {t.role for t in shapes.tensors(arch) if not t.packed} == {"token_embd", "output", "norm", "ffn_gate_inp"}


@given(
    st.sampled_from([("rtn", "w4a16-g{}"), ("awq", "w4a16-g{}"), ("gptq", "w8a16-g{}"), ("hqq", "hqq4-g{}")]),
    st.sampled_from([(128, 64), (64, 32), (128, 32)]),
)
def test_smaller_groups_take_more(kind: tuple[str, str], groups: tuple[int, int]) -> None:
    method, word = kind
    large, small = (checkpoint(MODEL, TENSORS, method, word.format(g)).total.value for g in groups)
    assert small > large


def test_double_quantization_and_zero_points_can_be_told() -> None:
    once, twice = packing("nf4", "nf4", double_quant=False), packing("nf4", "nf4")
    assert once is not None
    assert twice is not None
    assert (once.group_bits, twice.group_bits) == (32, 8.125)
    asymmetric, symmetric = packing("rtn", "w4a16-g64", symmetric=False), packing("rtn", "w4a16-g64")
    assert asymmetric is not None
    assert symmetric is not None
    assert (asymmetric.group_bits, symmetric.group_bits) == (20, 16)


def test_one_scale_for_each_square_of_weights() -> None:
    arch = shapes.KNOWN["qwen3-8b"]
    model, tensors = shapes.facts(arch), shapes.tensors(arch)
    rows = checkpoint(model, tensors, "fp8", "fp8").total.value
    squares = checkpoint(model, tensors, "fp8", "fp8", square=128).total.value
    packed = [t for t in tensors if t.packed]
    scales = sum(4 * -(-t.shape[0] // 128) * -(-t.shape[1] // 128) for t in packed)
    assert squares - rows == scales - sum(2 * t.shape[0] for t in packed)


def test_one_scale_a_row() -> None:
    packed = [t for t in TENSORS if t.packed]
    row = checkpoint(MODEL, TENSORS, "rtn", "w8a16-g0").total.value
    assert row == checkpoint(MODEL, TENSORS, "w8a8", "w8a8").total.value + 16 * len(packed)


def test_gpt_oss_packs_its_experts_only() -> None:
    arch = shapes.KNOWN["qwen3-30b-a3b"]._replace(arch="gpt-oss")
    model, tensors = shapes.facts(arch), shapes.tensors(arch)
    own = checkpoint(model, tensors, "mxfp4", "mxfp4").total.value
    experts = sum(t.elements for t in tensors if "_exps." in t.name)
    rest = sum(t.elements for t in tensors) - experts
    assert own == experts * 17 // 32 + 2 * rest
    assert checkpoint(model, tensors, "mxfp4", "mxfp4", "llmcompressor").total.value < own


def test_zero_points_of_hqq_in_eight_bits() -> None:
    wide, narrow = packing("hqq", "hqq4-g64"), packing("hqq", "hqq4-g64", double_quant=True)
    assert wide is not None
    assert narrow is not None
    assert (wide.group_bits, narrow.group_bits) == (32, 24)
