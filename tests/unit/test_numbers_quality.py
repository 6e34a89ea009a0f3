"""The fit of losses: what it makes of rows, and how well it tells of models that it did not see."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.fit_quality import (
    FOLDER,
    METHODS,
    ORDER,
    Fit,
    Row,
    group_of,
    imatrix_share,
    in_order,
    key_of,
    load,
    losses,
    rows,
)
from benchmarks.numbers_quality import Left, left_out, quality, summary

pytestmark = [pytest.mark.slow, pytest.mark.beside]


@pytest.fixture(scope="module")
def scored() -> list[Left]:
    return left_out(rows(load()))


def row(model: str, fmt: str, value: float, **more: object) -> Row:
    given: dict[str, object] = {
        "model": model, "params": 8_030_000_000, "method": "gguf", "format": fmt, "imatrix": False, "measure": "kld",
        "protocol": "p", "value": value, "source": "s",
    }  # fmt: skip
    return Row(**{**given, **more})  # type: ignore[arg-type]


def test_models_that_were_left_out_are_told_within_the_stated_range(scored: list[Left]) -> None:
    kld = summary(x for x in scored if x.row.measure == "kld")
    assert kld["rows"] > 40
    assert kld["factor"] < 1.4
    assert kld["inside"] >= 0.8
    assert kld["inside by model"] >= 0.8
    for measure in ("perplexity_ratio", "recovery"):
        told = summary(x for x in scored if x.row.measure == measure)
        assert told["models"] >= 10
        assert told["inside"] >= 0.8


def test_the_table_is_what_the_script_makes_of_the_rows() -> None:
    assert json.loads((FOLDER / "losses.json").read_text(encoding="utf-8")) == losses(load())


def test_near_copies_are_left_out_together() -> None:
    names = ("Meta-Llama-3-8B", "Meta-Llama-3-8B-Instruct", "Llama-3.1-8B-Instruct", "DeepSeek-R1-Distill-Llama-8B")
    assert {row(n, "q8_0", 0.1).family for n in names} == {"llama-3-8b"}
    assert row("Llama-2-7B", "q8_0", 0.1).family == "Llama-2-7B"


def test_rows_of_one_protocol_decide_between_formats_only() -> None:
    """Another model's level does not move the relation of two formats."""
    base = [row("a", "q4_0", 0.05), row("a", "q6_k", 0.005)]
    more = [*base, *(row("b", f, v, protocol="other") for f, v in (("q4_0", 0.2), ("q6_k", 0.02)))]
    gaps = [f.effect("format", "gguf", "q4_0") - f.effect("format", "gguf", "q6_k") for f in map(Fit, (base, more))]
    told = [f.anchor("gguf", "q4_0").mean - f.anchor("gguf", "q6_k").mean for f in map(Fit, (base, more))]
    assert gaps[0] == pytest.approx(gaps[1], abs=0.1)
    assert math.exp(told[1]) == pytest.approx(10, rel=0.15)


def test_what_no_row_tells_stays_at_its_prior_and_uncertain() -> None:
    fit = Fit([row("a", "q4_k_m", 0.03), row("b", "q4_k_m", 0.04), row("c", "q6_k", 0.005)])
    seen, unseen = fit.anchor("gguf", "q4_k_m"), fit.anchor("nvfp4", "nvfp4")
    assert unseen.deviation > seen.deviation
    assert fit.effect("method", "nvfp4") == METHODS["nvfp4"]
    assert math.exp(seen.mean) == pytest.approx(0.035, rel=0.15)


def test_noise_weighs_little() -> None:
    """A loss below the noise of its measure says next to nothing."""
    firm = [row("a", "q8_0", 0.002), row("b", "q8_0", 0.002)]
    with_noise = [*firm, row("c", "q8_0", -0.001, measure="perplexity_ratio"), row("c", "q4_0", 0.05)]
    assert Fit(with_noise).anchor("gguf", "q8_0").mean == pytest.approx(Fit(firm).anchor("gguf", "q8_0").mean, abs=0.5)


@given(st.lists(st.floats(-5, 1), min_size=1, max_size=8))
def test_pooling_keeps_the_mean_and_leaves_no_small_disorder(values: list[float]) -> None:
    told = in_order(values)
    assert len(told) == len(values)
    assert sum(told) == pytest.approx(sum(values), abs=1e-6)
    for before, after in pairwise(told):
        assert before <= after + 1e-9 or before - after >= 0.5 - 1e-9


def test_keys_groups_and_matrices() -> None:
    assert key_of("awq", "w4a16-g128") == ("awq", "4")
    assert key_of("hqq", "hqq3-g64") == ("hqq", "3")
    assert key_of("fp8", "fp8") == ("fp8", "*")
    assert key_of("gguf", "iq2_m") == ("gguf", "iq2_m")
    assert group_of("hqq4-g64") == 64
    assert group_of("q4_k_m") == 128
    assert imatrix_share("q8_0") == 0
    assert 0 < imatrix_share("q6_k") < imatrix_share("q5_k_m") < imatrix_share("q4_k_m") == 1
    assert {method for order in ORDER for method, _ in order} >= {"awq", "gptq", "fp8", "rtn"}


def test_it_prints_every_measure_and_method(scored: list[Left]) -> None:
    lines: list[str] = []
    quality(lines.append)
    text = "\n".join(lines)
    assert text.count("\n| ") == 3 + len({(x.row.measure, x.row.method) for x in scored}) + 1
    assert "| mean KL divergence | all | 52 |" in text
