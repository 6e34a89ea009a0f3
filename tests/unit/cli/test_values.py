from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.cli import values

PARSERS = (values.parse_size, values.parse_bandwidth, values.parse_duration, values.parse_tokens)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GB", 24 * 10**9),
        ("24GiB", 24 * 2**30),
        ("24 gib", 24 * 2**30),
        ("1.5GiB", 3 * 2**29),
        ("0.1GB", 10**8),
        ("512MiB", 2**29),
        ("80gb", 80 * 10**9),
        ("1000", 1000),
        ("17B", 17),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert values.parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["24G", "24Gb", "24Gib", "", "GB", "-1GB", "0GB", "1e9", "24 GB/s", "24XB", "1.5", "٢GB"]
)
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match=r"[a-z]"):
        values.parse_size(text)


def test_an_ambiguous_size_names_both_readings() -> None:
    with pytest.raises(ValueError, match="24GB or 24GiB"):
        values.parse_size("24G")


def test_bits_are_not_bytes() -> None:
    with pytest.raises(ValueError, match="counts bits"):
        values.parse_size("24Gb")


@pytest.mark.parametrize(
    ("text", "rate"), [("1008GB/s", 1008 * 10**9), ("1.79TB/s", 1790 * 10**9), ("50GiB/s", 50 * 2**30), ("100", 100)]
)
def test_bandwidths(text: str, rate: int) -> None:
    assert values.parse_bandwidth(text) == rate


@pytest.mark.parametrize(
    ("text", "seconds"), [("10m", 600), ("90s", 90), ("1h30m", 5400), ("1.5h", 5400), ("45", 45), ("1H", 3600)]
)
def test_durations(text: str, seconds: float) -> None:
    assert values.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "10x", "0s", "-5m", "m10", "99999999h", "5 minutes"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        values.parse_duration(text)


@pytest.mark.parametrize(("text", "tokens"), [("8192", 8192), ("32k", 32768), ("1M", 2**20)])
def test_tokens(text: str, tokens: int) -> None:
    assert values.parse_tokens(text) == tokens


@pytest.mark.parametrize("text", ["0", "-1", "8.5k", "many", ""])
def test_no_tokens(text: str) -> None:
    with pytest.raises(ValueError, match="tokens"):
        values.parse_tokens(text)


@given(st.text(max_size=40))
def test_any_text_is_a_value_above_zero_or_a_sentence(text: str) -> None:
    for parse in PARSERS:
        try:
            value = parse(text)
        except ValueError as e:
            assert str(e)
        else:
            assert value > 0


@given(st.integers(1, 10**6), st.sampled_from(["kB", "MB", "GB", "TB", "KiB", "MiB", "GiB", "TiB"]))
def test_units_are_what_they_say(n: int, unit: str) -> None:
    step = 1024 if "i" in unit else 1000
    assert values.parse_size(f"{n}{unit}") == n * step ** ("kmgt".index(unit[0].lower()) + 1)
