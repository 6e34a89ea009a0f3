"""A spread of machines, models and goals, and the planner with its real parts: what the properties are held against."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from advisor.facts.machine import Device, Machine
from advisor.facts.plan import Plan, PlanRequest, Recommendation
from advisor.planner.building import build
from advisor.planner.recommend import Planner, recommend
from tests.scenarios.planning import EVERY, loaded, model_of
from tests.scenarios.reading import MACHINES, machine_of
from tests.scenarios.shapes import MachineSpec

GIB: Final = 1 << 30

# Put together from profiles: one maker and one size each, then pairs, then what is one memory.
NAMED: Final[dict[str, MachineSpec]] = {
    "cpu-8gb": MachineSpec(hardware=("cpu",), memory="8GB"),
    "cpu-16gb": MachineSpec(hardware=("cpu",), memory="16GB", host="laptop-avx2"),
    "cpu-64gb": MachineSpec(hardware=("cpu",), memory="64GB"),
    "rtx-3060": MachineSpec(hardware=("rtx-3060-12gb",), memory="32GB"),
    "rtx-4090": MachineSpec(hardware=("rtx-4090",), memory="64GB"),
    "rtx-3090-pair": MachineSpec(hardware=("rtx-3090:2",), memory="64GB"),
    "t4": MachineSpec(hardware=("t4",), memory="32GB"),
    "h100": MachineSpec(hardware=("h100",), memory="128GB"),
    "rx-7900-xtx": MachineSpec(hardware=("rx-7900-xtx",), memory="32GB"),
    "arc-b580": MachineSpec(hardware=("arc-b580",), memory="32GB"),
    "gb10": MachineSpec(hardware=("gb10",), memory="128GB"),
    "limit-4gb": MachineSpec(hardware=("cpu",), memory="256GB", limit="4GB"),
}
RECORDED: Final = tuple(sorted(p.name for p in MACHINES.iterdir() if p.is_dir()))
MODELS: Final = (
    "0.5B",
    "3B",
    "meta-llama/Llama-3.1-8B-Instruct",
    "google/gemma-3-12b-it",
    "Qwen/Qwen2.5-32B-Instruct",
    "Qwen/Qwen3-30B-A3B",
    "openai/gpt-oss-20b",
    "deepseek-ai/DeepSeek-V2-Lite-Chat",
    "ibm-granite/granite-4.0-h-tiny",
    "70B",
)


@cache
def machine(name: str) -> Machine:
    """A machine of ``NAMED`` or ``RECORDED``."""
    return machine_of(NAMED[name] if name in NAMED else MachineSpec(recorded=name))


def goals() -> tuple[str, ...]:
    """The ids of all goals."""
    return tuple(sorted(loaded().goals))


def ask(model: str, where: Machine, wanted: str = "chat", *, top: int = EVERY, **request: Any) -> Recommendation:
    """What is recommended of ``model`` on ``where``, by the real rules, costs and capabilities."""
    known = loaded()
    facts, weights = model_of(model)
    return recommend(
        facts,
        weights,
        where,
        known.goals[wanted],
        PlanRequest(goal=wanted, top=top, **request),
        known.pack,
        runtimes=known.runtimes,
        quantizers=known.quantizers,
        executable_here=False,
    )


def plans(model: str, where: Machine, wanted: str = "chat", **request: Any) -> tuple[Plan, ...]:
    """All plans, best first, without what would have to give where there are none."""
    known = loaded()
    facts, weights = model_of(model)
    planner = Planner(facts, weights, known.pack, known.runtimes, known.quantizers)
    found = planner.plan(where, known.goals[wanted], PlanRequest(goal=wanted, **request))
    return tuple(
        build(facts, s, rank=i, executable_here=False, notes=found.notes, per_slot=found.goal.context)
        for i, s in enumerate(found.kept, 1)
    )


def what(p: Plan) -> tuple[object, ...]:
    """What a plan is, apart from its settings."""
    return (p.method, p.made_as, p.runtime, p.devices, p.source, p.settings.kv_type)


def with_host(where: Machine, factor: float) -> Machine:
    """The machine with ``factor`` times the host memory, granted and free."""
    memory = where.host.memory

    def times(value: int | None) -> int | None:
        return None if value is None else int(value * factor)

    larger = msgspec.structs.replace(
        memory,
        total_bytes=int(memory.total_bytes * factor),
        limit_bytes=times(memory.limit_bytes),
        available_bytes=times(memory.available_bytes),
    )
    return msgspec.structs.replace(where, host=msgspec.structs.replace(where.host, memory=larger))


def with_devices(where: Machine, *, memory: float = 1.0, bandwidth: float = 1.0) -> Machine:
    """The machine with ``memory`` times the memory of each device and ``bandwidth`` times its speed."""

    def times(value: int | None) -> int | None:
        return None if value is None else int(value * memory)

    def changed(d: Device) -> Device:
        m = d.memory
        larger = msgspec.structs.replace(
            m,
            total_bytes=times(m.total_bytes),
            usable_bytes=times(m.usable_bytes),
            free_bytes=times(m.free_bytes),
        )
        rate = d.bandwidth
        if rate is not None:
            rate = msgspec.structs.replace(
                rate, value=rate.value * bandwidth, low=rate.low * bandwidth, high=rate.high * bandwidth
            )
        return msgspec.structs.replace(d, memory=larger, bandwidth=rate)

    return msgspec.structs.replace(where, devices=tuple(changed(d) for d in where.devices))


def with_host_speed(where: Machine, factor: float) -> Machine:
    """The machine with ``factor`` times the bandwidth of host memory, where that is known."""
    rate = where.host.bandwidth
    if rate is None:
        return where
    faster = msgspec.structs.replace(rate, value=rate.value * factor, low=rate.low * factor, high=rate.high * factor)
    return msgspec.structs.replace(where, host=msgspec.structs.replace(where.host, bandwidth=faster))


def with_cores(where: Machine, factor: int) -> Machine:
    """The machine with ``factor`` times the cores, all granted."""
    cpu = where.host.cpu

    def times(value: int | None) -> int | None:
        return None if value is None else value * factor

    more = msgspec.structs.replace(
        cpu,
        cores_granted=cpu.cores_granted * factor,
        cores_logical=cpu.cores_logical * factor,
        cores_physical=times(cpu.cores_physical),
        cores_performance=times(cpu.cores_performance),
    )
    return msgspec.structs.replace(where, host=msgspec.structs.replace(where.host, cpu=more))


def over_the_spread(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Hold a property against ``examples`` of machine, model and goal: the same ones in every run."""
    one = given(
        name=st.sampled_from((*NAMED, *RECORDED)), model=st.sampled_from(MODELS), wanted=st.sampled_from(goals())
    )
    few = settings(max_examples=examples, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    return lambda check: few(one(check))
