from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.errors import AdvisorError
from advisor.execute import checkpoint_types
from advisor.execute.checkpoint import recipe_of_facts
from advisor.execute.checkpoint_types import check, check_loaded, read, slow_kernels
from advisor.facts.recipe import Recipe
from advisor.model.resolve import resolve
from tests.support.safetensors_writer import llama_tensors, write_safetensors

W8A8 = Recipe(method="w8a8", format="w8a8", quantizer="llmcompressor", bits=8)
GPTQ = Recipe(method="gptq", format="w4a16-g64", quantizer="gptqmodel", bits=4, group_size=64)
NF4 = Recipe(method="nf4", format="nf4", quantizer="bitsandbytes", bits=4, at_load=True)
SAID = {
    "quant_method": "compressed-tensors",
    "config_groups": {"group_0": {"weights": {"num_bits": 8, "group_size": None, "type": "int"}}},
}
PLAIN = llama_tensors(layers=2, hidden=64, heads=4, kv_heads=2, ff=128, vocab=100, tied=True)


def folder(path: Path, quantization: dict[str, Any] | None, tensors: dict[str, Any]) -> Path:
    config = {"model_type": "llama", **({"quantization_config": quantization} if quantization else {})}
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    write_safetensors(path / "model.safetensors", tensors)
    return path


def int8(tensors: dict[str, Any]) -> dict[str, Any]:
    return {n: ("I8", shape) if "_proj" in n else (dtype, shape) for n, (dtype, shape) in tensors.items()}


def packed(tensors: dict[str, Any]) -> dict[str, Any]:
    out = {}
    for name, (dtype, shape) in tensors.items():
        if "_proj" in name:
            stem = name.removesuffix("weight")
            out[stem + "qweight"] = ("I32", (shape[1] // 8, shape[0]))
            out[stem + "scales"] = ("F16", (shape[1] // 64, shape[0]))
        else:
            out[name] = (dtype, shape)
    return out


def test_sound_checkpoints_have_no_finding(tmp_path: Path) -> None:
    found = read(folder(tmp_path / "a", SAID, int8(PLAIN)))
    assert (found.named, found.bits, found.group, found.matrices) == ("compressed-tensors", 8, None, 14)
    assert found.types == {"bf16": len(PLAIN) - 14, "i8": 14}
    assert check(found, W8A8) is None
    own = {"quant_method": "gptq", "bits": 4, "group_size": 64}
    found = read(folder(tmp_path / "b", own, packed(PLAIN)))
    assert (found.named, found.bits, found.group, found.matrices, found.floating) == ("gptq", 4, 64, 14, ())
    assert check(found, GPTQ) is None


@pytest.mark.parametrize(
    ("quantization", "tensors", "said"),
    [
        (None, int8(PLAIN), "names no quantization"),
        ({**SAID, "quant_method": "awq"}, int8(PLAIN), "names awq"),
        ({**SAID, "config_groups": {"g": {"weights": {"num_bits": 4}}}}, int8(PLAIN), "4 bits, not 8"),
        (SAID, PLAIN, "14 of 14 matrices are in floating point"),
    ],
)
def test_wrong_types_are_named(tmp_path: Path, quantization: Any, tensors: Any, said: str) -> None:
    finding = check(read(folder(tmp_path / "a", quantization, tensors)), W8A8)
    assert finding is not None
    assert finding.code == "wrong-types"
    assert said in finding.message
    assert "advisor up MODEL --method w8a8 --format w8a8" in finding.remedy


def test_wrong_groups_are_named(tmp_path: Path) -> None:
    own = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    finding = check(read(folder(tmp_path / "a", own, packed(PLAIN))), GPTQ)
    assert finding is not None
    assert "groups of 128, not 64" in finding.message


def test_modules_that_the_recipe_leaves_alone_may_float(tmp_path: Path) -> None:
    tensors = int8(PLAIN)
    for name in PLAIN:
        if "down_proj" in name:
            tensors[name] = PLAIN[name]
    stored = read(folder(tmp_path / "a", SAID, tensors))
    assert check(stored, W8A8) is not None
    for ignore in (("lm_head", "down_proj"), ("re:.*down_proj",)):
        recipe = Recipe(method="w8a8", format="w8a8", quantizer="q", bits=8, ignore=ignore)
        assert check(stored, recipe) is None


def test_nothing_is_asked_of_a_plain_checkpoint_or_of_one_that_is_quantized_at_load(tmp_path: Path) -> None:
    stored = read(folder(tmp_path / "a", None, PLAIN))
    assert check(stored, None) is None
    assert check(stored, NF4) is None
    assert check_loaded({"quantized": 0, "kept": ["x"]}, None, "vllm") is None


def test_an_accepted_setting_that_changed_nothing_is_seen() -> None:
    loaded = {"quantized": 0, "kept": ["model.layers.0.mlp.down_proj", "lm_head"], "dtype": "bfloat16"}
    finding = check_loaded(loaded, NF4, "transformers")
    assert finding is not None
    assert finding.code == "wrong-types"
    assert "0 matrices quantized and 1 in bfloat16" in finding.message
    assert check_loaded({"quantized": 14, "kept": ["lm_head"]}, NF4, "transformers") is None


@pytest.mark.parametrize(
    ("kernel", "device", "slow"),
    [
        ("CompressedTensorsLinearMethod/CompressedTensorsW4A4Fp4/EmulationNvFp4LinearKernel", "cuda", True),
        ("A/B/PerTensorTorchFP8ScaledMMLinearKernel", "cpu", True),
        ("A/B/PerTensorTorchFP8ScaledMMLinearKernel", "cuda", False),
        ("A/B/CPUInt8ScaledMMLinearKernel", "cpu", False),
        ("A/B/MarlinLinearKernel", "cuda", False),
    ],
)
def test_kernels_that_gain_no_speed_are_named(kernel: str, device: str, slow: bool) -> None:
    found = slow_kernels({"modules": {kernel: 8}}, W8A8, "vllm", device=device)
    assert [f.code for f in found] == (["no-speed-up"] if slow else [])
    assert slow_kernels({"modules": {kernel: 8}}, None, "vllm", device=device) == ()


def test_a_folder_without_weights_or_config(tmp_path: Path) -> None:
    with pytest.raises(AdvisorError) as e:
        read(tmp_path)
    assert e.value.code == "file-not-found"
    write_safetensors(tmp_path / "model.safetensors", {"a.weight": ("F16", (2, 2))})
    with pytest.raises(AdvisorError) as e:
        read(tmp_path)
    assert e.value.code == "file-not-found"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["quant_method", "config_groups", "bits", "num_bits", "group_size", "weights", "g"]),
                inner,
            )
        ),
        max_leaves=12,
    )
)
def test_any_quantization_config_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, said: Any) -> None:
    path = tmp_path_factory.mktemp("q") / "config.json"
    path.write_text(json.dumps({"quantization_config": said}))
    named, bits, group = checkpoint_types._quantization(path)
    assert named is None or isinstance(named, str)
    assert bits is None or isinstance(bits, int)
    assert group is None or group > 0


