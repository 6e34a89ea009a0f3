"""Memory of what runs here is taken, also where the kernel counts it as available."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from advisor import api
from advisor import settings as settings_
from advisor.api import keeping, receipts, sharing
from advisor.api.context import this_machine
from advisor.facts.machine import Machine
from advisor.facts.plan import Plan, PlanRequest
from advisor.facts.quantity import exact
from tests.support.samples import sample_machine, sample_plan, sample_receipt
from tests.unit.deploy.rig import Rig

GIB = 1 << 30


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig(settings_.load().paths.deployments)
    yield made
    made.clean_up()


def kept(plan_id: str, **by_device: int) -> Plan:
    """A kept plan that takes so many bytes of each device."""
    plan = sample_plan()
    by = {key: exact(n, "bytes", "a test") for key, n in by_device.items()}
    plan = msgspec.structs.replace(plan, id=plan_id, memory=msgspec.structs.replace(plan.memory, by_device=by))
    one = keeping.KeptPlan(version=2, plan=plan, model_ref="8B", request=PlanRequest(), machine=keeping.OWN)
    assert keeping.keep_plans(settings_.load(), (one,)) is None
    return plan


def machine(available: int, *, total: int = 64 * GIB) -> Machine:
    found = sample_machine()
    memory = msgspec.structs.replace(found.host.memory, total_bytes=total, limit_bytes=None, available_bytes=available)
    return msgspec.structs.replace(found, host=msgspec.structs.replace(found.host, memory=memory))


def available(found: Machine) -> int:
    assert found.host.memory.available_bytes is not None
    return found.host.memory.available_bytes


def test_without_deployments_nothing_changes() -> None:
    before = machine(32 * GIB)
    assert sharing.around(before, settings_.load()) == (before, ())


def test_what_a_running_deployment_was_promised_is_taken(rig: Rig) -> None:
    kept("p-aaaaaa", host=10 * GIB)
    rig.deployments.launch(rig.spec("--allocate", str(64 << 20), plan_id="p-aaaaaa"))
    s = settings_.load()
    found, (warning,) = sharing.around(machine(32 * GIB), s)
    (one,) = sharing.taken(s)
    assert 64 << 20 <= one.held < 1 << 30  # its own data is not available any more: it counts once
    assert available(found) == pytest.approx(32 * GIB - (10 * GIB - one.held), abs=64 << 20)
    assert warning.code == "deployments-running"
    assert "one (10" in warning.message
    # The wish that launched it is not in its own way.
    given, none = sharing.around(machine(32 * GIB), s, giving_back=["p-aaaaaa"])
    assert 32 * GIB < available(given) <= 33 * GIB
    assert none == ()
    rig.deployments.stop("one")
    assert sharing.around(machine(32 * GIB), s) == (machine(32 * GIB), ())


def test_the_measured_peak_counts_where_it_is_more(rig: Rig) -> None:
    kept("p-aaaaaa", host=1 * GIB)
    rig.deployments.launch(rig.spec(plan_id="p-aaaaaa"))
    receipt = sample_receipt()
    measured = msgspec.structs.replace(receipt.measured, memory=exact(5 * GIB, "bytes", "PSS", "measured"))
    receipts.save(rig.folder(), msgspec.structs.replace(receipt, measured=measured))
    (one,) = sharing.taken(settings_.load())
    assert one.promised == {"host": 5 * GIB}
    (settings_.load().paths.plans / "p-aaaaaa.json").unlink()
    (one,) = sharing.taken(settings_.load())
    assert one.promised == {"host": 5 * GIB}


def test_two_deployments_add_up_and_never_go_below_nothing(rig: Rig) -> None:
    for name, plan_id in (("one", "p-aaaaaa"), ("two", "p-bbbbbb")):
        kept(plan_id, host=20 * GIB)
        rig.deployments.launch(rig.spec(name=name, plan_id=plan_id))
    found, (warning,) = sharing.around(machine(32 * GIB), settings_.load())
    assert available(found) == 0
    assert "one" in warning.message
    assert "two" in warning.message


def test_a_recommendation_says_beside_what_it_was_planned(rig: Rig) -> None:
    whole = this_machine(settings_.load())[0].host.memory
    kept("p-aaaaaa", host=whole.total_bytes)
    rig.deployments.launch(rig.spec(plan_id="p-aaaaaa"))
    beside = api.recommend("1B")
    assert beside.plans == ()
    assert "deployments-running" in [w.code for w in beside.warnings]
    alone = api.recommend("1B", total=True)
    assert alone.plans
    assert "deployments-running" not in [w.code for w in alone.warnings]
    assert alone.machine.host.memory.available_bytes is None


def test_what_it_was_launched_with_goes_before_the_kept_plan(rig: Rig) -> None:
    plan = kept("p-aaaaaa", host=10 * GIB)
    by = {"host": exact(7 * GIB, "bytes", "the engine")}
    rig.deployments.launch(rig.spec(plan_id="p-aaaaaa", memory=msgspec.structs.replace(plan.memory, by_device=by)))
    (one,) = sharing.taken(settings_.load())
    assert one.promised == {"host": 7 * GIB}
