"""Machine, model and goal in sentences: what a recommendation was an answer to."""

from __future__ import annotations

from typing import Final

from advisor.facts import shown
from advisor.facts.machine import Device, Machine
from advisor.facts.model import ModelFacts
from advisor.facts.plan import Goal, PlanRequest
from advisor.guide.docs import source_text
from advisor.planner.again import Named, command

# Instructions that decide which kernels run.
_ISA: Final = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16", "asimddp", "i8mm", "sve")
_CONFIDENCE: Final = {
    "exact": "Its sizes are read from its own files.",
    "derived": "Its sizes follow from its configuration.",
    "low": "Its architecture is not known in detail, so memory and speed are rough.",
}


def machine_told(machine: Machine, name: str | None) -> tuple[str, ...]:
    """The host and each device; ``name``: how the machine was named (``this``: the own one)."""
    host = machine.host
    isa = [flag for flag in host.cpu.isa if flag in _ISA]
    which = "this machine" if name in (None, "this") else str(name)
    memory = f"{shown.size(host.memory.total_bytes)} of memory"
    if host.memory.limit_bytes is not None:
        memory += f", of which {shown.size(host.memory.limit_bytes)} are granted"
    if host.memory.available_bytes is not None:
        memory += f", {shown.size(host.memory.available_bytes)} available"
    speed = f", read at {shown.quantity(host.bandwidth)} ({shown.origin(host.bandwidth)})" if host.bandwidth else ""
    cores = shown.counted(int(host.cpu.cores_granted), "core") if host.cpu.cores_granted >= 1 else "part of a core"
    out = [
        f"It is {which}: {host.os} on {host.arch}, {host.cpu.name} with {cores}"
        + (f" ({', '.join(isa)})" if isa else "")
        + f", {memory}{speed}."
    ]
    out += [_device(d) for d in sorted(machine.devices, key=lambda d: d.id) if not d.for_screens]
    if not any(d.unusable is None for d in machine.devices):
        out.append("There is no accelerator that can be used; everything runs on the processor.")
    return tuple(out)


def _device(d: Device) -> str:
    if d.unusable is not None:
        return f"{d.id} is {d.name}, which cannot be used: {d.unusable}."
    sizes = [f"{shown.size(d.memory.total_bytes)} of memory" if d.memory.total_bytes else "memory of unknown size"]
    if d.unified_memory:
        sizes.append("shared with the host")
    if d.memory.free_bytes is not None:
        sizes.append(f"{shown.size(d.memory.free_bytes)} free")
    elif d.memory.usable_bytes is not None:
        sizes.append(f"{shown.size(d.memory.usable_bytes)} usable")
    if d.bandwidth is not None:
        sizes.append(f"read at {shown.quantity(d.bandwidth)} ({shown.origin(d.bandwidth)})")
    if d.compute_capability is not None:
        sizes.append(f"compute capability {d.compute_capability:g}")
    return f"{d.id} is {d.name}: {', '.join(sizes)}."


def model_told(model: ModelFacts) -> tuple[str, ...]:
    """What is known of the model, and how surely."""
    active = f", {shown.count(model.active_params)} active for each token" if model.active_params < model.params else ""
    longest = f", trained for {shown.counted(model.context_max, 'token')}" if model.context_max else ""
    out = [
        f"{model.name} has {shown.count(model.params)} parameters{active} in {shown.counted(model.layers, 'layer')} "
        f"({model.architecture}){longest}. {_CONFIDENCE[model.confidence]}"
    ]
    if model.quantized_method is not None:
        out.append(f"Its weights are quantized already: {model.quantized_format or model.quantized_method}.")
    if model.path is None:
        out.append("Its weights are not here yet.")
    elif model.weights_bytes is not None:
        stored = model.weights_dtype or "its own types"
        out.append(f"Its weights are here: {shown.size(model.weights_bytes)} of {model.weights_format} in {stored}.")
    return tuple(out)


def goal_told(goal: Goal, request: PlanRequest) -> tuple[str, ...]:
    """What the goal sets, with its reason and sources; and what was asked for beside it."""
    weights = ", ".join(f"{name} {weight:.0%}" for name, weight in _by_weight(goal) if weight)
    floor = f", at least {goal.min_decode_tps:g} tokens/s" if goal.min_decode_tps is not None else ""
    sources = "; ".join(source_text(s) for s in goal.sources)
    slots = shown.counted(goal.parallel, "request") + " at a time"
    out = [
        f"The goal is {goal.id}: {goal.description} {goal.because}" + (f" [{sources}]" if sources else ""),
        f"It sets {shown.counted(goal.context, 'token')} of context, {slots}{floor}, and weighs {weights}.",
    ]
    asked = command(Named(), request).removeprefix("advisor recommend").strip()
    if goal.id != "chat":
        asked = asked.replace(f"--goal {goal.id}", "", 1).strip()
    if asked:
        out.append(f"You asked beside it for: {asked}")
    return tuple(out)


def _by_weight(goal: Goal) -> list[tuple[str, float]]:
    return sorted(goal.weights.items(), key=lambda w: (-w[1], w[0]))
