"""The ladder: every step is a plan of its own that frees more than was missing, the least loss first."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from advisor.backends.registry import quantizers, runtimes
from advisor.facts.machine import Machine
from advisor.facts.plan import Plan, PlanRequest
from advisor.facts.recovery import LadderStep
from advisor.model.resolve import resolve
from advisor.model.tensors import tensors
from advisor.planner.ladder import Ladder, need
from advisor.planner.recommend import Planner, recommend
from tests.unit.planner import planner_fakes as fakes
from tests.unit.planner.planner_run import GOALS, PACK

MIB = 1 << 20


def here(machine: Machine) -> Machine:
    return msgspec.structs.replace(machine, named=None)


@cache
def planner(size: str) -> Planner:
    model = resolve(size)
    return Planner(
        model,
        tensors(model),
        PACK,
        {n: r.capabilities() for n, r in runtimes().items()},
        {n: q.capabilities() for n, q in quantizers().items()},
    )


def first(size: str, machine: Machine, **request: Any) -> Plan:
    p = planner(size)
    found = recommend(
        *(p.model, p.tensors, machine, GOALS["chat"], PlanRequest(**request), PACK),
        runtimes=p.runtimes,
        quantizers=p.quantizers,
        executable_here=True,
    )
    return found.plans[0]


def with_host(machine: Machine, available: int) -> Machine:
    memory = msgspec.structs.replace(machine.host.memory, available_bytes=available)
    return msgspec.structs.replace(machine, host=msgspec.structs.replace(machine.host, memory=memory))


def with_device(machine: Machine, free: int) -> Machine:
    (d,) = machine.devices
    less = msgspec.structs.replace(d, memory=msgspec.structs.replace(d.memory, free_bytes=free))
    return msgspec.structs.replace(machine, devices=(less,))


def ladder(size: str, machine: Machine, plan: Plan, **request: Any) -> Ladder:
    return Ladder(planner(size), machine, GOALS["chat"], PlanRequest(**request), plan)


def check(steps: tuple[LadderStep, ...], plan: Plan, device: str, missing: int, room: int) -> None:
    assert steps
    assert [s.loss for s in steps] == sorted(s.loss for s in steps)
    for s in steps:
        assert s.frees_bytes is not None and s.frees_bytes > missing
        assert s.frees_bytes == need(plan, device) - need(s.plan, device)
        assert need(s.plan, device) <= room
        assert s.plan.id != plan.id and s.plan.status == "ready" and s.plan.executable_here
        assert s.change and s.given_up


CPU = fakes.cpu_only()
WISH = {"runtime": "llama.cpp", "format": "q4_k_m"}
ON_CPU = first("8B", CPU, **WISH)


@settings(max_examples=4, suppress_health_check=[HealthCheck.too_slow])
@given(share=st.floats(0.01, 0.4))
def test_every_step_frees_more_than_was_missing_and_fits(share: float) -> None:
    whole = need(ON_CPU, "host")
    available = int(whole * (1 - share) / 0.95)
    missing = whole - int(available * 0.95)
    steps = ladder("8B", with_host(CPU, available), ON_CPU, **WISH).memory("host", missing)
    check(steps, ON_CPU, "host", missing, int(available * 0.95))


def test_little_is_given_up_for_little() -> None:
    missing = 100 * MIB
    machine = with_host(CPU, int((need(ON_CPU, "host") - missing) / 0.95))
    steps = ladder("8B", machine, ON_CPU, **WISH).memory("host", missing)
    kinds = [s.kind for s in steps]
    assert {"batch", "kv-type", "context", "format"} <= set(kinds)
    assert kinds.index("context") > max(kinds.index("batch"), kinds.index("kv-type"))
    batch = next(s for s in steps if s.kind == "batch")
    assert batch.plan.settings.ubatch < ON_CPU.settings.ubatch
    assert batch.plan.settings.context == ON_CPU.settings.context
    context = next(s for s in steps if s.kind == "context")
    assert context.change == "context 8192 -> 4096"
    assert "4096 tokens" in context.given_up
    cache_ = next(s for s in steps if s.kind == "kv-type")
    assert cache_.change == "KV cache f16 -> q8_0"
    smaller = next(s for s in steps if s.kind == "format")
    assert (smaller.plan.method, smaller.plan.source) == ("gguf", "quantize")
    assert smaller.plan.settings.context == ON_CPU.settings.context


def test_a_context_that_was_asked_for_is_worth_more() -> None:
    missing = 100 * MIB
    machine = with_host(CPU, int((need(ON_CPU, "host") - missing) / 0.95))

    def loss(**request: Any) -> float:
        steps = ladder("8B", machine, ON_CPU, **WISH, **request).memory("host", missing)
        return next(s.loss for s in steps if s.kind == "context")

    assert loss(context=8192) > loss()


def test_the_same_artifact_is_kept_where_it_must_be() -> None:
    steps = ladder("8B", CPU, ON_CPU, **WISH).memory("host", 200 * MIB, same_artifact=True)
    assert steps
    assert {(s.plan.method, s.plan.format, s.plan.runtime) for s in steps} == {("gguf", "q4_k_m", "llama.cpp")}


def test_a_mix_stays_the_file_that_it_is_until_the_format_is_given_up() -> None:
    p = planner("8B")
    machine = with_host(CPU, 8 * 10**9)
    found = recommend(
        *(p.model, p.tensors, machine, GOALS["chat"], PlanRequest(runtime="llama.cpp", top=200), PACK),
        runtimes=p.runtimes,
        quantizers=p.quantizers,
        executable_here=True,
    )
    (mix,) = [one for one in found.plans if one.tensor_types]
    missing = 50 * MIB
    steps = ladder("8B", machine, mix, runtime="llama.cpp").memory("host", missing)
    check(steps, mix, "host", missing, int(8e9))
    kinds = {s.kind: s.plan for s in steps}
    assert {"batch", "kv-type", "format"} <= set(kinds)
    assert all((s.plan.made_as == mix.made_as) == (s.kind != "format") for s in steps if s.kind != "runtime")
    # The mix itself is what is given up first: its file type without the larger tensors.
    assert kinds["format"].made_as == mix.format
    (told,) = [s.change for s in steps if s.kind == "format"]
    assert told == f"format {mix.made_as} -> {mix.format}"
    same = ladder("8B", machine, mix, runtime="llama.cpp").memory("host", missing, same_artifact=True)
    assert same and {s.plan.made_as for s in same} == {mix.made_as}


CARD = here(fakes.t4())


def test_layers_leave_a_device_that_has_less_than_it_says() -> None:
    plan = first("8B", CARD, **WISH)
    assert "gpu0" in plan.devices
    free = int(need(plan, "gpu0") * 0.6)
    machine = with_device(CARD, free)
    missing = need(plan, "gpu0") - int(free * 0.95)
    steps = ladder("8B", machine, plan, **WISH).memory("gpu0", missing)
    check(steps, plan, "gpu0", missing, int(free * 0.95))
    layers = next(s for s in steps if s.kind == "layers")
    assert layers.plan.settings.gpu_layers < plan.settings.gpu_layers
    assert layers.plan.settings.context == plan.settings.context
    assert "host" in layers.plan.devices
    assert "speed" in layers.given_up


def test_slots_are_given_up_one_half_at_a_time() -> None:
    plan = first("8B", CPU, parallel=4, **WISH)
    missing = 300 * MIB
    machine = with_host(CPU, int((need(plan, "host") - missing) / 0.95))
    steps = ladder("8B", machine, plan, parallel=4, **WISH).memory("host", missing)
    slots = next(s for s in steps if s.kind == "parallel")
    assert slots.plan.settings.parallel == 2
    assert slots.plan.settings.context == plan.settings.context // 2


def test_a_file_that_is_served_as_it_is_gets_no_other_format() -> None:
    plan = msgspec.structs.replace(ON_CPU, source="as-is")
    kinds = {s.kind for s in ladder("8B", CPU, plan, **WISH).memory("host", 100 * MIB)}
    assert "format" not in kinds and kinds


def test_nothing_is_found_where_nothing_fits() -> None:
    assert ladder("8B", with_host(CPU, 10 * MIB), ON_CPU, **WISH).memory("host", 1) == ()


@pytest.mark.parametrize("runtime", ["vllm", "transformers"])
def test_a_kernel_that_lacks_is_left_for_another_runtime_or_format(runtime: str) -> None:
    machine = here(fakes.rtx_4090())
    (card,) = machine.devices
    machine = msgspec.structs.replace(machine, devices=(msgspec.structs.replace(card, driver="580.95.05"),))
    plan = first("8B", machine, runtime=runtime)
    steps = ladder("8B", machine, plan).kernels()
    assert steps
    for s in steps:
        assert (s.plan.runtime, s.plan.method, s.plan.format, s.plan.devices) != (
            plan.runtime, plan.method, plan.format, plan.devices,
        )  # fmt: skip
        assert s.frees_bytes is None
    assert any(s.plan.runtime != runtime for s in steps)
