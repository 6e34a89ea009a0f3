"""Reads the files of scenarios strictly: unknown keys, unknown rules and scenarios that demand nothing are refused."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from advisor.errors import did_you_mean
from advisor.facts.base import Shape, from_json
from advisor.facts.machine import Cpu, Host, HostMemory, Machine
from advisor.facts.plan import Settings
from advisor.facts.quantity import exact
from advisor.guide.schema import RulePack
from advisor.guide.texts import citation_problem
from advisor.guide.yamlfile import Document, YamlProblem, read
from advisor.probes.catalog import machine_from
from advisor.probes.record import load_machine
from tests.scenarios.shapes import File, Hosts, HostSpec, MachineSpec, Must, MustSay, Pattern, Rows, Scenario

HERE: Final = Path(__file__).resolve().parent
MACHINES: Final = HERE.parent / "fixtures" / "machines"
_UNITS: Final = {"GB": 10**9, "GiB": 2**30, "TB": 10**12, "TiB": 2**40, "GB/s": 10**9}
_DURATIONS: Final = {"s": 1, "m": 60, "h": 3600}
S = TypeVar("S", bound=Shape)


class BadScenario(Exception):
    """File, line and what is wrong."""


def amount(text: str) -> int:
    """``64GB``, ``8GiB``, ``80GB/s`` in bytes.

    Raises:
        BadScenario: no number with one of the units.
    """
    for unit in sorted(_UNITS, key=len, reverse=True):
        if text.endswith(unit):
            try:
                return int(float(text.removesuffix(unit)) * _UNITS[unit])
            except ValueError:
                break
    raise BadScenario(f"{text!r} is no amount: write for example 64GB or 64GiB")


def seconds(text: str) -> float:
    """``10m``, ``90s``, ``2h`` in seconds.

    Raises:
        BadScenario: no number with one of the units.
    """
    try:
        return float(text[:-1]) * _DURATIONS[text[-1:]]
    except (ValueError, KeyError):
        raise BadScenario(f"{text!r} is no time: write for example 10m") from None


def load(folder: Path = HERE) -> tuple[Scenario, ...]:
    """All scenarios of ``folder/*.yaml``, by file and then in their order.

    Raises:
        BadScenario: what does not fit the shape, an id that is used twice, what demands nothing or has no source.
    """
    found: dict[str, Scenario] = {}
    for path in sorted(folder.glob("*.yaml")):
        document, file = _file(path, File)
        for i, scenario in enumerate(file.scenarios):
            where = f"{path.name}:{document.line(f'scenarios[{i}]')}: {scenario.id}"
            if scenario.id in found:
                raise BadScenario(f"{where}: the id is used twice")
            problem = _wrong(scenario)
            if problem:
                raise BadScenario(f"{where}: {problem}")
            found[scenario.id] = scenario
    return tuple(found.values())


def rows() -> Rows:
    """The rules that carry the guide's rows."""
    return _file(HERE / "rows.yml", Rows)[1]


def unknown_rules(scenarios: tuple[Scenario, ...], pack: RulePack) -> list[str]:
    """``scenario: RULE`` for every rule that is named and that there is not, with the nearest."""
    known = {r.id for r in pack.rules}
    named = [(s.id, rule) for s in scenarios for rule in _rules(s)]
    named += [(f"row {row}", rule) for row, ids in rows().rows.items() for rule in ids]
    return [f"{where}: {rule}.{did_you_mean(rule, sorted(known))}" for where, rule in named if rule not in known]


def _file(path: Path, kind: type[S]) -> tuple[Document, S]:
    try:
        document = read(path)
        return document, from_json(kind, document.value)
    except YamlProblem as e:
        raise BadScenario(f"{path.name}:{e.line}: {e.path} {e.message}") from e
    except msgspec.ValidationError as e:
        words, _, where = str(e).partition(" - at `$.")
        raise BadScenario(f"{path.name}:{document.line(where.rstrip('`'))}: {e if not where else words} {where}") from e


def _patterns(s: Scenario) -> Iterator[Pattern]:
    if s.must.first is not None:
        yield s.must.first
    yield from (*s.must.some, *s.must.before, *(n.plan for n in s.must_not))


def _rules(s: Scenario) -> Iterator[str]:
    yield from s.must_say.rules
    yield from (n.rule for n in s.must_not if n.rule is not None)
    for pattern in _patterns(s):
        yield from pattern.rules


def _wrong(s: Scenario) -> str | None:
    """What makes a scenario of the right shape worthless; ``None`` where nothing does."""
    if s.must == Must() and not s.must_not and s.must_say == MustSay():
        return "it demands nothing"
    if not s.because or not all((ref.doc and ref.section) or ref.title for ref in s.because):
        return "because names a guide text with its section, or a title"
    for problem in map(citation_problem, s.because):
        if problem is not None:
            return problem
    if any(p == Pattern() for p in _patterns(s)):
        return "a pattern without a word matches every plan"
    if len(s.must.before) == 1:
        return "before takes two patterns or more"
    if s.must.nothing and (s.must.first or s.must.some):
        return "nothing fits, and yet a plan is wanted"
    known = set(Settings.__struct_fields__)
    for pattern in _patterns(s):
        for key in set(pattern.settings) - known:
            return f"there is no setting {key!r}.{did_you_mean(key, sorted(known))}"
    m = s.machine
    if (m.recorded is None) == (not m.hardware):
        return "a machine is either recorded or put together of hardware"
    if m.recorded is None and m.memory is None:
        return "a machine that is put together needs its memory"
    try:
        for text in (m.memory, m.limit, s.flags.max_memory):
            amount(text or "1GB")
        seconds(s.flags.within or "1s")
    except BadScenario as e:
        return str(e)
    return None


@cache
def _hosts() -> dict[str, HostSpec]:
    return _file(HERE / "hosts.yml", Hosts)[1].hosts


@cache
def machine_of(spec: MachineSpec) -> Machine:
    """The machine of a scenario.

    Raises:
        BadScenario: a host or a recording that there is not.
        AdvisorError: hardware that there is not.
    """
    if spec.recorded is not None:
        folder = MACHINES / spec.recorded
        if not folder.is_dir():
            raise BadScenario(f"there is no recorded machine {spec.recorded!r}")
        found = load_machine(folder).machine
        return msgspec.structs.replace(found, buildable=spec.compiled) if spec.compiled else found
    if spec.host not in _hosts():
        raise BadScenario(f"there is no host {spec.host!r}.{did_you_mean(spec.host, sorted(_hosts()))}")
    host = _hosts()[spec.host]
    memory = amount(spec.memory or "")
    base = Machine(host=_host(host, memory), devices=(), runtimes=(), provenance=())
    machine = machine_from(spec.hardware, memory=memory, base=base)
    machine = msgspec.structs.replace(machine, buildable=spec.compiled)
    if spec.limit is None:
        return machine
    limited = msgspec.structs.replace(machine.host.memory, limit_bytes=amount(spec.limit))
    return msgspec.structs.replace(machine, host=msgspec.structs.replace(machine.host, memory=limited))


def _host(spec: HostSpec, memory: int) -> Host:
    return Host(
        os="linux",
        arch=spec.arch,
        cpu=Cpu(
            name=spec.cpu,
            isa=spec.isa,
            cores_physical=spec.cores,
            cores_logical=spec.cores,
            cores_granted=float(spec.cores),
        ),
        memory=HostMemory(total_bytes=memory, limit_bytes=None, available_bytes=None),
        bandwidth=exact(amount(spec.bandwidth), "bytes/s", spec.source),
    )
