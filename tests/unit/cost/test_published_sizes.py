"""Sizes from configuration alone, against sizes of real checkpoints that were published."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest

from advisor.cost.formats import checkpoint
from advisor.cost.gguf_mix import EVERY
from benchmarks.numbers_sizes import BAR, Size, published, sizes, summary
from tests.support import shapes


@cache
def found() -> tuple[Size, ...]:
    return tuple(published())


def test_every_published_size_is_met_within_one_per_cent() -> None:
    off = {(s.model, s.method, s.format): round(s.ratio, 4) for s in found() if s.error > BAR}
    assert not off
    # Beyond what the published figure is rounded to there is next to nothing.
    assert max(s.beyond_rounding for s in found()) < 0.002
    assert summary(found())["median"] < 0.002


def test_the_table_is_broad_and_names_its_sources() -> None:
    methods = Counter(s.method for s in found())
    assert sum(n for m, n in methods.items() if m != "gguf") >= 25
    assert set(methods) >= {"awq", "gptq", "w8a8", "fp8", "nvfp4", "mxfp4", "nf4", "int8", "hqq", "gguf"}
    assert len({s.model for s in found()}) >= 35
    assert len({s.format for s in found() if s.method == "gguf"}) >= 20
    assert {s.format for s in found() if s.method == "gguf"} <= set(EVERY)
    for s in found():
        assert s.source
        assert 0 <= s.plus_minus < 0.011 * s.published, s
    keys = [(s.model, s.method, s.format, s.options, s.source) for s in found()]
    assert len(keys) == len(set(keys))


def test_the_stated_range_holds_the_published_size() -> None:
    outside = [(s.model, s.format) for s in found() if not s.low - s.plus_minus <= s.published <= s.high + s.plus_minus]
    assert len(outside) <= 0.03 * len(found()), outside


def test_it_prints_every_row() -> None:
    lines: list[str] = []
    sizes(lines.append)
    text = "\n".join(lines)
    assert text.count("| hub ") == sum(s.source.startswith("hub ") for s in found())
    assert "| all | " in text


@pytest.mark.parametrize("quantized", [None, "awq"])
def test_a_tied_output_may_be_stored_again_in_somebody_elses_file(quantized: str | None) -> None:
    arch = shapes.KNOWN["qwen2.5-0.5b"]
    model, tensors = shapes.facts(arch, quantized_method=quantized), shapes.tensors(arch)
    plain = checkpoint(model, tensors, "awq", "w4a16-g128", "autoawq").total
    twice = checkpoint(model, tensors, "awq", "w4a16-g128", "autoawq", output_twice=True).total
    assert twice.value - plain.value == 2 * arch.vocab * arch.hidden
    assert (twice.value <= plain.high) is (quantized is not None)
