from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.cli import numbers
from advisor.facts.quantity import exact, spread


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (24 * 2**30, "24.0 GiB"),
        (2**30 - 1, "1.00 GiB"),
        (180 * 2**30, "180 GiB"),
        (None, "unknown"),
    ],
)
def test_sizes(value: int | None, text: str) -> None:
    assert numbers.size(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5, "0.5 s"), (12.4, "12 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (None, "unknown"), (59.99, "60 s")],
)
def test_seconds(value: float | None, text: str) -> None:
    assert numbers.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(999_885_952, "1.00 B"), (134_515_008, "135 M"), (8_030_261_248, "8.03 B")]
)
def test_counts(value: int, text: str) -> None:
    assert numbers.count(value) == text


def test_bandwidth_is_decimal() -> None:
    assert numbers.bandwidth(1008 * 10**9) == "1.01 TB/s"
    assert numbers.bandwidth(936 * 10**9) == "936 GB/s"


def test_a_quantity_and_its_range() -> None:
    q = spread(40.0, "tokens/s", "fit", "a fit", low=0.5, high=3.0)
    assert numbers.quantity(q) == "40.0 tok/s"
    assert numbers.quantity_range(q) == "20.0 tok/s - 120 tok/s"
    assert numbers.origin(q) == "fit"
    assert numbers.quantity_range(exact(1, "s", "a clock")) == ""


def test_unknown_is_not_zero() -> None:
    assert numbers.quantity(None) == "unknown"
    assert numbers.origin(None) == ""


@given(st.integers(0, 2**60))
def test_sizes_are_short(value: int) -> None:
    assert len(numbers.size(value)) <= 9
