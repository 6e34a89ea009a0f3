"""``advisor doctor``: the common causes of trouble, each with the command that mends it."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from advisor.api import health_system
from advisor.api.context import load_settings, rule_pack, this_machine
from advisor.errors import AdvisorError
from advisor.facts.reports import Check
from advisor.facts.shown import counted, size

if TYPE_CHECKING:
    from advisor.settings import Settings

# The two environments of the default chain, a 16-bit copy and an artifact of a small model.
_SPACE_WANTED_BYTES = 6 * 2**30


def doctor(*, settings: Settings | None = None) -> tuple[Check, ...]:
    """Look at folders, disk, memory, devices, rules, environments and deployments. Changes nothing."""
    s = load_settings(settings)
    return (
        _python(),
        *_folders(s),
        _space(s),
        *_machine(s),
        _rules(s),
        *_environments(s),
        *_deployments(s),
    )


def _ports(s: Settings) -> set[int]:
    from advisor.api.serving import manager

    try:
        return manager(s).spoken_for()
    except AdvisorError:  # told by the check of the deployments
        return set()


def _python() -> Check:
    have = ".".join(map(str, sys.version_info[:3]))
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        return Check(
            name="python",
            ok=False,
            message=f"Python {have} has no venv or no ensurepip, so environments cannot be built.",
            hint="apt-get install python3-venv",
        )
    return Check(name="python", ok=True, message=f"Python {have} with venv")


def _folders(s: Settings) -> list[Check]:
    out = []
    for kind in ("cache", "state", "config"):
        path = Path(getattr(s.paths, kind))
        there = path
        while not there.exists() and there != there.parent:
            there = there.parent
        ok = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
        out.append(
            Check(
                name=f"{kind} folder",
                ok=ok,
                message=f"{path}" if ok else f"{path} cannot be written.",
                hint=None if ok else "ADVISOR_HOME=FOLDER advisor doctor",
            )
        )
    return out


def _space(s: Settings) -> Check:
    there = Path(s.paths.cache)
    while not there.exists() and there != there.parent:
        there = there.parent
    free = shutil.disk_usage(there).free
    ok = free >= _SPACE_WANTED_BYTES
    return Check(
        name="disk",
        ok=ok,
        message=f"{size(free)} free for the cache; {size(_SPACE_WANTED_BYTES, 2)} are wanted",
        hint=None if ok else "ADVISOR_HOME=FOLDER_ON_A_LARGER_DISK advisor up",
    )


def _machine(s: Settings) -> list[Check]:
    machine, warnings = this_machine(s)
    host = machine.host
    out = [
        Check(
            name="cpu",
            ok=bool({"avx2", "asimd"} & set(host.cpu.isa)) if host.cpu.isa else None,
            message=f"{host.cpu.name}, {host.cpu.cores_granted:g} of {host.cpu.cores_logical} cores granted",
            hint=None
            if not host.cpu.isa or {"avx2", "asimd"} & set(host.cpu.isa)
            else "advisor probe --json  # the prebuilt llama.cpp wants AVX2",
        )
    ]
    available = host.memory.available_bytes
    out.append(
        Check(
            name="memory",
            ok=None if available is None else available > 2**30,
            message="unknown" if available is None else f"{size(available)} available",
            hint=None if available is None or available > 2**30 else "advisor status",
        )
    )
    out += [health_system.device(d, host.container) for d in machine.devices]
    out += health_system.builds(s, machine)
    out += health_system.limits(host.memory.limit_bytes or host.memory.total_bytes)
    out.append(health_system.port(s, _ports(s)))
    out += [Check(name=w.code, ok=None, message=w.message) for w in warnings]
    return out


def _rules(s: Settings) -> Check:
    try:
        pack = rule_pack(s)
    except AdvisorError as e:
        return Check(name="rules", ok=False, message=e.message, hint="advisor rules lint")
    if pack.problems:
        return Check(
            name="rules",
            ok=False,
            message=f"{counted(len(pack.problems), 'problem')}; the first: {pack.problems[0]}",
            hint="advisor rules lint",
        )
    return Check(name="rules", ok=True, message=counted(len(pack.rules), "rule"))


def _environments(s: Settings) -> list[Check]:
    from advisor.execute import envs

    found = envs.list_envs(settings=s)
    if not found:
        return [
            Check(
                name="environments",
                ok=None,
                message="none is built yet; `advisor up` builds what it needs",
                hint="advisor env build llama.cpp",
            )
        ]
    return [
        Check(
            name=f"environment {e.name}",
            ok=e.built and e.current,
            message=f"{size(e.bytes)} in {e.path}"
            if e.built and e.current
            else ("of older pins" if e.built else "half built"),
            hint=None if e.built and e.current else f"advisor env build {e.name}",
        )
        for e in found
    ]


def _deployments(s: Settings) -> list[Check]:
    from advisor.api.serving import manager

    bad = ("failed", "lost", "unhealthy")
    try:
        found = manager(s).list()
    except AdvisorError as e:
        return [Check(name="deployments", ok=False, message=e.message, hint="advisor paths")]
    return [
        Check(
            name=f"deployment {d.name}",
            ok=d.state not in bad,
            message=f"{d.state}" + (f": {d.reason}" if d.reason else f" at {d.url}"),
            hint=f"advisor logs {d.name}" if d.state in bad else None,
        )
        for d in found
    ]
