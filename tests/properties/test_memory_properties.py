"""What holds of memory on every machine, for every model and every goal."""

from __future__ import annotations

import msgspec
import pytest

from advisor.facts.machine import Machine
from advisor.facts.plan import Plan
from advisor.planner.costing import host_capacity
from advisor.planner.devices import device_capacity
from tests.properties.spread import (
    GIB,
    MODELS,
    RECORDED,
    machine,
    over_the_spread,
    plans,
    what,
    with_devices,
    with_host,
)

pytestmark = pytest.mark.beside


def choice(p: Plan) -> tuple[str, str, str]:
    """What is run by what, wherever."""
    return (p.method, p.format, p.runtime)


def capacity(where: Machine, key: str) -> int | None:
    """Bytes that a plan may take of the host or of a device; ``None`` where that is not known."""
    return host_capacity(where) if key == "host" else device_capacity(next(d for d in where.devices if d.id == key))


def loss(p: Plan) -> float | None:
    return None if p.quality.kld is None else float(p.quality.kld.value)


def fits(name: str, model: str, wanted: str) -> None:
    """Each device of each plan has what the plan takes of it, and the parts are the whole."""
    where = machine(name)
    unified = {d.id for d in where.devices if d.unified_memory}
    for p in plans(model, where, wanted):
        told = f"{p.method} {p.format} {p.runtime} on {p.devices}"
        assert set(p.memory.by_device) <= {*p.devices, "host"} and p.memory.by_device, told
        assert sum(int(q.value) for q in p.memory.by_device.values()) == int(p.memory.total.value), told
        for key, taken in p.memory.by_device.items():
            have = capacity(where, key)
            assert have is None or taken.value <= have, f"{told}: {key} has {have}, the plan takes {taken.value}"
        if unified & set(p.devices):
            assert p.memory.total.value <= host_capacity(where), told
        if p.memory.reserved is not None:
            free = [capacity(where, key) for key in p.devices if key != "host"]
            if free and None not in free:
                assert p.memory.reserved.value <= sum(f for f in free if f is not None), told


test_every_plan_fits_the_machine_it_is_for = over_the_spread(6)(fits)
test_every_plan_fits_the_machine_it_is_for_widely = pytest.mark.slow(over_the_spread(300)(fits))


@pytest.mark.parametrize("name", RECORDED)
def test_every_plan_fits_each_recorded_machine(name: str) -> None:
    fits(name, MODELS[RECORDED.index(name) % len(MODELS)], "chat")


def never_worse(where: Machine, larger: Machine, model: str, wanted: str, *, strictly: bool) -> None:
    """With more memory no choice is lost, and the best plan is at least as good.

    Not ``strictly``: a plan that could not run before may take the place of a better one where the guide asks for it as
    soon as it fits (AWQ in vLLM for GGUF over card and host): see docs/decisions.md.
    """
    before, after = plans(model, where, wanted), plans(model, larger, wanted)
    assert {choice(p) for p in before} <= {choice(p) for p in after}
    if not before:
        return
    old, new = loss(before[0]), loss(after[0])
    if old is None or new is None or new <= old:
        return
    told = f"{what(before[0])} {old} -> {what(after[0])} {new}"
    assert not strictly, told
    assert what(after[0]) not in {what(p) for p in before}, told
    assert any(d.effect == "prefer" and (d.weight or 0) > 0 for d in after[0].decisions), told


def more_host_memory(name: str, model: str, wanted: str) -> None:
    """Host memory decides nothing but what fits: strictly."""
    where = machine(name)
    never_worse(where, with_host(where, 1.5), model, wanted, strictly=True)


def more_device_memory(name: str, model: str, wanted: str) -> None:
    """Device memory decides also which method the guide takes."""
    where = machine(name)
    never_worse(where, with_devices(where, memory=1.5), model, wanted, strictly=False)


test_more_host_memory_never_makes_it_worse = over_the_spread(6)(more_host_memory)
test_more_host_memory_never_makes_it_worse_widely = pytest.mark.slow(over_the_spread(200)(more_host_memory))
test_more_device_memory_never_makes_it_worse = over_the_spread(6)(more_device_memory)
test_more_device_memory_never_makes_it_worse_widely = pytest.mark.slow(over_the_spread(200)(more_device_memory))


@pytest.mark.parametrize("model", ["meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen3-30B-A3B"])
@pytest.mark.parametrize("wanted", ["chat", "accuracy"])
def test_a_larger_host_of_a_series_never_has_a_worse_plan(model: str, wanted: str) -> None:
    where, last = machine("cpu-64gb"), None
    for gib in (4, 8, 12, 16, 24, 32, 64):
        found = plans(model, with_host(where, gib * GIB / where.host.memory.total_bytes), wanted)
        if not found:
            assert last is None, f"{gib} GiB: what fitted before does not fit any more"
            continue
        now = loss(found[0])
        assert now is not None and (last is None or now <= last), f"{gib} GiB: {what(found[0])}"
        last = now


def longer_context(name: str, model: str, wanted: str) -> None:
    """A longer context adds no choice, and the same plan never needs less, on no device."""
    where = machine(name)
    shorter, longer = (plans(model, where, wanted, context=n) for n in (4096, 6400))
    assert {choice(p) for p in longer} <= {choice(p) for p in shorter}
    same = {what(p): p for p in shorter}
    for p in longer:
        q = same.get(what(p))
        if q is None:
            continue
        as_before = msgspec.structs.replace(p.settings, context=q.settings.context)
        if as_before != q.settings:  # layers were moved to make room: the devices' shares are not comparable
            assert p.settings.gpu_layers <= q.settings.gpu_layers and (
                (p.settings.cpu_moe_layers or 0) >= (q.settings.cpu_moe_layers or 0)
            )
            continue
        told = f"{what(p)}: {q.settings.context} -> {p.settings.context}"
        assert p.memory.total.value >= q.memory.total.value, told
        assert p.memory.weights.value == q.memory.weights.value, told
        for key, taken in p.memory.by_device.items():
            assert taken.value >= q.memory.by_device[key].value, f"{told}: {key}"


test_a_longer_context_never_needs_less = over_the_spread(6)(longer_context)
test_a_longer_context_never_needs_less_widely = pytest.mark.slow(over_the_spread(250)(longer_context))
