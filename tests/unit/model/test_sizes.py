from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.errors import AdvisorError
from advisor.model import sizes
from advisor.model.names import human, named_size, size_mismatch
from advisor.model.tensors import computed


def test_eight_billion_is_llama() -> None:
    f = sizes.facts("8B")
    assert (f.params, f.layers, f.hidden, f.heads, f.kv_heads, f.intermediate) == (
        8_030_261_248,
        32,
        4096,
        32,
        8,
        14336,
    )
    assert (f.kind, f.confidence, f.weights_format) == ("size", "low", "none")
    assert f.notes[0].startswith("low confidence")


@given(st.floats(10.0, 9_999.0), st.sampled_from([("M", 1e6), ("b", 1e9)]))
@settings(max_examples=150, deadline=None)
def test_any_size_is_met_within_three_per_cent(number: float, unit: tuple[str, float]) -> None:
    ref = f"{number:.1f}{unit[0]}"
    wanted = float(ref[:-1]) * unit[1]
    f = sizes.facts(ref)
    assert abs(f.params / wanted - 1) < 0.03
    assert f.heads % f.kv_heads == 0
    assert f.intermediate >= f.hidden or wanted < 20e6


@pytest.mark.parametrize(("ref", "total", "active"), [("8x7B", 46.7e9, 12.9e9), ("8x22B", 140.6e9, 39.2e9)])
def test_experts_times_size(ref: str, total: float, active: float) -> None:
    f = sizes.facts(ref)
    assert (f.experts, f.experts_used) == (8, 2)
    assert abs(f.params / total - 1) < 0.1
    assert abs(f.active_params / active - 1) < 0.1


@pytest.mark.parametrize("ref", ["30.5B:3.3B", "235B:22B", "671B:37B", "1T:32B", "120B:5.1B", "7B:1B", "80b:3b"])
def test_total_and_active(ref: str) -> None:
    total, active = (float(p[:-1]) * {"b": 1e9, "t": 1e12}[p[-1].lower()] for p in ref.split(":"))
    f = sizes.facts(ref)
    assert abs(f.params / total - 1) < 0.06
    assert abs(f.active_params / active - 1) < 0.12
    assert any(t.role == "ffn_gate_exps" for t in computed(f))


@pytest.mark.parametrize(
    "ref", ["0B", "9M", "11T", "0x7B", "1x7B", "999x7B", "3B:30B", "8B:8B", "10T:1B", "8Bn", "8", "8 B", "7,5B", "-8B"]
)
def test_bad_sizes(ref: str) -> None:
    assert sizes.looks_meant(ref)
    with pytest.raises(AdvisorError) as e:
        sizes.facts(ref)
    assert (e.value.code, e.value.exit_code) == ("bad-model-size", 2)
    assert e.value.hint == "advisor recommend 8B"


def test_sizes_in_names() -> None:
    assert named_size("Llama-3.1-8B-Instruct") == 8e9
    assert named_size("smollm2-135m") == 135e6
    assert named_size("Mixtral-8x7B") == 56e9
    assert named_size("Qwen3-30B-A3B") == 30e9
    assert named_size("model-A3B") is None
    assert named_size("q4_k_m") is None
    assert size_mismatch(["Mixtral-8x7B"], 46_702_792_704) is None
    assert size_mismatch(["Yi-6B"], 6_061_035_520) is None
    assert (size_mismatch(["x-7B"], 70_000_000_000) or "").startswith("mismatch:")
    assert (human(8.03e9), human(134_515_008)) == ("8.03B", "135M")
