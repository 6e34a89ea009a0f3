"""Quantities add up, and the weakest method names the sum."""

from __future__ import annotations

import pytest

from advisor.facts.quantity import Quantity, exact, spread, total


def test_sum_keeps_bounds_and_the_weakest_method() -> None:
    a = exact(100, "bytes", "header")
    b = spread(50, "bytes", "formula", "formula x", low=0.9, high=1.2)
    s = total([a, b], "sum")
    assert (s.value, s.low, s.high, s.method) == (150, 145, 160, "formula")


def test_whole_numbers_stay_whole() -> None:
    q = spread(101, "bytes", "guess", "x", low=0.5, high=1.5)
    assert isinstance(q.low, int)
    assert isinstance(q.high, int)
    assert q.low <= q.value <= q.high


def test_units_do_not_mix() -> None:
    with pytest.raises(ValueError, match="cannot add"):
        total([exact(1, "bytes", "x"), exact(1, "s", "x")], "sum")
    with pytest.raises(ValueError, match="at least one"):
        total([], "sum")


def test_json_round_trip() -> None:
    import msgspec

    q = exact(1.5, "tokens/s", "clock", "measured")
    assert msgspec.convert(q.to_json(), Quantity) == q


def test_a_sum_with_a_spread_is_not_exact() -> None:
    sure, bounded = exact(10, "bytes", "header"), spread(10, "bytes", "exact", "an upper bound", low=0.5)
    assert total([sure, sure], "sum").method == "exact"
    assert total([sure, bounded], "sum").method == "formula"
    assert total([bounded, exact(1, "bytes", "x", "guess")], "sum").method == "guess"
