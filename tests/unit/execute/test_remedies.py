from __future__ import annotations

import pytest

from advisor.cost.quality import bands
from advisor.execute.remedies import Choice, more_quality, next_choice
from advisor.facts.words import METHODS, is_format

EVERY = [
    *((m, f"w{b}a16-g{g}") for m in ("awq", "gptq", "rtn") for b in (2, 3, 4, 8) for g in (32, 64, 128, 256)),
    *(("hqq", f"hqq{b}-g{g}") for b in (2, 3, 4, 8) for g in (32, 64, 128)),
    *((f, f) for f in ("w8a8", "fp8", "nvfp4", "mxfp4", "nf4", "int8")),
    ("gguf", "q2_k"),
    ("gguf", "q8_0"),
]


@pytest.mark.parametrize(("method", "fmt"), EVERY)
def test_each_next_choice_is_nearer_to_the_original_until_it_is_the_original(method: str, fmt: str) -> None:
    at, steps = Choice(method, fmt), 0
    while (better := next_choice(*at)) is not None:
        assert better.method in METHODS
        assert is_format(better.format)
        now = bands(135_000_000, at.method, at.format, imatrix=False)["kld"].fail
        then = bands(135_000_000, better.method, better.format, imatrix=False)["kld"].fail
        assert then <= now, (at, better)
        at, steps = better, steps + 1
        assert steps < 10
    assert at.format in ("bf16", "f16")


@pytest.mark.parametrize(
    ("method", "fmt", "better"),
    [
        ("rtn", "w4a16-g64", ("gptq", "w4a16-g64")),
        ("awq", "w4a16-g128", ("awq", "w4a16-g64")),
        ("gptq", "w4a16-g64", ("gptq", "w4a16-g32")),
        ("gptq", "w4a16-g32", ("w8a8", "w8a8")),
        ("gptq", "w3a16-g128", ("gptq", "w4a16-g128")),
        ("rtn", "w2a16-g64", ("gptq", "w4a16-g64")),
        ("hqq", "hqq4-g64", ("hqq", "hqq4-g32")),
        ("hqq", "hqq3-g64", ("hqq", "hqq4-g64")),
        ("nf4", "nf4", ("int8", "int8")),
        ("nvfp4", "nvfp4", ("fp8", "fp8")),
        ("w8a8", "w8a8", ("none", "bf16")),
        ("gguf", "q4_k_m", ("gguf", "q5_k_m")),
        ("none", "bf16", None),
    ],
)
def test_the_ladder(method: str, fmt: str, better: tuple[str, str] | None) -> None:
    assert next_choice(method, fmt) == better


def test_advice_is_a_command() -> None:
    said = more_quality("w4a16-g64", False, method="gptq", model="SmolLM2")
    assert "advisor up SmolLM2 --method gptq --format w4a16-g32" in said
    assert "--calibration" in said
    assert "--calibration" not in more_quality("nf4", False, method="nf4")
    assert "--method none" in more_quality("int8", False, method="int8")
    assert "--format q5_k_m" in more_quality("q4_k_m", True)
    assert Choice("none", "bf16").command("M") == "advisor up M --method none"
    assert Choice("gguf", "q5_k_m").command("M") == "advisor up M --format q5_k_m"
