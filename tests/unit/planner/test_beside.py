"""Whose end would make room: the fewest deployments, found by planning again."""

from __future__ import annotations

import shlex
from collections.abc import Collection

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.facts.machine import Machine
from advisor.facts.plan import Occupant, PlanRequest, Recommendation
from advisor.planner.beside import Beside, told
from advisor.planner.recommend import recommend
from advisor.planner.relax import ORDER
from tests.unit.planner import planner_fakes as fakes
from tests.unit.planner.planner_run import GOALS, PACK

GB = fakes.GB


def occupant(name: str, held: int) -> Occupant:
    return Occupant(
        name=name,
        model="llama",
        plan_id="p-111111",
        started_at="2026-11-21T06:49:00.000Z",
        holds={"host": held},
        command=f"advisor down {name}",
    )


def with_free(free: int) -> Machine:
    host = fakes.host(64 * GB)
    memory = msgspec.structs.replace(host.memory, available_bytes=free)
    return fakes.machine(msgspec.structs.replace(host, memory=memory))


def beside(free: int, *held: int) -> Beside:
    """Deployments ``a``, ``b`` ... that hold so much, and so much free beside them."""
    there = tuple(occupant(chr(97 + i), n) for i, n in enumerate(held))

    def without(gone: Collection[str]) -> Machine:
        return with_free(free + sum(o.holds["host"] for o in there if o.name in gone))

    return Beside(there, without, with_free(64 * GB - sum(held)))


def plan(size: float, free: int, *held: int, **request: object) -> Recommendation:
    model, neighbours = fakes.model(size), beside(free, *held)
    return recommend(
        model,
        fakes.tensors(model),
        neighbours.without(()),
        GOALS["chat"],
        PlanRequest(**request),  # type: ignore[arg-type]
        PACK,
        runtimes=fakes.runtimes(),
        quantizers=fakes.quantizers(),
        executable_here=True,
        cost_fn=fakes.fake_cost,
        layers_fn=fakes.fake_layers,
        beside=neighbours,
    )


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 100))
def test_the_fewest_that_make_room_and_of_as_many_the_least(held: list[int], need: int) -> None:
    neighbours = beside(0, *held)
    tried: list[Machine] = []

    def works(machine: Machine) -> bool:
        tried.append(machine)
        return (machine.host.memory.available_bytes or 0) >= need

    gone = neighbours.fewest(works)
    if sum(held) < need:
        assert gone == ()
        return
    freed = sum(o.holds["host"] for o in gone)
    assert freed >= need or (need == 0 and len(gone) == 1)
    largest = sorted(held, reverse=True)
    assert sum(largest[: len(gone) - 1]) < need or len(gone) == 1, "as many of the largest would not have done"
    assert len(tried) <= 64


def test_of_many_deployments_none_of_the_named_could_be_spared() -> None:
    neighbours = beside(0, *range(1, 31))
    gone = neighbours.fewest(lambda m: (m.host.memory.available_bytes or 0) >= 300)
    freed = sum(o.holds["host"] for o in gone)
    assert freed >= 300
    assert all(freed - o.holds["host"] < 300 for o in gone)


def test_where_nothing_fits_it_is_said_which_deployment_would_have_to_go() -> None:
    found = plan(8.0, 1 * GB, 40 * GB, 6 * GB)
    assert found.plans == ()
    ending = next(r for r in found.relaxations if r.gives_up == "deployment")
    assert [o.name for o in ending.deployments] == ["b"], "the smallest one that is enough"
    assert ending.change == told(ending.deployments)
    assert ending.change == "b (llama: 5.59 GiB of host, since 2026-11-21 06:49 UTC) ended"
    assert ending.command is not None
    first, second = ending.command.split(" && ")
    assert (first, shlex.split(second)[:2]) == ("advisor down b", ["advisor", "recommend"])
    assert ending.plan.executable_here
    served = plan(8.0, 7 * GB, 40 * GB)
    assert served.plans[0].id == ending.plan.id, "with it gone this plan is the answer"
    kinds = [ORDER.index(r.gives_up) for r in found.relaxations]
    assert kinds == sorted(kinds)


def test_closing_other_programs_does_not_end_deployments() -> None:
    # 64 GB, of which deployments hold 62: closing all else leaves too little.
    found = plan(8.0, 1 * GB, 31 * GB, 31 * GB)
    assert "nothing" not in {r.gives_up for r in found.relaxations}
    # They hold 40, and others the rest.
    found = plan(8.0, 1 * GB, 40 * GB)
    first = found.relaxations[0]
    assert (first.gives_up, first.change) == (
        "nothing",
        "other programs closed, so that all memory that deployments leave is free",
    )


def test_both_where_neither_alone_is_enough() -> None:
    found = plan(70.0, 1 * GB, 30 * GB, format="q4_k_m")
    ending = [r for r in found.relaxations if r.gives_up == "deployment"]
    assert [r.change for r in ending] == [f"{told(beside(0, 30 * GB).there)}, and other programs closed"]


def test_what_would_be_had_with_one_gone_is_told_where_it_is_much_more() -> None:
    squeezed = plan(8.0, 5 * GB, 20 * GB, 1 * GB)
    assert squeezed.plans
    (warning,) = [w for w in squeezed.warnings if w.code == "deployments-in-the-way"]
    assert warning.message.startswith("With a (llama: 18.6 GiB of host, since")
    assert f" instead of {squeezed.plans[0].format}" in warning.message
    assert warning.message.endswith(": advisor down a")
    roomy = plan(8.0, 40 * GB, 20 * GB)
    assert [w for w in roomy.warnings if w.code == "deployments-in-the-way"] == []


@pytest.mark.parametrize("held", [(), (20 * GB,)])
def test_without_room_to_gain_nothing_is_said(held: tuple[int, ...]) -> None:
    found = plan(8.0, 40 * GB, *held)
    assert found.plans and found.relaxations == ()
    assert "deployments-in-the-way" not in {w.code for w in found.warnings}
