"""The rules as a person asks after them: all of them, those that speak of one model, and those that never do."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Unpack

import msgspec

from advisor import datafiles
from advisor.api import listing
from advisor.api.context import load_settings, resolve_model, rule_pack
from advisor.api.options import PlanOptions, checked, machine_options, request_of
from advisor.errors import AdvisorError
from advisor.facts.base import Shape, from_json
from advisor.facts.machine import Cpu, Host, HostMemory, Machine, RuntimeFound
from advisor.facts.plan import PlanRequest, Warning_
from advisor.facts.quantity import exact
from advisor.facts.recovery import KernelLesson
from advisor.facts.reports import Coverage, RuleInfo

if TYPE_CHECKING:
    from advisor.guide.schema import RulePack
    from advisor.planner.coverage import Situation
    from advisor.settings import Settings

_SCHEMA: Final = "advisor/situations/v1"


class _Machine(Shape, frozen=True, kw_only=True):
    """A machine of a situation: named hardware, and what else decides rules. Memory and bandwidth in bytes."""

    hardware: tuple[str, ...]
    memory: int
    os: str = "linux"
    arch: str = "x86_64"
    isa: tuple[str, ...] = ("sse4_2", "ssse3", "avx", "f16c", "fma", "bmi2", "avx2")
    cores: int = 8
    bandwidth: int | None = 60_000_000_000
    apis: tuple[str, ...] | None = None
    runtimes: dict[str, str] = msgspec.field(default_factory=dict)


class _Situation(Shape, frozen=True, kw_only=True):
    """One entry of ``profiles/situations``. ``facts``: facts of the model that differ from the bundled ones;
    ``kernels_lacked``: what launches on the machine taught."""

    id: str
    model: str
    machine: _Machine
    goal: str = "chat"
    request: dict[str, object] = msgspec.field(default_factory=dict)
    facts: dict[str, object] = msgspec.field(default_factory=dict)
    kernels_lacked: tuple[KernelLesson, ...] = ()


class _File(Shape, frozen=True, kw_only=True):
    schema: str
    source: str
    situations: tuple[_Situation, ...]


def rules_for(
    model: str,
    *,
    machine: Machine | Path | None = None,
    settings: Settings | None = None,
    **options: Unpack[PlanOptions],
) -> tuple[RuleInfo, ...]:
    """The rules that speak when ``model`` is planned for, by id, each with what it did.

    Args:
        machine, options: as ``recommend``.

    Raises:
        AdvisorError: as ``recommend``.
    """
    from advisor.api.targeting import target_machine
    from advisor.backends.registry import quantizers, runtimes
    from advisor.model.tensors import tensors
    from advisor.planner import goals
    from advisor.planner.recommend import Planner
    from advisor.planner.request import check
    from advisor.planner.speaking import effects

    checked("rules_for", options)
    s = load_settings(settings)
    target, _, _ = target_machine(s, machine=machine, options=machine_options(options))
    facts = resolve_model(model, s)
    request = request_of(options, top=1)
    pack = rule_pack(s)
    makers = {name: q.capabilities() for name, q in quantizers().items()}
    check(request, pack, makers)
    goal = goals.get(request.goal, overlay=datafiles.overlay_dir(s.paths.config, "profiles/goals"))
    planner = Planner(facts, tensors(facts), pack, {n: r.capabilities() for n, r in runtimes().items()}, makers)
    spoke = effects(planner.plan(target, goal, request), pack)
    return tuple(
        msgspec.structs.replace(listing.rule_info(rule), effect=spoke[rule.id])
        for rule in pack.rules
        if rule.id in spoke
    )


def rules_coverage(*, settings: Settings | None = None) -> Coverage:
    """In which of the bundled situations each rule fires; a rule that fires in none is dead, or a situation is missing.

    Raises:
        AdvisorError: ``bad-profile`` for situations that do not load.
    """
    s = load_settings(settings)
    return coverage_of(rule_pack(s), s)


def coverage_of(pack: RulePack, settings: Settings) -> Coverage:
    """The coverage of one pack of rules.

    Raises:
        AdvisorError: ``bad-profile``.
    """
    from advisor.backends.registry import quantizers, runtimes
    from advisor.planner.coverage import covered

    entries = _situations()
    fired = covered(
        [partial(_made, entry, settings) for entry in entries],
        pack,
        runtimes={name: r.capabilities() for name, r in runtimes().items()},
        quantizers={name: q.capabilities() for name, q in quantizers().items()},
    )
    never = tuple(r.id for r in pack.rules if r.id not in fired)
    return Coverage(situations=tuple(e.id for e in entries), fired=fired, never=never)


def own_rules(*, settings: Settings | None = None) -> tuple[Warning_, ...]:
    """What the user's own rule files do, and what is wrong with them and with own profiles, for answers that they take
    part in."""
    from advisor.api import own_files
    from advisor.guide.overlays import told

    s = load_settings(settings)
    pack = rule_pack(s)
    return (
        *(Warning_(code="own-rules", message=text) for text in told(pack)),
        *(Warning_(code="bad-rules", message=str(p)) for p in pack.problems),
        *own_files.problems(s),
    )


def _situations() -> tuple[_Situation, ...]:
    import yaml

    found: dict[str, _Situation] = {}
    for path in datafiles.data_files(datafiles.profiles_dir("situations")):
        try:
            file = from_json(_File, datafiles.read_yaml(path))
        except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as e:
            raise AdvisorError("bad-profile", f"{path} does not load: {e}") from e
        twice = [s.id for s in file.situations if s.id in found]
        if file.schema != _SCHEMA or twice:
            raise AdvisorError("bad-profile", f"{path}: {twice[0] if twice else file.schema} is no id or schema of it.")
        found |= {s.id: s for s in file.situations}
    return tuple(found.values())


def _made(entry: _Situation, settings: Settings) -> Situation:
    """The situation itself. Nothing of this machine takes part."""
    from advisor.model.tensors import tensors
    from advisor.planner import goals
    from advisor.planner.coverage import Situation
    from advisor.planner.lacking import Lacking

    model = resolve_model(entry.model, settings)
    if entry.facts:
        model = from_json(type(model), model.to_json() | entry.facts)
    machine = _machine(entry.machine)
    return Situation(
        id=entry.id,
        model=model,
        tensors=tensors(model),
        machine=machine,
        goal=goals.get(entry.goal),
        request=from_json(PlanRequest, {"goal": entry.goal, **entry.request}),
        lacking=Lacking(entry.kernels_lacked, machine) if entry.kernels_lacked else None,
    )


def _machine(spec: _Machine) -> Machine:
    from advisor.probes.catalog import machine_from

    read = exact(spec.bandwidth, "bytes/s", "profiles/situations") if spec.bandwidth is not None else None
    cpu = Cpu(
        name="a typical processor",
        isa=spec.isa,
        cores_physical=spec.cores,
        cores_logical=spec.cores,
        cores_granted=float(spec.cores),
    )
    memory = HostMemory(total_bytes=spec.memory, limit_bytes=None, available_bytes=int(spec.memory * 0.95))
    host = Host(os=spec.os, arch=spec.arch, cpu=cpu, memory=memory, bandwidth=read)
    base = Machine(host=host, devices=(), runtimes=(), provenance=())
    made = machine_from(spec.hardware, memory=spec.memory, base=base)
    devices = made.devices
    if spec.apis is not None:
        devices = tuple(msgspec.structs.replace(d, apis=spec.apis) for d in devices)
    return msgspec.structs.replace(
        made,
        devices=devices,
        host=msgspec.structs.replace(made.host, os=spec.os, arch=spec.arch, cpu=cpu),
        runtimes=_installed(spec.runtimes),
    )


def _installed(versions: Mapping[str, str]) -> tuple[RuntimeFound, ...]:
    entries = ({"runtime": name, "provider": "path", "version": v} for name, v in sorted(versions.items()))
    return tuple(from_json(RuntimeFound, entry) for entry in entries)
