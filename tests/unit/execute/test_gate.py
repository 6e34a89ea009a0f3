from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.execute import gate, remedies
from advisor.execute.gate import Measured, bands_without_original
from advisor.facts.results import Band, Finding, Gate, PromptPair, Verification
from advisor.facts.words import GGUF_FORMATS

BANDS = {
    "kld": Band(warn=0.05, fail=0.2, unit="nats", source="test"),
    "perplexity_ratio": Band(warn=1.05, fail=1.2, unit="ratio", source="test"),
    "top1_agreement": Band(warn=0.85, fail=0.7, unit="ratio", source="test"),
}
GOOD = Measured(23.9, 23.1, 0.03, 0.9, 2550, 0)


def pair(coherent: bool) -> PromptPair:
    return PromptPair(name="n", prompt="p", reference="r", answer="a", same=False, coherent=coherent)


def test_more_bits_than_a_mix_are_those_of_the_next_file_type() -> None:
    assert remedies.next_format("q4_k_m:ffn_down=q6_k") == "q5_k_m"
    assert "--format q5_k_m" in remedies.more_quality("q4_k_m:ffn_down=q6_k", False)


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        (GOOD, "pass"),
        (GOOD._replace(kld=0.05), "pass"),
        (GOOD._replace(kld=0.06), "warn"),
        (GOOD._replace(kld=0.21), "fail"),
        (GOOD._replace(perplexity=25.0), "warn"),
        (GOOD._replace(perplexity=30.0), "fail"),
        (GOOD._replace(top1_agreement=0.8), "warn"),
        (GOOD._replace(top1_agreement=0.5), "fail"),
        (GOOD._replace(kld=math.nan), "fail"),
        (GOOD._replace(kld=math.inf), "fail"),
        (GOOD._replace(kld=None), "warn"),
    ],
)
def test_the_worst_measure_decides(measured: Measured, verdict: str) -> None:
    assert gate.judge(measured, BANDS, ()).verdict == verdict


def test_every_band_has_its_line() -> None:
    because = gate.judge(GOOD, BANDS, ()).because
    assert len(because) == 3
    assert "0.03" in because[0]
    assert "at least 0.85" in because[2]


@pytest.mark.parametrize(("perplexity", "verdict"), [(23.4, "pass"), (900.0, "warn"), (60_000.0, "fail")])
def test_a_file_without_an_original_must_know_more_than_nothing(perplexity: float, verdict: str) -> None:
    alone = Measured(perplexity, None, None, None, 2550, 0)
    found = gate.judge(alone, bands_without_original(49_152), ())
    assert found.verdict == verdict
    assert any("Perplexity" in line for line in found.because)


def test_without_a_vocabulary_there_are_no_limits() -> None:
    assert bands_without_original(None) == {}


def test_nothing_to_compare_with_never_passes() -> None:
    assert gate.judge(GOOD, {}, ()).verdict == "warn"


@pytest.mark.parametrize("code", sorted(gate.FATAL))
def test_fatal_findings_fail(code: str) -> None:
    finding = Finding(code=code, message="m", remedy="r")
    assert gate.judge(GOOD, BANDS, (finding,)).verdict == "fail"


def test_other_findings_warn() -> None:
    assert gate.judge(GOOD, BANDS, (Finding(code="no-speed-up", message="m", remedy="r"),)).verdict == "warn"


@given(st.floats(0, 1), st.floats(0, 1))
def test_more_divergence_is_never_judged_better(a: float, b: float) -> None:
    order = ["pass", "warn", "fail"]
    low, high = sorted((a, b))
    assert order.index(gate.level("kld", low, BANDS["kld"])) <= order.index(gate.level("kld", high, BANDS["kld"]))
    top = BANDS["top1_agreement"]
    assert order.index(gate.level("top1_agreement", high, top)) <= order.index(gate.level("top1_agreement", low, top))


def problems(measured: Measured = GOOD, prompts: tuple[PromptPair, ...] = (), **more: object) -> list[str]:
    found = gate.find_problems(measured, prompts, BANDS, fmt="q4_k_m", imatrix=False, **more)  # type: ignore[arg-type]
    assert all(f.remedy and f.sources for f in found)
    return [f.code for f in found]


def test_findings() -> None:
    assert problems() == []
    assert problems(GOOD._replace(non_finite=3)) == ["non-finite"]
    assert problems(prompts=(pair(True), pair(True), pair(False))) == []
    assert problems(prompts=(pair(True), pair(False))) == ["garbled-output"]
    assert problems(GOOD._replace(kld=0.9)) == ["quality-loss"]
    assert problems(GOOD._replace(kld=0.9), prompts=(pair(False),)) == ["garbled-output"]
    assert problems(artifact_bytes=99, reference_bytes=100) == ["memory-not-lower"]
    assert problems(artifact_bytes=40, reference_bytes=100) == []
    wrong = Finding(code="wrong-types", message="m", remedy="r", sources=("s",))
    assert problems(types=wrong) == ["wrong-types"]


