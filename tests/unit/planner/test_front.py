"""The front: no plan on it is beaten, and every plan off it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from advisor.planner.building import Scored
from advisor.planner.front import front
from tests.support.samples import sample_quantity

Figures = tuple[float | None, float | None, int]


def scored(figures: Figures) -> Scored:
    kld, decode, memory = figures
    cost = SimpleNamespace(
        quality=SimpleNamespace(kld=None if kld is None else sample_quantity(kld, "nats")),
        speed=SimpleNamespace(decode=None if decode is None else sample_quantity(decode, "tokens/s")),
        memory=SimpleNamespace(total=sample_quantity(memory)),
    )
    return cast(Scored, SimpleNamespace(cost=cost, figures=figures))


def kept(*figures: Figures) -> list[Any]:
    return [cast(Any, s).figures for s in front([scored(f) for f in figures])]


def test_what_is_beaten_in_all_is_left_out() -> None:
    assert kept((0.1, 10.0, 8), (0.2, 9.0, 9), (0.05, 5.0, 8)) == [(0.1, 10.0, 8), (0.05, 5.0, 8)]


def test_of_equals_the_first_stays() -> None:
    assert kept((0.1, 10.0, 8), (0.1, 10.0, 8)) == [(0.1, 10.0, 8)]


def test_what_is_not_known_stays_and_beats_nobody() -> None:
    assert kept((None, 1.0, 99), (0.1, 10.0, 8), (0.1, None, 99)) == [(None, 1.0, 99), (0.1, 10.0, 8), (0.1, None, 99)]


few = st.sampled_from([0.1, 0.2, 0.4])


@given(st.lists(st.tuples(st.none() | few, st.none() | few, st.sampled_from([1, 2, 3])), max_size=8))
def test_the_front_is_not_empty_and_stays_itself(figures: list[Figures]) -> None:
    once = kept(*figures)
    assert bool(once) == bool(figures)
    assert kept(*once) == once
    for left_out in (f for f in figures if f not in once):
        assert None not in left_out[:2]
        assert any(
            None not in f[:2] and f[0] <= left_out[0] and f[1] >= left_out[1] and f[2] <= left_out[2]  # type: ignore[operator]
            for f in once
        )
