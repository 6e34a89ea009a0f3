"""Figures of device copies go to the device that they belong to, and to no other."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.cost.speed import nominal
from advisor.execute import copying
from advisor.facts.machine import Device
from advisor.facts.quantity import exact
from advisor.facts.words import Vendor
from advisor.probes.vendors.base import unusable


def device(number: int, name: str, vendor: Vendor = "nvidia", uuid: str | None = None) -> Device:
    """A usable device."""
    made = unusable(vendor, name, "x")
    return msgspec.structs.replace(made, id=f"gpu{number}", unusable=None, uuid=uuid)


def figure(name: str, *, kind: str = "cuda", rate: float = 1e12, uuid: str | None = None) -> dict[str, Any]:
    """One line of the runner's result."""
    rates = {"best": rate, "median": rate * 0.98, "worst": rate * 0.9}
    return {"kind": kind, "index": 0, "name": name, "uuid": uuid, "bytes": 1 << 30, **rates}


def place(*lines: dict[str, Any], devices: tuple[Device, ...]) -> dict[str, int]:
    """Rates by device id."""
    found, _ = copying.place({"torch": "2", "devices": list(lines)}, devices, "torch 2")
    return {c.device: int(c.quantity.high) for c in found}


def test_by_uuid_before_the_name() -> None:
    cards = (device(0, "NVIDIA A10", uuid="GPU-aaaa"), device(1, "NVIDIA A10", uuid="GPU-bbbb"))
    lines = (figure("NVIDIA A10", rate=1e12, uuid="bbbb"), figure("NVIDIA A10", rate=2e12, uuid="aaaa"))
    assert place(*lines, devices=cards) == {"gpu1": 10**12, "gpu0": 2 * 10**12}


def test_by_name() -> None:
    cards = (device(0, "NVIDIA GeForce RTX 4090"), device(1, "NVIDIA L4"))
    assert place(figure("NVIDIA L4"), devices=cards) == {"gpu1": 10**12}


def test_as_the_only_one_of_its_kind() -> None:
    cards = (device(0, "Apple M3 Max (40)", "apple"), device(1, "NVIDIA L4"))
    assert place(figure("mps", kind="mps"), devices=cards) == {"gpu0": 10**12}


def test_not_to_another_vendor_and_not_by_guess() -> None:
    assert place(figure("x", kind="xpu"), devices=(device(0, "NVIDIA L4"),)) == {}
    assert place(figure("x"), devices=(device(0, "NVIDIA L4"), device(1, "NVIDIA T4"))) == {}


def test_failures_are_told() -> None:
    found, problems = copying.place({"devices": [{"kind": "cuda", "error": "out of memory"}]}, (device(0, "x"),), "t")
    assert (found, problems) == ((), ("out of memory",))


@pytest.mark.parametrize("rate", [float("nan"), -1.0, 0.0, 1e30, "fast", None, True])
def test_absurd_rates_are_left_out(rate: Any) -> None:
    line = figure("NVIDIA L4") | {"best": rate}
    assert place(line, devices=(device(0, "NVIDIA L4"),)) == {}


def test_a_copy_that_varies_is_not_stable() -> None:
    line = figure("NVIDIA L4") | {"worst": 1e11}
    found, _ = copying.place({"devices": [line]}, (device(0, "NVIDIA L4"),), "t")
    assert [c.stable for c in found] == [False]


def test_a_measured_copy_counts_as_the_nominal_rate_it_is_a_part_of() -> None:
    table = exact(1_000_000_000_000, "bytes/s", "profiles/hardware/x.yaml", "table")
    measured = exact(900_000_000_000, "bytes/s", "device copy", "measured")
    assert nominal(table) == pytest.approx(1e12)
    assert nominal(measured) == pytest.approx(1e12)


@settings(deadline=None)
@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.floats(), st.text(max_size=8), st.sampled_from(("cuda", "devices"))),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(st.sampled_from(("devices", "kind", "name", "best", "median", "worst", "error")), inner),
        ),
        max_leaves=12,
    )
)
def test_whatever_a_runner_says(result: Any) -> None:
    for copy in copying.place(result, (device(0, "NVIDIA L4"),), "t")[0]:
        assert copy.quantity.low <= copy.quantity.value <= copy.quantity.high
