"""Quality: held against every published figure; the gate's bands."""

from __future__ import annotations

import math
import statistics

import pytest

from advisor.cost.quality import Point, bands, evidence, is_early, known, losses, measured, predict, quality
from advisor.errors import AdvisorError
from advisor.execute.verify import bands_for
from advisor.facts.quantity import Quantity
from advisor.facts.results import Gate, Verification
from advisor.facts.words import GGUF_FORMATS
from advisor.model.bundled import get
from tests.support import shapes

SMALL, LLAMA = 135_000_000, 8_030_000_000
MODEL = shapes.facts(shapes.KNOWN["llama-3.1-8b"])


def sized(params: int) -> object:
    return shapes.facts(shapes.KNOWN["llama-3.1-8b"], params=params)


def told(p: Point) -> Quantity:
    """What is predicted for a published row, as for the model that it is."""
    early = p.model.startswith(("LLaMA-", "Llama-2-", "Mistral-7B", "Mixtral-"))
    model = shapes.facts(shapes.KNOWN["llama-3.1-8b"], params=p.params, vocab=32_000 if early else 128_256)
    return predict(model, p.method, p.format, p.imatrix)


def test_published_losses_lie_in_the_stated_range() -> None:
    points = evidence()
    assert len(points) > 250
    inside, factors = [], []
    for p in points:
        assert p.source
        assert p.protocol
        if p.kld is not None and p.method != "none":
            q = told(p)
            inside.append(q.low - 0.0003 <= p.kld <= q.high + 0.0003)
            factors.append(abs(math.log(p.kld / q.value)))
    assert sum(inside) / len(inside) >= 0.85
    assert math.exp(statistics.median(factors)) < 1.3


def test_published_artifacts_pass_their_bands_or_are_warned_of() -> None:
    """A warning only where the loss itself is large, never because a format's limit is too narrow."""
    checked = warned = 0
    for p in evidence():
        if p.method == "gguf" and p.format not in GGUF_FORMATS:
            continue
        limits = bands(p.params, p.method, p.format, imatrix=p.imatrix)
        if p.kld is not None:
            assert p.kld <= limits["kld"].warn or 0.3 < p.kld <= limits["kld"].fail, p
            checked += 1
            warned += p.kld > limits["kld"].warn
        if p.perplexity_ratio is not None:
            ratio = limits["perplexity_ratio"]
            assert p.perplexity_ratio <= ratio.warn or math.exp(0.3) < p.perplexity_ratio <= ratio.fail, p
        if p.top1_agreement is not None:
            assert p.top1_agreement >= limits["top1_agreement"].warn, p
    assert checked > 20
    assert 0 < warned < checked / 5


# Sound artifacts of SmolLM2-135M, measured: mean KL divergence and the least agreement seen.
@pytest.mark.parametrize(
    ("method", "fmt", "kld"),
    [
        ("gguf", "q8_0", 0.002),
        ("gguf", "q4_k_m", 0.0312),
        ("w8a8", "w8a8", 0.019),
        ("w8a8", "w8a8", 0.035),
        ("fp8", "fp8", 0.034),
        ("int8", "int8", 0.022),
        ("awq", "w4a16-g64", 0.161),
        ("gptq", "w4a16-g64", 0.179),
        ("gptq", "w4a16-g64", 0.244),
        ("hqq", "hqq4-g64", 0.232),
        ("nf4", "nf4", 0.287),
        ("none", "bf16", 0.001),
    ],
)
def test_small_sound_artifacts_pass_and_broken_ones_fail(method: str, fmt: str, kld: float) -> None:
    band = bands(SMALL, method, fmt, imatrix=False)["kld"]
    assert kld <= band.warn < band.fail
    assert band.fail <= 1.5  # a wrong scale or a layer of zeros costs nats


def test_rounding_a_small_model_to_four_bits_is_let_through_with_a_warning() -> None:
    """SmolLM2-135M-Instruct measured: .473 nats, perplexity 34.08 over 23.90."""
    found = bands(SMALL, "rtn", "w4a16-g64", imatrix=False)
    assert found["kld"].warn < 0.473 < found["kld"].fail
    assert found["perplexity_ratio"].warn < 34.08 / 23.90 < found["perplexity_ratio"].fail


