"""Costs found again from times that follow a law, with few samples and with many."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.planner import fitting
from advisor.planner.fitting import Prior, Sample

PRIORS = {"fixed": Prior(1.0, 1.0), "a": Prior(2.0, 0.35), "b": Prior(3.0, 0.35)}


def test_a_system_of_equations_is_solved_with_a_zero_on_the_diagonal() -> None:
    assert fitting.solve([[0.0, 2.0], [1.0, 1.0]], [4.0, 3.0]) == pytest.approx([1.0, 2.0])


def test_many_samples_find_the_costs_whatever_is_usual() -> None:
    true = {"fixed": 1.5, "a": 1.2, "b": 4.0}
    amounts = [{"fixed": 1.0, "a": float(i), "b": float(j)} for i in range(1, 5) for j in range(1, 5)]
    samples = [Sample(x, fitting.seconds(true, x)) for x in amounts]
    assert fitting.fit(samples, PRIORS) == pytest.approx(true, rel=0.02)
    error = fitting.left_out(samples, PRIORS)
    assert error is not None
    assert error < 0.01


@settings(max_examples=60, deadline=None)
@given(st.floats(0.3, 3.0), st.floats(0.1, 100.0), st.floats(0.1, 100.0))
def test_one_sample_is_met_and_nothing_is_negative(factor: float, a: float, b: float) -> None:
    amounts = {"fixed": 1.0, "a": a, "b": b}
    usual = {k: p.cost for k, p in PRIORS.items()}
    sample = Sample(amounts, factor * fitting.seconds(usual, amounts))
    found = fitting.fit([sample], PRIORS)
    assert all(cost > 0 for cost in found.values())
    missed = abs(fitting.seconds(found, amounts) / sample.seconds - 1)
    assert missed <= max(0.03, 0.2 * abs(1 / factor - 1))


def test_a_cost_that_the_samples_would_make_negative_stays_small_and_positive() -> None:
    samples = [Sample({"fixed": 1.0, "a": 1.0}, 10.0), Sample({"fixed": 10.0, "a": 1.0}, 10.0)]
    found = fitting.fit(samples, {"fixed": Prior(1.0, 1.0), "a": Prior(5.0, 1.0)})
    assert 0 < found["fixed"] < 0.2
    assert found["a"] == pytest.approx(10.0, rel=0.1)


def test_a_sample_of_little_weight_moves_little() -> None:
    good, bad = Sample({"a": 1.0}, 2.0), Sample({"a": 1.0}, 20.0, 0.001)
    assert fitting.fit([good, bad], PRIORS)["a"] == pytest.approx(2.0, rel=0.05)


def test_a_kind_without_samples_keeps_its_usual_cost_and_one_sample_has_no_error() -> None:
    samples = [Sample({"a": 1.0}, 2.0)]
    assert fitting.fit(samples, PRIORS)["b"] == PRIORS["b"].cost
    assert fitting.left_out(samples, PRIORS) is None
