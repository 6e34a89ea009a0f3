"""Recipes: complete or refused, and what a refusal hints at is legal."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import settings as hyp
from hypothesis import strategies as st

from advisor.backends.methods import CHOICES, SMOOTHING
from advisor.backends.recipes import check, divides, recipe, widths
from advisor.backends.registry import quantizers, runtimes
from advisor.errors import AdvisorError
from advisor.facts.model import TensorSpec
from advisor.facts.recipe import Recipe, RecipeOptions
from advisor.guide.load import load_pack
from tests.support import shapes

NONE = RecipeOptions()
NARROW = shapes.tensors(shapes.KNOWN["smollm2-135m"])
WIDE = shapes.tensors(shapes.KNOWN["llama-3.1-8b"])


def hinted(error: AdvisorError) -> tuple[str, str, str | None, RecipeOptions]:
    """What the command in the hint asks for."""
    assert error.hint is not None
    words = shlex.split(error.hint)
    assert words[:3] == ["advisor", "quantize", "MODEL"]
    static = "--static-activations" in words
    words = [w for w in words if w != "--static-activations"]
    given = dict(zip(words[3::2], words[4::2], strict=True))
    options = RecipeOptions(
        damp=float(given.pop("--damp")) if "--damp" in given else None,
        samples=int(given.pop("--samples")) if "--samples" in given else None,
        static_activations=True if static else None,
    )
    method, fmt, quantizer = given.pop("--method"), given.pop("--format"), given.pop("--quantizer", None)
    assert not given
    return method, fmt, quantizer, options


def refused(
    method: str,
    fmt: str,
    quantizer: str | None = None,
    tensors: tuple[TensorSpec, ...] | None = None,
    **options: object,
) -> AdvisorError:
    with pytest.raises(AdvisorError) as e:
        recipe(method, fmt, quantizer, RecipeOptions(**options), tensors=tensors)  # type: ignore[arg-type]
    assert e.value.code == "illegal-recipe"
    return e.value


def test_what_the_methods_usually_are() -> None:
    awq = recipe("awq", "w4a16-g128", None, NONE)
    assert (awq.quantizer, awq.bits, awq.group_size, awq.symmetric) == ("llmcompressor", 4, 128, False)
    assert (awq.samples, awq.sequence_length, awq.desc_act, awq.damp, awq.layout) == (64, 512, None, None, None)
    gptq = recipe("gptq", "w4a16-g128", None, NONE)
    assert (gptq.quantizer, gptq.symmetric, gptq.desc_act, gptq.damp, gptq.samples) == (
        "gptqmodel", True, False, 0.01, 128,
    )  # fmt: skip
    assert recipe("gptq", "w4a16-g128", "llmcompressor", NONE).desc_act is True
    w8a8 = recipe("w8a8", "w8a8", None, NONE)
    assert (w8a8.bits, w8a8.group_size, w8a8.smoothing, w8a8.samples) == (8, None, SMOOTHING, 128)
    assert recipe("fp8", "fp8", None, NONE).samples == 0
    static = recipe("fp8", "fp8", None, RecipeOptions(static_activations=True))
    assert (static.static_activations, static.samples) == (True, 64)
    assert recipe("nvfp4", "nvfp4", None, NONE).group_size == 16
    assert recipe("mxfp4", "mxfp4", None, NONE).group_size == 32
    assert recipe("rtn", "w8a16-g64", None, NONE).samples == 0
    assert recipe("nf4", "nf4", None, NONE).double_quant is True
    hqq = recipe("hqq", "hqq4-g64", None, NONE)
    assert (hqq.bits, hqq.group_size, hqq.symmetric, hqq.at_load) == (4, 64, False, True)
    assert recipe("awq", "w4a16-g128", "autoawq", NONE).layout == "gemm"
    assert recipe("none", "bf16", None, NONE).bits == 16


def test_rules_fill_what_nobody_asked_for() -> None:
    rules = {"quantize.samples": 512, "quantize.damp": 0.05, "quantize.desc_act": True, "quantize.smoothing": 0.5}
    gptq = recipe("gptq", "w4a16-g128", None, NONE, rules)
    assert (gptq.samples, gptq.damp, gptq.desc_act, gptq.smoothing) == (512, 0.05, True, None)
    assert recipe("w8a8", "w8a8", None, NONE, rules).smoothing == 0.5
    assert recipe("rtn", "w4a16-g64", None, NONE, rules).samples == 0
    asked = recipe("gptq", "w4a16-g128", None, RecipeOptions(samples=16, desc_act=False, damp=0.1), rules)
    assert (asked.samples, asked.damp, asked.desc_act) == (16, 0.1, False)


def test_w8a8_without_text_is_plain_rounding() -> None:
    plain = recipe("w8a8", "w8a8", None, RecipeOptions(samples=0))
    assert (plain.samples, plain.smoothing, plain.sequence_length) == (0, None, 0)
    assert "0 samples" in refused("w8a8", "w8a8", samples=0, smoothing=0.5).message


def test_the_rules_that_refusals_name_exist() -> None:
    known = {r.id for r in load_pack().rules}
    assert {"FMT-001", "FMT-003"} <= known


def test_a_group_that_does_not_divide_the_rows() -> None:
    e = refused("gptq", "w4a16-g128", tensors=NARROW)
    assert "128" in e.message
    assert "576" in e.message
    assert (e.data["rule"], e.data["value"], e.data["nearest"]) == ("FMT-001", 128, "w4a16-g64")
    assert e.hint == "advisor quantize MODEL --method gptq --format w4a16-g64"
    assert "FMT-001" in e.message
    check(recipe("gptq", "w4a16-g64", None, NONE), NARROW, "vllm")
    check(recipe("gptq", "w4a16-g128", None, NONE), WIDE, "vllm")


def test_rows_that_no_group_divides_leave_int8() -> None:
    odd = (*NARROW, TensorSpec(name="blk.0.attn_q.weight", shape=(100, 100), role="attn_q", layer=0))
    e = refused("awq", "w4a16-g32", tensors=odd)
    assert e.hint == "advisor quantize MODEL --method w8a8 --format w8a8"
    assert "16 does not divide" in refused("nvfp4", "nvfp4", tensors=odd).message


def test_bits() -> None:
    e = refused("awq", "w3a16-g64")
    assert (e.data["rule"], e.data["nearest"]) == ("FMT-003", "w4a16-g64")
    assert refused("awq", "w4a16-g128", tensors=NARROW, bits=3).data["nearest"] == "w4a16-g64"
    assert "w8a8 is 8 bits" in refused("w8a8", "w8a8", bits=4).message
    assert refused("gptq", "w3a16-g64", "llmcompressor").data["nearest"] == "w4a16-g64"
    assert refused("gptq", "w4a16-g64", "gptqmodel", bits=3).data["nearest"] == "w3a16-g64"
    assert recipe("gptq", "w3a16-g64", "gptqmodel", RecipeOptions(bits=3)).bits == 3


@pytest.mark.parametrize(
    ("method", "fmt", "options", "word"),
    [
        ("awq", "w4a16-g64", {"desc_act": True}, "desc_act"),
        ("rtn", "w4a16-g64", {"samples": 16}, "samples"),
        ("fp8", "fp8", {"samples": 16}, "text"),
        ("fp8", "fp8", {"group_size": 64}, "group size"),
        ("w8a8", "w8a8", {"sym": False}, "symmetric"),
        ("gptq", "w4a16-g64", {"damp": 0.0}, "damp"),
        ("gptq", "w4a16-g64", {"damp": 2.0}, "damp"),
        ("gptq", "w4a16-g64", {"samples": 0}, "samples"),
        ("gptq", "w4a16-g64", {"sequence_length": 4}, "tokens"),
        ("w8a8", "w8a8", {"smoothing": 1.5}, "strength"),
        ("awq", "w4a16-g64", {"layout": "gemv"}, "layouts"),
        ("gptq", "w4a16-g64", {"group_size": 32}, "group size of 64"),
    ],
)
def test_options_that_mean_nothing_or_too_much(method: str, fmt: str, options: dict[str, object], word: str) -> None:
    e = refused(method, fmt, **options)
    assert word in e.message
    recipe(*hinted(e))


def test_a_library_that_does_not_make_the_method() -> None:
    e = refused("fp8", "fp8", "bitsandbytes")
    assert e.message == "bitsandbytes does not make fp8; llmcompressor does."
    with pytest.raises(AdvisorError) as unknown:
        recipe("fp8", "fp8", "llmcompresor", NONE)
    assert unknown.value.code == "word-not-found"
    with pytest.raises(AdvisorError) as no_method:
        recipe("awk", "fp8", None, NONE)
    assert no_method.value.code == "word-not-found"
    with pytest.raises(AdvisorError, match=r"llama\.cpp"):
        recipe("gguf", "q4_k_m", None, NONE)


def test_a_runtime_that_loads_other_bits_or_another_layout() -> None:
    two = recipe("gptq", "w2a16-g64", "gptqmodel", NONE)
    with pytest.raises(AdvisorError) as e:
        check(two, None, "exllama")
    assert "exllama does not load w2a16-g64" in e.value.message
    method, fmt, _, _ = hinted(e.value)
    assert runtimes()["exllama"].capabilities().loads(method, fmt)
    gemv = recipe("awq", "w4a16-g64", "autoawq", RecipeOptions(layout="gemv"))
    with pytest.raises(AdvisorError, match="gemm only"):
        check(gemv, None, "vllm")
    check(recipe("awq", "w4a16-g64", None, NONE), None, "llama.cpp")  # the planner's rules say that


def test_widths_are_those_of_matrices_in_layers() -> None:
    assert set(widths(NARROW)) == {576, 1536}
    assert divides(64, NARROW)
    assert not divides(128, NARROW)
    assert divides(None, NARROW)


OPTIONS = st.builds(
    RecipeOptions,
    bits=st.none() | st.sampled_from([1, 2, 3, 4, 8, 16]),
    group_size=st.none() | st.sampled_from([-1, 0, 16, 32, 48, 64, 128, 256]),
    desc_act=st.none() | st.booleans(),
    sym=st.none() | st.booleans(),
    damp=st.none() | st.floats(-1, 2, allow_nan=False),
    samples=st.none() | st.integers(-5, 20_000),
    sequence_length=st.none() | st.integers(-5, 4096),
    layout=st.none() | st.sampled_from(["gemm", "gemv", "exl2"]),
    static_activations=st.none() | st.booleans(),
    double_quant=st.none() | st.booleans(),
    smoothing=st.none() | st.floats(-1, 2, allow_nan=False),
)
FORMATS = ["w4a16-g128", "w4a16-g64", "w3a16-g32", "w8a16-g48", "w8a8", "fp8", "nvfp4", "mxfp4", "nf4", "int8",
           "hqq4-g64", "hqq3-g128", "q4_k_m"]  # fmt: skip


@hyp(max_examples=300, deadline=None)
@given(
    method=st.sampled_from(sorted(set(CHOICES) - {"none"})),
    fmt=st.sampled_from(FORMATS),
    quantizer=st.none() | st.sampled_from(sorted(set(quantizers()) - {"none", "llama.cpp"})),
    options=OPTIONS,
    tensors=st.sampled_from([None, NARROW, WIDE]),
    runtime=st.sampled_from([None, "vllm", "transformers", "exllama"]),
)
def test_complete_or_refused_with_a_hint_that_is_legal(
    method: str,
    fmt: str,
    quantizer: str | None,
    options: RecipeOptions,
    tensors: tuple[TensorSpec, ...] | None,
    runtime: str | None,
) -> None:
    try:
        made = recipe(method, fmt, quantizer, options, tensors=tensors, runtime=runtime)
    except AdvisorError as e:
        assert e.code == "illegal-recipe"
        made = recipe(*hinted(e), tensors=tensors, runtime=runtime)
    complete(made, tensors)


def complete(made: Recipe, tensors: tuple[TensorSpec, ...] | None) -> None:
    assert made.format in quantizers()[made.quantizer].capabilities().methods[made.method]
    assert divides(made.group_size, tensors)
    assert (made.damp is not None) == (made.desc_act is not None) == (made.method == "gptq")
    assert (made.static_activations is not None) == (made.method == "fp8")
    assert (made.samples > 0) == (made.sequence_length > 0)
    assert made.samples > 0 or made.method not in ("awq", "gptq")
