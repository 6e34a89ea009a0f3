"""Whether a plan can be carried out on the machine it is for, and what must be there first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from advisor.backends import ollama, variants
from advisor.backends.base import QuantizerCapabilities, RuntimeCapabilities
from advisor.backends.llama import providers
from advisor.facts.machine import Machine
from advisor.facts.words import PlanStatus
from advisor.planner.candidate import Candidate
from advisor.planner.parallel import NODE, machines_needed
from advisor.planner.targets import Target, usable_devices


class Status(NamedTuple):
    """``needs`` in plain words; empty for ``ready``."""

    status: PlanStatus
    needs: tuple[str, ...]


# The builds of vLLM that are pinned, for the CPU (a third party's) and for CUDA, are for this platform.
_VLLM_PLATFORM: Final = ("linux", "x86_64")


def _build(runtime: str, target: Target, machine: Machine) -> tuple[str, ...]:
    """What the builds for devices lack on this machine; of a named one the drivers are not known and taken as new."""
    host, kind = machine.host, target.kind
    if runtime == "vllm" and (host.os, host.arch) != _VLLM_PLATFORM:
        return (f"a build of vLLM for {host.os} on {host.arch}; the pinned ones are for Linux on x86_64",)
    wanted = {"nvidia": "cuda", "amd": "rocm"}.get(kind)
    if wanted is None:
        return ()
    if machine.named is not None:
        why = (variants.against(d, named=True) for d in target.devices)
        return tuple(dict.fromkeys(f"builds of torch for it: {text}" for text in why if text is not None))
    choice = variants.choose(machine)
    if choice.variant == wanted:
        return ()
    return choice.why or (f"a driver for the {wanted.upper()} builds",)


def _with_ollama(c: Candidate) -> tuple[str, ...]:
    """What is there where a daemon of Ollama's answers: itself, and the driver where the device has told of one."""
    if c.runtime != "ollama":
        return ()
    first = c.target.first
    return (ollama.INSTALLED, *(ollama.DRIVERS if first is not None and first.driver is not None else ()))


def judge(
    c: Candidate,
    machine: Machine,
    *,
    runtimes: Mapping[str, RuntimeCapabilities],
    quantizers: Mapping[str, QuantizerCapabilities],
) -> Status:
    """``ready``: this version of advisor can do all of it there. ``needs``: it runs there once something is added.

    ``elsewhere``: the format has to be made on another machine first.
    """
    caps = runtimes[c.runtime]
    kind = c.target.kind
    installed = {found.runtime for found in machine.runtimes}
    needs = list(caps.needs.get(kind, ()))
    split = kind != "cpu" and "host" in c.target.keys
    if c.runtime == "llama.cpp" and providers.provided(machine, kind, split=split):
        needs = []
    if c.runtime in installed:
        there = {f"{c.runtime} installed", *_with_ollama(c)}
        needs = [n for n in needs if n not in there]
    if caps.executable and c.method != "gguf":
        needs += _build(c.runtime, c.target, machine)
    if not caps.executable and not needs:
        needs.append(f"{c.runtime} installed" if c.runtime not in installed else f"{c.runtime} started by hand")
    if c.runtime == "llama-cpp-python" and c.runtime not in installed and "cpu" not in machine.buildable:
        needs.append("a C and C++ compiler, with which llama-cpp-python is built")
    machines = machines_needed(machine, len(c.target.devices))
    if machines > 1:
        needs.append(
            f"all {len(c.target.devices)} devices in one machine, or {machines} machines of {NODE} from "
            "which vLLM or SGLang serves together; advisor itself starts servers on one machine"
        )
    elsewhere = False
    if c.quantizer is not None:
        maker = quantizers.get(c.quantizer)
        kinds = {"cpu", *(d.vendor for d in usable_devices(machine))}
        if maker is None:
            needs.append(f"{c.quantizer} installed")
        else:
            needs += [n for n in maker.needs if n not in needs]
            if not maker.executable and not maker.needs:
                needs.append(f"{c.quantizer} installed")
            elsewhere = bool(maker.runs_on) and not kinds & set(maker.runs_on)
            if elsewhere:
                needs.append(f"a machine with {' or '.join(maker.runs_on)} to run {c.quantizer}")
    unique = tuple(dict.fromkeys(needs))
    return Status("elsewhere" if elsewhere else "needs" if unique else "ready", unique)