def test_weights_that_are_no_object_are_read_as_nothing(tmp_path: Path) -> None:
    said = {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": "int"}}}
    assert checkpoint_types._quantization(folder(tmp_path / "m", said, PLAIN) / "config.json")[1:] == (None, None)


@pytest.mark.parametrize(
    "said",
    [
        {"quant_method": "awq", "bits": 4, "group_size": 64, "modules_to_not_convert": ["model.layers.*.self_attn"]},
        {"quant_method": "fp8", "ignored_layers": ["re:.*self_attn.*"]},
    ],
)
def test_a_checkpoint_of_somebody_else_is_held_against_what_it_says_itself(
    tmp_path: Path, said: dict[str, Any]
) -> None:
    packed = {
        n.removesuffix("weight") + ("qweight" if said["quant_method"] == "awq" else "weight"): ("I32", s)
        for n, (_, s) in PLAIN.items()
        if ".mlp." in n
    }
    rest = {n: v for n, v in PLAIN.items() if ".mlp." not in n}
    path = folder(tmp_path / "theirs", said, {**rest, **packed})
    fmt = "w4a16-g64" if said["quant_method"] == "awq" else "fp8"
    facts = msgspec.structs.replace(
        resolve("8B"), path=str(path), quantized_method=said["quant_method"], quantized_format=fmt
    )
    known = recipe_of_facts(facts)
    assert known is not None
    assert (known.bits, known.group_size) == ((4, 64) if fmt != "fp8" else (8, None))
    assert check(read(path), known) is None
    other = check(read(path), msgspec.structs.replace(known, ignore=("lm_head",)))
    assert other is not None and "self_attn" in other.message