def test_garbled_output_advises_more_bits_or_broader_calibration() -> None:
    (finding,) = gate.find_problems(GOOD, (pair(False),), BANDS, fmt="q2_k", imatrix=True)
    assert "--format q3_k_m" in finding.remedy
    assert "--calibration" in finding.remedy


@pytest.mark.parametrize("fmt", [f for f in GGUF_FORMATS if f != "mxfp4"])
def test_next_format_climbs_to_the_top(fmt: str) -> None:
    seen = [fmt]
    while (better := remedies.next_format(seen[-1])) is not None:
        assert GGUF_FORMATS.index(better) > GGUF_FORMATS.index(seen[-1])
        seen.append(better)
    assert seen[-1] in ("f16", "bf16")


def test_nothing_is_nearer_to_weights_that_were_published_in_mxfp4() -> None:
    assert remedies.next_format("mxfp4") is None
    assert remedies.next_choice("gguf", "mxfp4") is None
    assert remedies.next_choice("mxfp4", "mxfp4") == remedies.Choice("nvfp4", "nvfp4")
    told = remedies.more_quality("mxfp4", False, method="gguf")
    assert "published in MXFP4" in told
    assert "--method none" not in told


def test_next_format_of_other_methods_is_unknown() -> None:
    assert remedies.next_format("w4a16-g128") is None


def test_no_speed_up() -> None:
    assert gate.no_speed_up(20, 10, runtime="llama.cpp") is None
    finding = gate.no_speed_up(10, 10, runtime="llama.cpp")
    assert finding is not None
    assert finding.code == "no-speed-up"


def test_gate_error_carries_diagnosis_and_next_plan(tmp_path_factory: pytest.TempPathFactory) -> None:
    finding = Finding(code="garbled-output", message="m", remedy="do this")
    verification = Verification(
        perplexity=90.0,
        perplexity_reference=20.0,
        kld=2.0,
        top1_agreement=0.1,
        positions=10,
        text="t",
        text_sha256="0",
        prompts=(),
        findings=(finding,),
        gate=Gate(verdict="fail", bands=BANDS, because=("too far",)),
    )
    path = tmp_path_factory.mktemp("a") / "m.gguf"
    error = gate.gate_error(verification, path, fmt="q2_k", model="SmolLM2")
    assert (error.code, error.exit_code) == ("quality-gate-failed", 3)
    assert error.context == ("too far", "garbled-output: do this")
    assert error.hint == "advisor up SmolLM2 --format q3_k_m"
    assert error.data["verification"]["kld"] == 2.0


@pytest.mark.parametrize(
    ("method", "fmt", "hint", "following"),
    [
        ("gptq", "w4a16-g64", "advisor up M --method gptq --format w4a16-g32", ("gptq", "w4a16-g32")),
        ("rtn", "w4a16-g32", "advisor up M --method gptq --format w4a16-g32", ("gptq", "w4a16-g32")),
        ("int8", "int8", "advisor up M --method none", ("none", "bf16")),
        ("none", "bf16", "advisor up M --method none", (None, None)),
    ],
)
def test_the_next_choice_of_other_methods_is_a_command(
    method: str, fmt: str, hint: str, following: tuple[str | None, str | None], tmp_path: Path
) -> None:
    failed = Verification(
        perplexity=90.0,
        perplexity_reference=20.0,
        kld=2.0,
        top1_agreement=0.1,
        positions=10,
        text="t",
        text_sha256="0",
        prompts=(),
        findings=(),
        gate=Gate(verdict="fail", bands=BANDS, because=()),
    )
    error = gate.gate_error(failed, tmp_path / "m", fmt=fmt, model="M", method=method)
    assert error.hint == hint
    assert (error.data["next_method"], error.data["next_format"]) == following


def test_layers_that_put_out_too_little_or_too_much_are_named() -> None:
    sizes = {"layers.0.mlp": 1.0, "layers.1.mlp": 40.0, "layers.2.mlp": 0.0}
    assert gate.find_layers(sizes, sizes, method="rtn", fmt="w4a16-g64") == []
    near = {"layers.0.mlp": 1.3, "layers.1.mlp": 30.0, "layers.2.mlp": 0.0}
    assert gate.find_layers(sizes, near, method="rtn", fmt="w4a16-g64") == []
    (dead,) = gate.find_layers(sizes, {**sizes, "layers.1.mlp": 0.1}, method="rtn", fmt="w4a16-g64")
    assert (dead.code, "layers.1.mlp" in dead.message) == ("zeroed-layer", True)
    (odd,) = gate.find_layers(
        sizes, {**sizes, "layers.0.mlp": 0.3, "layers.1.mlp": 90.0}, method="rtn", fmt="w4a16-g64"
    )
    assert (odd.code, "layers.0.mlp" in odd.message) == ("bad-scales", True)
    assert "advisor up MODEL --method rtn --format w4a16-g64" in odd.remedy
