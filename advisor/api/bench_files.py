"""Measuring GGUF files with llama.cpp driven directly on the host, and stand-ins for the formats that are not there."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from advisor.api import learning
from advisor.api.context import resolve_model
from advisor.errors import AdvisorError
from advisor.facts.bench import ENOUGH_CPU, Bench, BenchPoint, Measurement, Work
from advisor.facts.plan import Settings as RunSettings
from advisor.facts.quantity import Quantity
from advisor.facts.text import shell_word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor.execute.speeds import Driver
    from advisor.execute.stand_ins import Relation, StandIn
    from advisor.execute.steps import Steps
    from advisor.facts.machine import Machine
    from advisor.facts.model import ModelFacts
    from advisor.settings import Settings

_TOKENS: Final = 32
_MOST_ARTIFACTS: Final = 400
_RUNTIME: Final = "llama.cpp"


def measure(
    s: Settings,
    steps: Steps,
    ref: str,
    machine: Machine,
    *,
    depths: Sequence[int],
    threads: Sequence[int],
    repeat: int,
    fmt: str | None,
    stand_ins: bool,
) -> tuple[Bench, tuple[Measurement, ...]]:
    """The speed of a GGUF file of the model ``ref``, and what later predictions can use of it.

    Raises:
        AdvisorError: ``model-needs-download`` where there is no such file; what reading, loading and decoding raise.
    """
    from advisor.api.making import SERVING_ENV, environment
    from advisor.execute import speeds
    from advisor.execute import threads as counting
    from advisor.execute.disk import make_folders
    from advisor.execute.measurements import machine_key, now
    from advisor.execute.speeds import Driver
    from advisor.execute.steps import Outcome, Step
    from advisor.planner.candidate import own_format
    from advisor.planner.costing import threads as planned_threads

    model, path, others = _file(s, ref, fmt)
    own = own_format(model) or (model.weights_dtype or "unknown")
    planned = planned_threads(machine)
    tried = tuple(threads) or counting.candidates(machine.host.cpu.cores_granted, planned)
    usable = tuple(sorted(d for d in depths if model.context_max is None or d + _TOKENS <= model.context_max))
    usable = usable or (min(*depths, max(1, (model.context_max or 512) // 2)),)
    notes = [f"Depth {d} was left out: the model takes {model.context_max} tokens." for d in depths if d not in usable]
    if others:
        notes.append(f"Of this model there are also files in {', '.join(others)}: choose with --format.")
    _refuse_too_large(path, machine)
    env = environment(s, steps, SERVING_ENV)
    scratch = Path(s.paths.cache) / "bench"
    make_folders(scratch)
    make_folders(s.paths.logs / "steps")
    driver = Driver(env, s.paths.logs / "steps" / "bench.log", scratch, steps.reporter, steps.cancel)
    load = [_load()]

    def run() -> Outcome[tuple[BenchPoint, ...]]:
        (runs,) = driver.measure(
            [{"label": path.name, "path": str(path)}], depths=usable, threads=tried, repeat=repeat, tokens=_TOKENS
        )
        return Outcome(speeds.points(runs), detail=f"{len(runs)} runs")

    points = steps.do(Step("measure", run))
    case = _Case(model, own, learning.engine_label(machine, _RUNTIME, "wheel"), now())
    kept = tuple(case.measurement(p) for p in points)
    best = speeds.best_threads(points)
    made: tuple[Measurement, ...] = ()
    if stand_ins:
        made = _stand_ins(steps, driver, case, machine, points, planned, notes)
    load.append(_load())
    busy = any(p.busy for p in points)
    if busy:
        worst = min(p.cpu_share for p in points if p.cpu_share is not None)
        notes.append(
            f"The machine was busy: threads got as little as {worst:.0%} of the CPU time that they wanted, and no "
            "prediction follows such a measurement. Measure again when it is quiet."
        )
    if best is not None and best < planned:
        notes.append(f"{best} of {planned} threads decoded fastest: more of them wait for each other here.")
    return (
        Bench(
            target=ref,
            kind="file",
            what=f"llama.cpp driven directly on the CPU, without a server: random tokens, prompts in batches of 512, "
            f"then {_TOKENS} tokens one by one; decode is by the median time of a token.",
            model=model.name,
            method="gguf",
            format=own,
            runtime="llama.cpp",
            engine=case.engine,
            artifact=str(path),
            machine=machine_key(machine),
            cores_granted=machine.host.cpu.cores_granted,
            cores_logical=machine.host.cpu.cores_logical,
            load=tuple(x for x in load if x is not None),
            busy=busy,
            points=points,
            best_threads=best,
            stand_ins=made,
            notes=tuple(notes),
            measured_at=case.at,
        ),
        (*kept, *made),
    )


class _Case:
    """One model file, and measurements in its name."""

    def __init__(self, model: ModelFacts, fmt: str, engine: str, at: str) -> None:
        from advisor.model.tensors import tensors
        from advisor.planner.token_work import shape_of

        self.model, self.fmt, self.engine, self.at = model, fmt, engine, at
        self.tensors = tensors(model)
        self.shape = shape_of(model)

    def measurement(self, p: BenchPoint) -> Measurement:
        """A point of the file itself."""
        from advisor.planner.token_work import work_of

        settings = RunSettings(context=p.depth + _TOKENS)
        work = work_of(self.model, self.tensors, method="gguf", fmt=self.fmt, settings=settings,
                       depth=p.depth + _TOKENS // 2, as_is=True)  # fmt: skip
        return self.of(p, self.fmt, work)

    def of(self, p: BenchPoint, fmt: str, work: Work, *, stand_in: bool = False) -> Measurement:
        """A point with its work."""
        return Measurement(
            runtime="llama.cpp",
            engine=self.engine,
            method="gguf",
            format=fmt,
            model=self.model.name,
            shape=self.shape,
            devices=("cpu",),
            threads=p.threads,
            depth=p.depth,
            kv_type="f16",
            work=work,
            decode=p.decode,
            prefill=p.prefill,
            origin="stand-in" if stand_in else "bench",
            runs=len(p.runs),
            busy=p.busy,
            measured_at=self.at,
        )


def _stand_ins(
    steps: Steps,
    driver: Driver,
    case: _Case,
    machine: Machine,
    points: Sequence[BenchPoint],
    planned: int,
    notes: list[str],
) -> tuple[Measurement, ...]:
    """Decoding of the other formats; what cannot be had is left out with a note."""
    from advisor.execute import stand_ins
    from advisor.execute.steps import Outcome, Step

    room = _room(machine)
    made = stand_ins.plan(case.model, case.tensors, own=case.fmt, room_bytes=room // 5)
    if not made:
        notes.append("No other format is measured by stand-ins: the model's layers differ, or are too large.")
        return ()
    least = min(p.depth for p in points)
    there = {p.threads: p for p in points if p.depth == least and p.decode is not None}
    real = there.get(planned) or next(iter(there.values()), None)
    threads = real.threads if real is not None and real.threads else planned

    def run() -> Outcome[tuple[Measurement, ...]]:
        try:
            found = stand_ins.relations(driver, made, depth=least, threads=threads, room_bytes=room)
        except AdvisorError as e:
            if e.code == "interrupted":
                raise
            notes.append(f"Other formats were not measured by stand-ins: {e.message}")
            return Outcome((), detail=e.message)
        out = tuple(
            _relative(case, m, made[0], found[m.format], real, least, threads)
            for m in made
            if m.format in found and m.format != case.fmt
        )
        return Outcome(out, detail=f"{len(out)} formats")

    return steps.do(Step("stand-ins", run))


def _relative(
    case: _Case, one: StandIn, first: StandIn, found: Relation, real: BenchPoint | None, depth: int, threads: int
) -> Measurement:
    """The speed of a format, by that of the real file where whole stand-ins of both were compared."""
    token_s = found.reference_s
    source = f"llama.cpp driven directly: random weights, in turns with {first.format} ones"
    if first.format == case.fmt and one.whole and first.whole and real is not None and real.decode is not None:
        token_s = 1 / float(real.decode.value)
        source += f", by the speed of the {case.fmt} file"
    decode = Quantity(
        value=1 / (token_s * found.ratio),
        low=1 / (token_s * max(found.ratios)),
        high=1 / (token_s * min(found.ratios)),
        unit="tokens/s",
        method="measured",
        source=f"{source}; median of {len(found.ratios)}",
    )
    share = found.cpu_share
    point = BenchPoint(depth=depth, threads=threads, prefill=None, decode=decode, runs=(), cpu_share=share,
                       busy=share is not None and share < ENOUGH_CPU)  # fmt: skip
    kept = case.of(point, one.format, one.work(depth + _TOKENS // 2), stand_in=True)
    return msgspec.structs.replace(kept, runs=len(found.ratios))


def _file(s: Settings, ref: str, fmt: str | None) -> tuple[ModelFacts, Path, tuple[str, ...]]:
    """The GGUF file to measure with its facts, and the formats of others of the same model.

    Raises:
        AdvisorError: ``model-needs-download``, with what makes one.
    """
    from advisor.planner.candidate import own_format

    model = resolve_model(ref, s)
    if model.weights_format == "gguf" and model.path is not None and fmt in (None, own_format(model)):
        return model, Path(model.path), ()
    found = [(facts, path) for facts, path in _stored(s, model) if own_format(facts) is not None]
    formats = tuple(sorted({str(own_format(facts)) for facts, _ in found}))
    wanted = [f for f in found if fmt in (None, own_format(f[0]))]
    if not wanted:
        there = f" in {fmt}" if fmt is not None else ""
        raise AdvisorError(
            "model-needs-download",
            f"There is no GGUF file of {model.name}{there} here to measure.",
            context=[f"here in: {', '.join(formats)}"] if formats else [],
            hint=f"advisor quantize {shell_word(ref)} --format {fmt or 'q4_k_m'}",
        )
    facts, path = wanted[0]
    rest = tuple(f for f in formats if f != own_format(facts))
    return msgspec.structs.replace(facts, name=model.name), path, rest


def _stored(s: Settings, model: ModelFacts) -> list[tuple[ModelFacts, Path]]:
    """The GGUF files of the store that have the model's dimensions, latest first."""
    from advisor.planner.token_work import shape_of

    folder = s.paths.store / "artifacts"
    files = []
    for path in folder.glob("*/*.gguf"):
        with suppress(OSError):  # gone meanwhile
            files.append((-path.stat().st_mtime, str(path), path))
    out = []
    for *_, path in sorted(files)[:_MOST_ARTIFACTS]:
        if not (path.parent / "manifest.json").is_file():
            continue
        try:
            facts = resolve_model(str(path), s)
        except AdvisorError:
            continue
        if shape_of(facts) == shape_of(model):
            out.append((facts, path))
    return out


def _room(machine: Machine) -> int:
    memory = machine.host.memory
    return min(v for v in (memory.total_bytes, memory.limit_bytes, memory.available_bytes) if v is not None)


def _refuse_too_large(path: Path, machine: Machine) -> None:
    """A file that does not fit would measure the disk.

    Raises:
        AdvisorError: ``not-enough-memory``.
    """
    size, room = path.stat().st_size, _room(machine)
    if size > room:
        raise AdvisorError(
            "not-enough-memory",
            f"{path.name} takes {size / 2**30:.1f} GiB and {room / 2**30:.1f} GiB are free: its speed would be the "
            "disk's.",
            hint="advisor probe",
            data={"bytes": size, "free_bytes": room},
        )


def _load() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
