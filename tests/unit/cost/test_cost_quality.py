"""Quality: held against every published figure; the gate's bands."""

from __future__ import annotations

import math

import pytest

from advisor.cost.quality import bands, evidence, losses, predict, quality
from advisor.errors import AdvisorError
from advisor.facts.words import GGUF_FORMATS
from tests.support import shapes

SMALL, LLAMA = 135_000_000, 8_030_000_000
MODEL = shapes.facts(shapes.KNOWN["llama-3.1-8b"])


def sized(params: int) -> object:
    return shapes.facts(shapes.KNOWN["llama-3.1-8b"], params=params)


def test_no_published_loss_is_above_the_prediction() -> None:
    points = evidence()
    assert len(points) > 150
    inside = 0
    for p in points:
        assert p.source
        q = predict(sized(p.params), p.method, p.format, p.imatrix)  # type: ignore[arg-type]
        if p.kld is not None:
            assert p.kld <= q.high, p
            inside += q.low <= p.kld
        if p.perplexity_ratio is not None:
            assert math.log(p.perplexity_ratio) <= q.high * 1.05, p
    assert inside / sum(p.kld is not None for p in points) > 0.9


def test_published_artifacts_pass_their_bands_or_are_warned_of() -> None:
    """A warning only where the loss itself is large, never because a format's limit is too narrow."""
    checked = warned = 0
    for p in evidence():
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


def test_smaller_models_lose_more_and_a_matrix_helps() -> None:
    sizes = [predict(sized(n), "gguf", "q4_k_m", False).value for n in (SMALL, 10**9, LLAMA, 7 * 10**10)]  # type: ignore[arg-type]
    assert sizes == sorted(sizes, reverse=True)
    for fmt in GGUF_FORMATS:
        assert predict(MODEL, "gguf", fmt, True).value <= predict(MODEL, "gguf", fmt, False).value
    assert predict(MODEL, "gguf", "q4_k_m", False).value == pytest.approx(0.0313, abs=0.0002)


def test_all_measures_agree() -> None:
    for fmt in GGUF_FORMATS:
        q = quality(MODEL, "gguf", fmt, False)
        assert q.kld and q.perplexity_ratio and q.recovery
        assert q.perplexity_ratio.value == pytest.approx(math.exp(q.kld.value))
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
