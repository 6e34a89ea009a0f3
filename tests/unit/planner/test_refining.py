"""Layers on a device as the engine itself finds room for them: the search, what is made of its words, the new plan."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.api.planning import recommend
from advisor.cost.llama_memory import device_context
from advisor.cost.offload import engine_buffers
from advisor.facts.machine import Device, Machine
from advisor.facts.plan import Plan
from advisor.facts.quantity import Quantity, exact
from advisor.model.resolve import resolve
from advisor.model.tensors import tensors
from advisor.planner import refining
from advisor.planner.costing import HEADROOM
from advisor.planner.refining import most_that_fit, movable, needed, refined, room
from tests.unit.planner import planner_fakes as fakes

MIB = 1 << 20
MODEL = resolve("70B")
PARTS = tensors(MODEL)


class Engine:
    """Answers out of a list, and counts."""

    def __init__(self, needs: list[int | None]) -> None:
        self.needs, self.asked = needs, 0

    def __call__(self, n: int) -> int | None:
        self.asked += 1
        return self.needs[n]


@given(st.data())
def test_where_needs_grow_the_most_that_fit_are_found(data: st.DataObject) -> None:
    steps = data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=90))
    needs: list[int | None] = [sum(steps[: n + 1]) for n in range(len(steps))]
    planned = data.draw(st.integers(1, len(steps) - 1))
    size = data.draw(st.integers(0, sum(steps)))
    engine = Engine(needs)
    found = most_that_fit(engine, planned=planned, least=1, most=len(steps) - 1, room=size)
    good = [n for n, need in enumerate(needs) if n >= 1 and need is not None and need <= size]
    assert found is not None
    assert found.layers == (good[-1] if good else None)
    assert found.needed == needs[good[-1] if good else 1]
    assert engine.asked <= 16


@given(st.data())
def test_whatever_the_engine_says_the_answer_fits_and_the_two_above_do_not(data: st.DataObject) -> None:
    needs = data.draw(st.lists(st.none() | st.integers(0, 20), min_size=2, max_size=40))
    planned = data.draw(st.integers(0, len(needs) - 1))
    found = most_that_fit(Engine(needs), planned=planned, least=0, most=len(needs) - 1, room=10)

    def fits(n: int) -> bool:
        need = needs[n] if n < len(needs) else None
        return need is not None and need <= 10

    if needs[planned] is None:
        assert found is None
        return
    assert found is not None
    if found.layers is None:
        assert not fits(planned)
        assert not fits(0)
        return
    assert fits(found.layers)
    assert found.needed == needs[found.layers]
    assert not fits(found.layers + 1)
    assert not fits(found.layers + 2)
    assert found.layers >= planned or not fits(planned)


def test_one_that_is_asked_in_vain_changes_nothing() -> None:
    assert most_that_fit(lambda _: None, planned=12, least=1, most=31, room=100) is None


def work(value: int, *, method: Any = "formula", spread: int = 5) -> Quantity:
    return Quantity(
        value=value * MIB,
        low=(value - spread) * MIB,
        high=(value + spread) * MIB,
        unit="bytes",
        method=method,
        source="",
    )


@pytest.mark.parametrize(
    ("compute", "formula", "spared", "low", "value", "high"),
    [
        # The layers' own peak is above the batch's logits: the server's is the tool's.
        (120, work(118), 96, 24, 118, 121),
        # Logits of a batch are all there is to see: the formula's bound stands.
        (97, work(14), 96, 1, 14, 19),
        # The tool says more than logits and formula together: what is above the logits is there for sure.
        (140, work(14), 96, 44, 44, 45),
        # A build whose server reserves all rows, too.
        (97, work(14), 0, 97, 97, 98),
        # What is guessed bounds nothing.
        (97, work(14, method="guess"), 96, 1, 14, 98),
        (97, work(300, method="guess"), 96, 1, 98, 98),
    ],
)
def test_the_words_of_the_fit_tool(
    compute: int, formula: Quantity, spared: int, low: int, value: int, high: int
) -> None:
    told = needed(50 * MIB, compute * MIB, work=formula, spared=spared * MIB, step=MIB)
    assert told.low == (50 + low) * MIB
    assert told.value == pytest.approx((50 + value) * MIB, abs=1)
    assert told.high == pytest.approx((52 + high) * MIB, abs=3)  # each of two numbers may be a MiB more
    assert told.method == "engine"


def test_the_words_of_another_build() -> None:
    told = needed(50 * MIB, 97 * MIB, work=work(14), spared=96 * MIB, same_build=False)
    assert (told.low, told.value, told.high) == (51 * MIB, 64 * MIB, 69 * MIB)
    assert "another build" in told.source
    more = needed(50 * MIB, 120 * MIB, work=work(14), spared=96 * MIB, same_build=False)
    assert (more.low, more.value, more.high) == (59 * MIB, 64 * MIB, 74 * MIB)
    guess = needed(50 * MIB, 100 * MIB, work=work(14, method="guess"), spared=96 * MIB, same_build=False)
    assert guess.high == 160 * MIB


@given(
    st.integers(0, 10**12),
    st.integers(0, 10**10),
    st.integers(0, 10**10),
    st.integers(0, 10**10),
    st.integers(0, 10**10),
    st.sampled_from(["formula", "guess"]),
    st.booleans(),
)
def test_words_are_in_order_and_hold_what_is_stored(
    stored: int, compute: int, spared: int, formula: int, more: int, method: Any, same: bool
) -> None:
    known = Quantity(
        value=formula, low=formula // 2, high=formula + more, unit="bytes", method=method, source="formula"
    )
    told = needed(stored, compute, work=known, spared=spared, step=MIB, same_build=same)
    assert stored <= told.low <= told.value <= told.high
    assert told.high >= stored + compute - spared


def card(machine: Machine, **memory: int | None) -> Machine:
    (device,) = machine.devices
    seen: Device = msgspec.structs.replace(device, memory=msgspec.structs.replace(device.memory, **memory))
    return msgspec.structs.replace(machine, devices=(seen,))


def test_room_is_what_the_plan_had() -> None:
    machine = fakes.rtx_4090()
    (device,) = machine.devices
    free = min(v for v in (device.memory.usable_bytes, device.memory.free_bytes) if v is not None)
    driver = device_context(machine, device.id)
    size = room(machine, device.id)
    assert size is not None
    assert size <= free * (1 - HEADROOM) - driver.value
    assert size <= free - driver.high
    small = room(card(machine, free_bytes=4 << 30), device.id)
    assert small is not None
    assert small < size
    assert room(card(machine, free_bytes=None, usable_bytes=None, total_bytes=None), device.id) is None
    assert room(machine, "host") is None


def split_plan() -> Plan:
    report = recommend("70B", machine=fakes.rtx_4090(), settings=None, top=20, runtime="llama.cpp", method="gguf")
    return next(p for p in report.plans if p.devices == ("gpu0", "host"))


def test_a_refined_plan_is_the_same_plan_with_more_layers() -> None:
    plan, machine = split_plan(), fakes.rtx_4090()
    range_ = movable(plan, MODEL, PARTS)
    assert range_ is not None
    assert (range_.planned, range_.least, range_.most, range_.experts) == (plan.settings.gpu_layers, 1, 81, False)
    wanted = range_.settings(plan.settings, range_.planned + 2)
    formula = refined(plan, wanted, {}, model=MODEL, tensors=PARTS, machine=machine).memory.by_device["gpu0"]
    said = int(engine_buffers(formula, machine, "gpu0").value) - 7 * MIB
    new = refined(
        plan,
        wanted,
        {"gpu0": exact(said, "bytes", refining.SOURCE, "engine")},
        model=MODEL,
        tensors=PARTS,
        machine=machine,
    )
    assert new.id == plan.id
    assert new.settings.gpu_layers == plan.settings.gpu_layers + 2
    (argv,) = new.commands.serve
    assert argv[argv.index("-ngl") + 1] == str(plan.settings.gpu_layers + 2)
    assert new.commands.quantize == plan.commands.quantize
    told = new.memory.by_device["gpu0"]
    assert told.method == "engine"
    assert engine_buffers(told, machine, "gpu0").value == said
    assert new.memory.by_device["host"].value < plan.memory.by_device["host"].value
    memory = new.memory
    parts = (memory.weights, memory.kv_cache, memory.state, memory.compute, memory.output, memory.repack)
    assert memory.total.value == sum(q.value for q in memory.by_device.values())
    assert memory.total.value == sum(q.value for q in (*parts, memory.overhead))
    assert new.speed.decode is not None
    assert plan.speed.decode is not None
    assert new.speed.decode.value > plan.speed.decode.value


def test_what_does_not_move() -> None:
    plan = split_plan()
    for devices in (("gpu0",), ("host",)):
        assert movable(msgspec.structs.replace(plan, devices=devices), MODEL, PARTS) is None
    held = msgspec.structs.replace(
        plan, settings=msgspec.structs.replace(plan.settings, gpu_layers=81, cpu_moe_layers=30)
    )
    range_ = movable(held, MODEL, PARTS)
    assert range_ is not None
    assert (range_.planned, range_.least, range_.most) == (50, 0, 80)
    assert range_.settings(held.settings, 52).cpu_moe_layers == 28
    assert range_.settings(held.settings, 52).gpu_layers == 81
    assert range_.words(52) == "the experts of 52 layers"
