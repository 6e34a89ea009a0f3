"""The fit behind profiles/speed: its table, its arithmetic, and how well it predicts devices that it never saw."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.cost import devices
from advisor.probes import catalog
from benchmarks import fit_cpu, fit_speed, numbers_speeds, ridge


def test_ridge_finds_a_line_and_ignores_an_outlier() -> None:
    points = [(x / 10, 0.3 + 0.5 * x / 10) for x in range(20)]
    points.append((1.0, 9.0))

    def terms(theta: dict[str, float]) -> Iterable[tuple[float, float, list[tuple[str, float]]]]:
        for x, y in points:
            yield 1.0, y - theta["a"] - theta["b"] * x, [("a", 1.0), ("b", x)]

    found = ridge.regress(["a", "b"], lambda _: 1e-6, {}, terms, 50, {})
    assert found["a"] == pytest.approx(0.3, abs=0.05)
    assert found["b"] == pytest.approx(0.5, abs=0.05)
    drawn = ridge.regress(["a", "b"], lambda name: 1e9 if name == "b" else 1e-6, {}, terms, 50, {"b": 0.1})
    assert drawn["b"] == pytest.approx(0.1, abs=0.01)


@given(
    pairs=st.lists(st.tuples(st.floats(-5, 5), st.floats(0.01, 3)), min_size=1, max_size=30), q=st.floats(0.01, 0.99)
)
def test_a_weighted_quantile_has_its_share_below(pairs: list[tuple[float, float]], q: float) -> None:
    value = ridge.quantile(pairs, q)
    total = sum(w for _, w in pairs)
    assert sum(w for v, w in pairs if v <= value) >= q * total - 1e-6
    assert sum(w for v, w in pairs if v < value) <= q * total + 1e-6


def test_the_published_table_is_sound() -> None:
    rows = fit_speed.read()
    assert len(rows) > 250
    assert len({r.device for r in rows}) > 25
    for r in rows:
        assert r.source
        assert 0 < r.ideal < r.time  # nothing was measured above the bandwidth
        assert 1 <= r.layers <= 200
        assert r.chain == devices.classes(fit_speed.device(r.device))
    text = fit_speed.TABLE.read_text(encoding="utf-8")
    assert "/home/" not in text


@pytest.mark.slow
@pytest.mark.beside
def test_decode_speed_of_devices_that_were_held_out() -> None:
    rows = fit_speed.read()
    full = fit_speed.fit(rows)
    found = fit_speed.held_out(rows, full)
    dense = [(r, p) for r, p in found if not r.moe and not r.suspect]
    errors = numbers_speeds.weighted(dense)
    assert ridge.quantile(errors, 0.5) <= numbers_speeds.BARS["median"]
    assert ridge.quantile(errors, 0.9) <= numbers_speeds.BARS["p90"]
    one = numbers_speeds.weighted([(r, fit_speed.ONE_FACTOR / r.nominal) for r, _ in dense])
    assert ridge.quantile(errors, 0.5) < ridge.quantile(one, 0.5) / 2
    for moe in (False, True):
        chosen = [(r, p) for r, p in found if r.moe == moe and not r.suspect]
        flags = numbers_speeds.covered(chosen, rows)
        assert numbers_speeds.share((ok, 1.0) for ok, _ in flags) >= numbers_speeds.BARS["covered"]
    made = fit_speed.text_of(fit_speed.build(rows, full, found))
    assert fit_speed.ENGINES.read_text(encoding="utf-8") == made  # python benchmarks/fit_speed.py --write


def test_no_part_of_the_fit_belongs_to_one_device() -> None:
    names = {part.lower().split(":")[-1] for part in devices.speeds().decode.efficiency}
    assert names.isdisjoint(catalog.names())


def test_fixed_time_of_a_cpu_engine_from_two_depths() -> None:
    rows = [r for r in fit_cpu.read() if r.engine == "llama.cpp"]
    for r in rows:
        assert r.source
        assert r.decode is not None or r.prefill is not None
    made = fit_cpu.cpu()["engines"]
    assert set(made) == {"llama.cpp", "vllm", "transformers"}
    # What starts each step from Python takes longer for it than what does not.
    assert made["llama.cpp"]["fixed_ms"] < made["vllm"]["fixed_ms"] < made["transformers"]["fixed_ms"]
    assert made["vllm"]["decode"]["fp8"] < made["vllm"]["decode"]["int4"] / 10
