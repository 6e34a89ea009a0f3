"""How a shortage is read, what is learned of it, and how later plans follow it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.cost.llama_memory import device_context
from advisor.facts.plan import Plan
from advisor.facts.recovery import Diagnosis, MemoryLesson
from advisor.planner.ladder import need
from advisor.planner.lessons import Lessons, lifted, shortage
from tests.unit.planner import planner_fakes as fakes
from tests.unit.planner.planner_run import plan

GIB = 1 << 30
MACHINE = fakes.cpu_only()
PLAN = plan(8.0, MACHINE, runtime="llama.cpp", format="q4_k_m", context=8192).plans[0]
NEED = need(PLAN, "host")


def died(**more: object) -> Diagnosis:
    values: dict[str, object] = {
        "cause": "out-of-memory", "code": "out-of-memory", "when": "load", "device": "host", "message": "No memory."
    }  # fmt: skip
    return Diagnosis(**(values | more))  # type: ignore[arg-type]


def learned(found: Diagnosis, of: Plan = PLAN, *, again: bool = False) -> tuple[int, MemoryLesson | None]:
    short = shortage(of, found, MACHINE, boot="b", at="2026-11-21T00:00:00Z", again=again)
    assert short.device == "host"
    return short.missing_bytes, short.lesson


def test_less_memory_than_planned_explains_itself() -> None:
    memory = msgspec.structs.replace(MACHINE.host.memory, available_bytes=NEED)
    less = msgspec.structs.replace(MACHINE, host=msgspec.structs.replace(MACHINE.host, memory=memory))
    short = shortage(PLAN, died(oom_kills=1, exit_signal=9), less, boot="b", at="")
    assert (short.missing_bytes, short.lesson) == (NEED - int(NEED * 0.95), None)


def test_a_server_that_needs_more_than_predicted_teaches_the_ratio() -> None:
    whole = MACHINE.host.memory.available_bytes
    assert whole is not None
    missing, lesson = learned(died(oom_kills=1, exit_signal=9, had_bytes=int(1.2 * NEED)))
    assert lesson is not None and lesson.ceiling_bytes is None
    assert lesson.ratio == pytest.approx(min(4.0, 1.05 * whole / NEED), abs=1e-3)
    assert missing == pytest.approx(NEED * lesson.ratio - 0.95 * whole, rel=1e-3)


def test_a_group_of_the_servers_own_is_a_ceiling() -> None:
    missing, lesson = learned(died(oom_kills=1, exit_signal=9, limit_bytes=NEED // 2, had_bytes=NEED // 2))
    assert lesson is not None and (lesson.ceiling_bytes, lesson.ratio, lesson.boot) == (NEED // 2, None, "b")
    assert missing == NEED - int(NEED // 2 * 0.95)


def test_what_the_runtime_says_is_taken_as_it_is() -> None:
    missing, lesson = learned(died(wanted_bytes=GIB, available_bytes=GIB // 4))
    assert lesson is not None and lesson.ceiling_bytes == NEED - (GIB - GIB // 4)
    assert missing >= GIB - GIB // 4


def test_a_request_that_was_refused_early_is_a_ceiling_half_way_and_then_what_was_held() -> None:
    early = died(had_bytes=NEED // 4, wanted_bytes=NEED // 2)
    _, first = learned(early)
    _, second = learned(early, again=True)
    assert first is not None and second is not None
    assert first.ceiling_bytes == pytest.approx(NEED / 2, rel=0.01)
    assert second.ceiling_bytes == pytest.approx(3 * NEED / 8, rel=0.01)


def test_what_a_driver_takes_beside_the_buffers_counts_as_held() -> None:
    machine = fakes.rtx_4090()
    of = plan(8.0, machine, runtime="llama.cpp", format="q4_k_m", context=8192).plans[0]
    driver, whole = int(device_context(machine, "gpu0").value), need(of, "gpu0")
    refused = died(device="gpu0", had_bytes=whole // 2 - driver, wanted_bytes=whole // 4)
    short = shortage(of, refused, machine, boot="b", at="")
    assert short.lesson is not None and short.lesson.ceiling_bytes is not None
    assert short.lesson.ceiling_bytes == pytest.approx((whole // 2 + whole * 3 // 4) / 2, abs=2)


@given(
    had=st.none() | st.integers(0, 4 * NEED),
    wanted=st.none() | st.integers(0, 4 * NEED),
    told=st.none() | st.integers(0, 4 * NEED),
    limit=st.none() | st.integers(1 << 20, 4 * NEED),
    kills=st.integers(0, 2),
    again=st.booleans(),
)
def test_something_is_always_missing_and_the_plan_never_fits_again(
    had: int | None, wanted: int | None, told: int | None, limit: int | None, kills: int, again: bool
) -> None:
    found = died(
        had_bytes=had, wanted_bytes=wanted, available_bytes=told, limit_bytes=limit, oom_kills=kills,
        exit_signal=9 if kills else None,
    )  # fmt: skip
    missing, lesson = learned(found, again=again)
    assert missing > 0
    assert lesson is not None
    assert (lesson.ratio is None) != (lesson.ceiling_bytes is None)
    if lesson.ceiling_bytes is not None:
        assert lesson.ceiling_bytes >= 0
        assert int(lesson.ceiling_bytes * 0.95) < NEED  # less the part that plans leave free
    else:
        assert lesson.ratio is not None and 1 < lesson.ratio <= 4


def lesson(**more: object) -> MemoryLesson:
    values: dict[str, object] = {
        "runtime": "llama.cpp", "device": "host", "device_key": "host", "plan": "p-0000aa", "code": "oom-kill",
        "predicted_bytes": GIB, "learned_at": "2026-11-21T10:00:00Z",
    }  # fmt: skip
    return MemoryLesson(**(values | more))  # type: ignore[arg-type]


def test_a_ceiling_limits_the_machine_in_its_own_boot() -> None:
    one = lesson(ceiling_bytes=GIB, boot="b")
    assert Lessons((one,), boot="b").limited(MACHINE).host.memory.available_bytes == GIB
    assert not Lessons((one,), boot="another")
    assert not Lessons((msgspec.structs.replace(one, boot=""),), boot="")
    (note,) = Lessons((one,), boot="b").notes(MACHINE)
    assert "1024 MiB" in note and "p-0000aa" in note and "2026-11-21" in note and "advisor bench --forget" in note


def test_a_ceiling_of_a_device_is_that_devices_alone() -> None:
    machine = fakes.rtx_4090()
    name = machine.devices[0].name
    known = Lessons((lesson(device=name, device_key="gpu0", ceiling_bytes=GIB, boot="b"),), boot="b")
    new = known.limited(machine)
    assert new.devices[0].memory.free_bytes == GIB
    assert new.host == machine.host


def test_a_ratio_corrects_memory_and_names_its_source() -> None:
    known = Lessons((lesson(ratio=1.5),), boot="b")
    memory, words = known.corrected(PLAN.memory, MACHINE, "llama.cpp", ("host",))
    assert memory.total.value == pytest.approx(1.5 * PLAN.memory.total.value, rel=1e-6)
    assert memory.by_device["host"].value == pytest.approx(1.5 * NEED, rel=1e-6)
    parts = ("weights", "kv_cache", "state", "compute", "output", "repack", "overhead")
    assert sum(int(getattr(memory, p).value) for p in parts) == memory.total.value
    assert "x1.50" in memory.by_device["host"].source and "p-0000aa" in memory.by_device["host"].source
    assert "learned on this machine" in words[0]
    assert known.corrected(PLAN.memory, MACHINE, "vllm", ("host",)) == (PLAN.memory, ())


def test_costs_stay_as_they_are_without_a_ratio() -> None:
    assert Lessons((lesson(ceiling_bytes=GIB, boot="b"),), boot="b").cost_function(MACHINE, None) is None


def test_a_larger_server_disproves_a_ceiling() -> None:
    low, high = lesson(ceiling_bytes=GIB, boot="b"), lesson(ceiling_bytes=3 * GIB, boot="b")
    ratio, other = lesson(ratio=1.2), lesson(device="a card", ceiling_bytes=GIB, boot="b")
    assert lifted((low, high, ratio, other), device="host", bytes_=2 * GIB) == (high, ratio, other)