@pytest.mark.parametrize(
    ("fmt", "ratio"),
    [("q8_0", 1.0044), ("q6_k", 1.0096), ("q5_k_m", 1.0086), ("q4_k_m", 1.0662), ("iq4_xs", 1.0964), ("q4_0", 1.2335),
     ("q3_k_m", 1.1615), ("q2_k", 1.442)],
)  # fmt: skip
def test_small_sound_files_do_not_fail_by_perplexity(fmt: str, ratio: float) -> None:
    band = bands(SMALL, "gguf", fmt, imatrix=False)["perplexity_ratio"]
    assert band.warn < band.fail
    assert ratio <= (band.fail if fmt == "q2_k" else band.warn)


FAMILIES = [
    ("q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k", "q8_0", "f16"),
    ("q4_0", "q5_0", "q8_0"),
    ("iq4_xs", "q4_k_m"),
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("imatrix", [False, True])
def test_more_bits_lose_less(family: tuple[str, ...], imatrix: bool) -> None:
    values = [predict(MODEL, "gguf", f, imatrix).value for f in family]
    assert values == sorted(values, reverse=True)
    warns = [bands(LLAMA, "gguf", f, imatrix=imatrix)["kld"].warn for f in family]
    assert warns == sorted(warns, reverse=True)


@pytest.mark.parametrize("method", ["awq", "gptq", "rtn"])
def test_grouped_formats(method: str) -> None:
    by_bits = [predict(MODEL, method, f"w{b}a16-g128", False).value for b in (2, 3, 4, 8)]
    assert by_bits == sorted(by_bits, reverse=True)
    by_group = [predict(MODEL, method, f"w4a16-g{g}", False).value for g in (256, 128, 64, 32)]
    assert by_group == sorted(by_group, reverse=True)
    assert predict(MODEL, method, "w4a16-g0", False).value > by_group[0]  # one scale a row


def test_smaller_models_lose_more_and_a_matrix_helps() -> None:
    sizes = [predict(sized(n), "gguf", "q4_k_m", False).value for n in (SMALL, 10**9, LLAMA, 7 * 10**10)]  # type: ignore[arg-type]
    assert sizes == sorted(sizes, reverse=True)
    for fmt in GGUF_FORMATS:
        assert predict(MODEL, "gguf", fmt, True).value <= predict(MODEL, "gguf", fmt, False).value
    assert predict(MODEL, "gguf", "q4_k_m", False).value == pytest.approx(0.0313, rel=0.1)


def test_models_of_2023_lose_less() -> None:
    early = shapes.facts(shapes.KNOWN["llama-2-7b"])
    late = shapes.facts(shapes.KNOWN["llama-2-7b"], vocab=128_256)
    ratio = predict(early, "gguf", "q4_k_m", False).value / predict(late, "gguf", "q4_k_m", False).value
    assert ratio == pytest.approx(losses().early_factor)
    assert 0.3 < ratio < 0.7
    assert not is_early(shapes.facts(shapes.KNOWN["tinyllama-1.1b"]))


@pytest.mark.parametrize(
    "order",
    [
        ("awq w4a16-g128", "gptq w4a16-g128", "nf4 nf4", "nvfp4 nvfp4", "rtn w4a16-g128", "mxfp4 mxfp4"),
        ("fp8 fp8", "int8 int8", "w8a8 w8a8", "awq w4a16-g128"),
        ("gguf q8_0", "fp8 fp8"),
    ],
)
def test_methods_keep_the_guides_order(order: tuple[str, ...]) -> None:
    values = [predict(MODEL, *name.split(), False).value for name in order]  # type: ignore[call-arg]
    assert values == sorted(values)


@pytest.mark.parametrize("name", ["openai/gpt-oss-20b", "deepseek-ai/DeepSeek-V3"])
def test_a_format_that_is_the_original_loses_nothing(name: str) -> None:
    model = get(name)
    assert model is not None
    assert model.quantized_method
    method = fmt = model.quantized_method
    own = quality(model, method, fmt, False)
    assert own.kld and own.recovery
    assert own.kld.high < 0.003
    assert own.recovery.value > 0.999
    assert "as they were published" in own.kld.source
    # Of other formats of it, and of the same format made from a model with 16 bits, more is lost.
    assert predict(model, "awq", "w4a16-g128", False).value > 10 * own.kld.value
    others = predict(shapes.facts(shapes.KNOWN["llama-3.1-8b"], quantized_method=method), method, fmt, False)
    assert others.value > 10 * own.kld.value


def test_an_mxfp4_file_of_mxfp4_weights_loses_what_the_rest_loses() -> None:
    model = get("openai/gpt-oss-20b")
    assert model is not None
    q, eight = predict(model, "gguf", "mxfp4", False), predict(model, "gguf", "q8_0", False)
    assert (q.value, q.high, q.low) == (eight.value, eight.high, 0.0)
    # Of weights that were not trained in it as much is lost as by the method of that name.
    assert predict(MODEL, "gguf", "mxfp4", False).value == predict(MODEL, "mxfp4", "mxfp4", False).value
    limits = bands_for(model, "gguf", "mxfp4", False)["kld"]
    assert limits.warn == bands(model.params, "gguf", "q8_0", imatrix=False)["kld"].warn
    assert limits.warn < bands_for(MODEL, "gguf", "mxfp4", False)["kld"].warn


def test_types_that_others_make_have_figures_too() -> None:
    for fmt in ("iq1_s", "iq2_m", "iq3_xxs", "q2_k_s"):
        assert known("gguf", fmt)
        assert predict(MODEL, "gguf", fmt, True).value > predict(MODEL, "gguf", "q3_k_m", True).value
    assert not known("gguf", "q9_k")
    assert not known("zip", "q4_k_m")


def verified(**more: object) -> Verification:
    given: dict[str, object] = {
        "perplexity": 24.0, "perplexity_reference": 23.0, "kld": 0.04, "top1_agreement": 0.9, "positions": 1_600,
        "text": "prose", "text_sha256": "0" * 64, "prompts": (), "findings": (),
        "gate": Gate(verdict="pass", bands={}, because=()),
    }  # fmt: skip
    return Verification(**{**given, **more})  # type: ignore[arg-type]


def test_a_measured_artifact_replaces_the_prediction() -> None:
    predicted = quality(MODEL, "gguf", "q4_k_m", False)
    got = measured(verified(), predicted)
    assert got.kld and got.perplexity_ratio and got.recovery
    assert (got.kld.value, got.kld.method) == (0.04, "measured")
    assert got.kld.low == pytest.approx(0.039)
    assert got.perplexity_ratio.value == pytest.approx(24 / 23)
    assert got.perplexity_ratio.method == "measured"
    assert got.recovery.value == pytest.approx(1 - 0.04 * losses().recovery_per_nat)
    assert "1600 positions of prose" in got.kld.source


def test_what_was_not_measured_stays_predicted() -> None:
    predicted = quality(MODEL, "gguf", "q4_k_m", False)
    assert measured(verified(kld=None, perplexity_reference=None), predicted) == predicted
    only = measured(verified(kld=None), predicted)
    assert only.kld == predicted.kld
    assert only.recovery == predicted.recovery
    assert only.perplexity_ratio != predicted.perplexity_ratio


def test_all_measures_agree() -> None:
    for fmt in GGUF_FORMATS:
        q = quality(MODEL, "gguf", fmt, False)
        assert q.kld and q.perplexity_ratio and q.recovery
        assert math.log(q.perplexity_ratio.value) == pytest.approx(losses().perplexity_per_nat * q.kld.value)
        for one in (q.kld, q.perplexity_ratio, q.recovery):
            assert one.low <= one.value <= one.high
            assert one.source
    plain, cached = quality(MODEL, "gguf", "q8_0", False), quality(MODEL, "gguf", "q8_0", False, "q4_0")
    assert plain.kld and cached.kld
    assert cached.kld.value == pytest.approx(plain.kld.value + losses().kv["q4_0"])
    assert quality(MODEL, "awq", "w4a16-g128", False).recovery.value == pytest.approx(0.976, abs=0.01)  # type: ignore[union-attr]


def test_unknown_words_are_named() -> None:
    for method, fmt in (("gguf", "q9_k"), ("zip", "q4_k_m"), ("awq", "w4a16")):
        with pytest.raises(AdvisorError) as e:
            predict(MODEL, method, fmt, False)
        assert e.value.code == "bad-option"


def test_every_anchor_has_a_source() -> None:
    for method, table in losses().anchors.items():
        for fmt, anchor in table.items():
            assert anchor.source, (method, fmt)
            assert 0 < anchor.kld_imatrix <= anchor.kld
