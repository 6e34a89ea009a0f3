"""What quantization_config says, for the libraries' own forms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.model.quantized import Quantized, left_out, read


def compressed(weights: dict[str, object], inputs: dict[str, object] | None = None) -> dict[str, object]:
    return {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"weights": weights, "input_activations": inputs, "targets": ["Linear"]}},
    }


INT4 = {"num_bits": 4, "type": "int", "group_size": 64, "symmetric": True}


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, ("awq", "w4a16-g128")),
        ({"quant_method": "gptq", "bits": 3, "group_size": 32}, ("gptq", "w3a16-g32")),
        ({"quant_method": "gptq", "bits": 4, "group_size": -1}, ("gptq", None)),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, ("nf4", "nf4")),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}, (None, None)),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, ("int8", "int8")),
        ({"quant_method": "fp8"}, ("fp8", "fp8")),
        (compressed(INT4), ("rtn", "w4a16-g64")),
        (compressed({**INT4, "symmetric": False}), ("awq", "w4a16-g64")),
        (compressed({**INT4, "actorder": "static"}), ("gptq", "w4a16-g64")),
        (compressed({"num_bits": 8, "type": "int", "symmetric": True}, {"num_bits": 8}), ("w8a8", "w8a8")),
        (compressed({"num_bits": 8, "type": "float"}, {"num_bits": 8}), ("fp8", "fp8")),
        (compressed({"num_bits": 4, "type": "float", "group_size": 16}), ("nvfp4", "nvfp4")),
        (compressed({"num_bits": 4, "type": "float", "group_size": 32}), ("mxfp4", "mxfp4")),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, ("nvfp4", "nvfp4")),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, ("fp8", "fp8")),
        ({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}, (None, None)),
        ({"quant_method": "quark"}, (None, None)),
    ],
)
def test_the_forms_of_the_libraries(config: dict[str, object], found: tuple[str | None, str | None]) -> None:
    assert read(config) == Quantized(*found)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=12),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["quant_method", "bits", "config_groups", "weights", "num_bits"]), inner)
        ),
        max_leaves=8,
    )
)
def test_anything_at_all_is_read_without_a_crash(config: object) -> None:
    assert isinstance(read(config), Quantized)


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({"ignore": ["lm_head", "re:.*gate$"]}, ("lm_head", "re:.*gate$")),
        ({"modules_to_not_convert": ["model.layers.*.self_attn"]}, (r"re:model\.layers\.[^.]*\.self_attn",)),
        ({"modules_to_not_convert": None, "llm_int8_skip_modules": ["lm_head"]}, ("lm_head",)),
        ({"ignore": ["re:(a+)+$", "re:" + ".*" * 9, 3]}, ()),
        ({}, ()),
        (None, ()),
    ],
)
def test_what_a_configuration_leaves_out(config: object, names: tuple[str, ...]) -> None:
    assert left_out(config) == names
