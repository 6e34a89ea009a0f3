"""Bits, groups and other values of the quantizer, as formats to try and parameters of a plan."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.facts.plan import PlanRequest
from advisor.facts.recipe import RecipeOptions
from advisor.facts.words import GGUF_FORMATS, is_format
from advisor.planner import asked
from advisor.planner.candidate import FORMATS, takes


@pytest.mark.parametrize(
    ("method", "options", "formats"),
    [
        ("awq", {}, ["w4a16-g128", "w4a16-g64", "w4a16-g32"]),
        ("gptq", {"bits": 8}, ["w8a16-g128", "w8a16-g64", "w8a16-g32"]),
        ("gptq", {"bits": 3, "group_size": 64}, ["w3a16-g64"]),
        ("rtn", {"group_size": 32}, ["w4a16-g32"]),
        ("hqq", {"bits": 2}, ["hqq2-g64"]),
        ("w8a8", {"bits": 8}, ["w8a8"]),
        ("w8a8", {"bits": 4}, []),
        ("nf4", {"bits": 4}, ["nf4"]),
        ("nf4", {"group_size": 64}, []),
    ],
)
def test_formats_with_the_bits_and_groups_asked_for(method: str, options: dict[str, int], formats: list[str]) -> None:
    assert asked.narrowed(method, FORMATS[method], RecipeOptions(**options)) == formats  # type: ignore[arg-type]


def test_bits_of_gguf_files() -> None:
    found = asked.narrowed("gguf", GGUF_FORMATS, RecipeOptions(bits=4))
    assert set(found) == {"mxfp4", "iq4_xs", "iq4_nl", "q4_0", "q4_1", "q4_k_s", "q4_k_m"}
    assert asked.narrowed("gguf", GGUF_FORMATS, RecipeOptions(bits=16)) == ["f16", "bf16"]


@given(
    st.sampled_from(sorted(FORMATS)),
    st.none() | st.integers(2, 16),
    st.none() | st.integers(1, 4096),
)
def test_whatever_is_asked_gives_words_of_the_method(method: str, bits: int | None, group: int | None) -> None:
    for fmt in asked.narrowed(method, FORMATS[method], RecipeOptions(bits=bits, group_size=group)):
        assert is_format(fmt)
        assert takes(method, fmt)


def test_parameters_go_where_they_apply() -> None:
    request = PlanRequest(
        recipe=RecipeOptions(desc_act=True, damp=0.02, samples=32), calibration="/c.jsonl", adapter="/a"
    )
    assert asked.parameters(request, "gptq", "quantize") == {
        "quantize.adapter": "/a",
        "quantize.desc_act": True,
        "quantize.damp": 0.02,
        "quantize.samples": 32,
        "quantize.calibration_file": "/c.jsonl",
    }
    assert asked.parameters(request, "awq", "quantize") == {
        "quantize.adapter": "/a",
        "quantize.samples": 32,
        "quantize.calibration_file": "/c.jsonl",
    }
    assert asked.parameters(request, "nf4", "load-time") == {"quantize.adapter": "/a"}
    assert asked.parameters(PlanRequest(), "gptq", "quantize") == {}
