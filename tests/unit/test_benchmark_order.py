"""The benchmark's sentence on the order of quality."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from advisor.facts.comparison import Figures, Row
from advisor.facts.quantity import exact

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from methods import order


def row(method: str, kld: float | None) -> Row:
    measured = Figures(kld=exact(kld, "nats", "test", "measured")) if kld is not None else None
    return Row(method=method, format=method, runtime="vllm", plan_id="p-1", predicted=None, measured=measured)  # type: ignore[arg-type]


GOOD = {"w8a8": 0.01, "int8": 0.02, "awq": 0.16, "gptq": 0.2, "rtn": 0.4}


def test_the_expected_order() -> None:
    told = order(tuple(row(m, v) for m, v in GOOD.items()))
    assert told.startswith("Order of KL divergence, as expected: 8 bits: w8a8 0.0100, int8 0.0200; ")


@pytest.mark.parametrize("change", [{"int8": 0.17}, {"gptq": 0.5}, {"rtn": 0.005}])
def test_another_order_is_told(change: dict[str, float]) -> None:
    assert "NOT as expected" in order(tuple(row(m, v) for m, v in {**GOOD, **change}.items()))


def test_what_was_not_measured_is_left_out() -> None:
    told = order((row("w8a8", 0.01), row("awq", None), row("rtn", 0.4)))
    assert told == "Order of KL divergence, as expected: 8 bits: w8a8 0.0100; 4 bits, rounded: rtn 0.4000."
