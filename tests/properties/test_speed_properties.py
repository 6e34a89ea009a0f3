"""A faster machine never gets a slower prediction for the same plan."""

from __future__ import annotations

import pytest

from advisor.facts.machine import Machine
from advisor.facts.plan import Plan
from tests.properties.spread import machine, over_the_spread, plans, what, with_cores, with_devices, with_host_speed
from tests.scenarios.reading import machine_of
from tests.scenarios.shapes import MachineSpec

pytestmark = pytest.mark.beside

# Rounding of what is compared.
_SAME = 1e-6


def figures(p: Plan) -> dict[str, float | None]:
    return {
        "decode": None if p.speed.decode is None else float(p.speed.decode.value),
        "prefill": None if p.speed.prefill is None else float(p.speed.prefill.value),
    }


def not_slower(slow: Machine, fast: Machine, model: str, wanted: str) -> None:
    """The same plans, none of them slower."""
    before = {what(p): p for p in plans(model, slow, wanted)}
    after = {what(p): p for p in plans(model, fast, wanted)}
    assert set(before) <= set(after)
    for key, p in before.items():
        for name, was in figures(p).items():
            now = figures(after[key])[name]
            assert was is None or (now is not None and now >= was * (1 - _SAME)), f"{key}: {name} {was} -> {now}"


def faster(name: str, model: str, wanted: str) -> None:
    """Faster memory of the devices, of the host, more cores: each alone."""
    where = machine(name)
    for better in (with_devices(where, bandwidth=1.5), with_host_speed(where, 1.5), with_cores(where, 2)):
        if better != where:
            not_slower(where, better, model, wanted)


test_a_faster_machine_never_gets_a_slower_prediction = over_the_spread(4)(faster)
test_a_faster_machine_never_gets_a_slower_prediction_widely = pytest.mark.slow(over_the_spread(150)(faster))

# Each is faster in memory and in arithmetic than the one before it.
CHAINS = (
    ("rtx-3060-12gb", "rtx-3090", "rtx-4090", "rtx-5090"),
    ("t4", "l40s", "h100", "h200"),
    ("rtx-3090", "rtx-3090-ti"),
    ("rx-7800-xt", "rx-7900-xt", "rx-7900-xtx"),
    ("m1", "m1-max-32", "m2-ultra-76"),
)


@pytest.mark.parametrize("chain", CHAINS, ids=lambda c: c[0])
def test_a_faster_device_never_gets_a_slower_prediction(chain: tuple[str, ...]) -> None:
    last: dict[tuple[object, ...], float] = {}
    for name in chain:
        where = machine_of(MachineSpec(hardware=(name,), memory="64GB"))
        now = {
            (p.method, p.format, p.runtime, p.devices): float(p.speed.decode.value)
            for p in plans("3B", where)
            if p.speed.decode is not None and p.devices != ("host",) and "host" not in p.devices
        }
        slower = {k: (last[k], v) for k, v in now.items() if k in last and v < last[k]}
        assert not slower, f"{name}: {slower}"
        last = now
