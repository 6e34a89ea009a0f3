"""Numbers as people read them: one system of units, and no more digits than are known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.facts import shown
from advisor.facts.quantity import Method, Unit, exact, spread
from tests.support import samples


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (24 * 2**30, "24.0 GiB"),
        (2**30 - 1, "1.00 GiB"),
        (180 * 2**30, "180 GiB"),
        (1013 * 2**20, "1013 MiB"),
        (None, "unknown"),
    ],
)
def test_sizes(value: int | None, text: str) -> None:
    assert shown.size(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.5 s"),
        (12.4, "12 s"),
        (59.99, "60 s"),
        (200, "3 min 20 s"),
        (240, "4 min"),
        (3133, "52 min"),
        (3599.9, "1 h"),
        (7500, "2 h 05 min"),
        (40_000, "11 h"),
        (260_000, "3 days"),
        (None, "unknown"),
    ],
)
def test_durations_are_as_fine_as_people_say_them(value: float | None, text: str) -> None:
    assert shown.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(999_885_952, "1.00 B"), (134_515_008, "135 M"), (8_030_261_248, "8.03 B"), (12, "12")]
)
def test_counts_of_parameters(value: int, text: str) -> None:
    assert shown.count(value) == text


def test_bandwidth_is_in_gigabytes_a_second() -> None:
    assert shown.bandwidth(1008 * 10**9) == "1008 GB/s"
    assert shown.bandwidth(936 * 10**9) == "936 GB/s"
    assert shown.bandwidth(36_600_000_000) == "36.6 GB/s"


@pytest.mark.parametrize(
    ("method", "unit", "value", "text", "whole_range", "wide"),
    [
        ("guess", "bytes", int(11.12 * 2**30), "11 GiB", "6.7 - 19 GiB", "6.7-19"),
        ("guess", "tokens/s", 201.4, "200 tok/s", "120 - 340 tok/s", "120-340"),
        ("table", "bytes/s", 936e9, "940 GB/s", "560 - 1600 GB/s", "560-1600"),
        ("formula", "bytes", int(11.12 * 2**30), "11.1 GiB", "6.67 - 18.9 GiB", "6.7-19"),
        ("fit", "tokens/s", 1349.2, "1350 tok/s", "810 - 2290 tok/s", "810-2300"),
        ("fit", "nats", 0.0313, "0.0313", "0.0188 - 0.0532", "0.019-0.053"),
        ("guess", "ratio", 1.0731, "1.07", "0.64 - 1.82", "0.64-1.82"),
        ("measured", "tokens/s", 1349.2, "1349 tok/s", "810 - 2294 tok/s", "810-2300"),
        ("fit", "s", 3133.0, "52 min", "31 min - 1 h 29 min", "31 min - 1 h 29 min"),
    ],
)
def test_digits_follow_the_method(
    method: Method, unit: Unit, value: float, text: str, whole_range: str, wide: str
) -> None:
    q = spread(value, unit, method, "a source", low=0.6, high=1.7)
    assert (shown.quantity(q), shown.quantity_range(q), shown.wide(q)) == (text, whole_range, wide)


def test_a_number_of_a_data_sheet_keeps_its_digits() -> None:
    assert shown.quantity(exact(936e9, "bytes/s", "a data sheet", "table")) == "936 GB/s"


def test_a_narrow_range_stays_out_of_the_way() -> None:
    q = spread(100.0, "tokens/s", "fit", "a fit", low=0.9, high=1.1)
    assert shown.wide(q) == ""
    assert shown.quantity_range(q) == "90.0 - 110 tok/s"
    assert shown.quantity_range(exact(1, "s", "a clock")) == ""


def test_what_has_a_spread_is_not_called_exact() -> None:
    assert shown.origin(exact(1, "bytes", "x")) == "exact"
    assert shown.origin(spread(100, "bytes", "exact", "x", low=0.5)) == "formula"


def test_unknown_is_not_zero() -> None:
    assert shown.quantity(None) == "unknown"
    assert shown.origin(None) == shown.wide(None) == shown.quantity_range(None) == ""
    assert shown.quantity(exact(0.0, "nats", "x")) == "0"
    assert shown.quantity(exact(0.00001, "nats", "x")) == "<0.0001"


@given(st.integers(0, 2**60))
def test_sizes_are_short(value: int) -> None:
    assert len(shown.size(value)) <= 9


@given(st.floats(1e-6, 1e15), st.sampled_from(["bytes", "bytes/s", "tokens/s", "s", "nats", "ratio"]))
def test_every_number_can_be_shown(value: float, unit: Unit) -> None:
    for method in ("guess", "fit", "measured"):
        q = spread(value, unit, method, "x", low=0.1, high=9.0)  # type: ignore[arg-type]
        for text in (shown.quantity(q), shown.quantity_range(q), shown.wide(q)):
            assert "e+" not in text and "e-" not in text


def test_plurals_lists_and_moments() -> None:
    assert [shown.counted(n, "slot") for n in (0, 1, 2, 8192)] == ["0 slots", "1 slot", "2 slots", "8,192 slots"]
    assert [shown.listed(w) for w in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
    assert shown.moment("2026-11-21T06:49:09.974Z") == "2026-11-21 06:49 UTC"
    assert shown.moment(None) == ""
    assert shown.moment("yesterday") == "yesterday"


@pytest.mark.parametrize(
    ("devices", "settings", "cards", "text"),
    [
        (("host",), {}, 0, ""),
        (("host",), {}, 1, "CPU only"),
        (("gpu0",), {}, 1, "gpu0"),
        (("gpu0",), {}, 2, "one card (gpu0)"),
        (("gpu0", "gpu1"), {"tensor_parallel": 2}, 2, "tensor parallel on 2 cards"),
        (("gpu0", "gpu1"), {"tensor_parallel": 2}, 3, "tensor parallel on 2 of 3 cards"),
        (("gpu0", "gpu1"), {"pipeline_parallel": 2}, 2, "pipeline parallel on 2 cards"),
        (("gpu0", "gpu1"), {"tensor_split": (0.5, 0.5), "gpu_layers": 33}, 2, "layers split over 2 cards"),
        (("gpu0", "host"), {"gpu_layers": 20}, 1, "20 layers on gpu0, the rest on the CPU"),
        (("gpu0", "host"), {"gpu_layers": 33, "cpu_moe_layers": 1}, 1, "gpu0, experts of 1 layer on the CPU"),
    ],
)
def test_how_cards_are_used(devices: tuple[str, ...], settings: dict[str, object], cards: int, text: str) -> None:
    plan = samples.sample_plan(devices=devices, settings=samples.sample_settings(**settings))
    assert shown.placement(plan, cards) == text
