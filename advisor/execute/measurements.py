"""The store of what was measured, speeds above all, and of what servers that failed taught.

One small file a machine, written whole or not at all. A machine is told by its processor, memory and devices, never by
its name, so that a home that is carried to another machine teaches that one nothing, and that a cloned virtual machine
of the same kind does.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from advisor.errors import AdvisorError
from advisor.facts.base import dumps_any, loads
from advisor.facts.bench import MeasuredEngine, MeasuredSpeeds, Measurement, ThreadChoice
from advisor.facts.machine import Machine
from advisor.facts.plan import Warning_
from advisor.facts.quantity import Quantity
from advisor.facts.recovery import KernelLesson, MemoryLesson

if TYPE_CHECKING:
    from advisor.settings import Settings

FOLDER: Final = "measured"
MOST_SPEEDS: Final = 600
MOST_THREADS: Final = 60
MOST_LESSONS: Final = 60
_MOST_BYTES: Final = 4 << 20
_UNREADABLE: Final = "measurements-unreadable"
_WAIT_S: Final = 10.0
_GIB: Final = 1 << 30
# Tokens a second that no machine reaches; a file that says so was not written by a measurement.
_ABSURD: Final = 1e7
# No server needs that many times what was predicted.
_MOST_RATIO: Final = 4.0


class Found(NamedTuple):
    """What is kept of this machine, and what was wrong with the file."""

    kept: MeasuredSpeeds
    warnings: tuple[Warning_, ...]


def machine_key(machine: Machine) -> str:
    """Sixteen hex digits of what a machine is made of. What is granted or free at the moment takes no part.

    Memory counts in whole GiB, because firmware keeps a little more or less of it from boot to boot.
    """
    host = machine.host
    parts = {
        "arch": host.arch,
        "cpu": [host.cpu.name, host.cpu.cores_logical, host.cpu.cores_physical],
        "memory": round(host.memory.total_bytes / _GIB),
        "devices": sorted(
            [d.vendor, d.name, round((d.memory.total_bytes or 0) / _GIB)] for d in machine.devices if not d.for_screens
        ),
    }
    return hashlib.sha256(dumps_any(parts)).hexdigest()[:16]


def path_of(settings: Settings, machine: Machine) -> Path:
    """The file of a machine."""
    return Path(settings.paths.state) / FOLDER / f"{machine_key(machine)}.json"


def load(settings: Settings, machine: Machine) -> Found:
    """What was measured on ``machine``; nothing where there is no file.

    A file that cannot be understood is renamed (``.damaged``) and told of; predictions then go without it.
    """
    path = path_of(settings, machine)
    key = machine_key(machine)
    empty = MeasuredSpeeds(machine=key)
    try:
        with path.open("rb") as f:
            raw = f.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        return Found(empty, ())
    except OSError as e:
        message = f"What was measured here cannot be read ({path}: {e.strerror}); predictions go without it."
        return Found(empty, (Warning_(code=_UNREADABLE, message=message),))
    try:
        if len(raw) > _MOST_BYTES:
            raise ValueError("it is too large")
        kept = loads(MeasuredSpeeds, raw)
        if kept.machine != key:
            raise ValueError("it is of another machine")
        _check(kept)
    except (ValueError, RecursionError) as e:
        aside = path.with_suffix(".damaged")
        with suppress(OSError):
            path.replace(aside)
        message = f"What was measured here is damaged and was set aside as {aside}: {e}. Measure again: advisor bench"
        return Found(empty, (Warning_(code="measurements-damaged", message=message),))
    return Found(kept, ())


def _check(kept: MeasuredSpeeds) -> None:
    """Refuse what no measurement says.

    Raises:
        ValueError: with the reason.
    """
    for one in kept.speeds:
        for q in (one.decode, one.prefill):
            if q is not None:
                _check_speed(q)
        amounts = (*one.work.read_bytes.values(), *one.work.weights.values(), one.work.cache_bytes, one.work.layers)
        if not all(0 <= n < 1e16 for n in amounts) or not 0 <= one.depth < 1 << 32:
            raise ValueError(f"the work of {one.model} is out of bounds")
    for lesson in kept.memory:
        known = [n for n in (lesson.ceiling_bytes, lesson.predicted_bytes) if n is not None]
        if not all(0 <= n < 1 << 60 for n in known) or not 0 < (lesson.ratio or 1.0) <= _MOST_RATIO:
            raise ValueError(f"what was learned of the memory of {lesson.device} is out of bounds")


def _check_speed(q: Quantity) -> None:
    if q.unit != "tokens/s" or not 0 < q.low <= q.value <= q.high < _ABSURD:
        raise ValueError(f"a speed of {q.value} {q.unit} is out of bounds")


def add(
    settings: Settings,
    machine: Machine,
    speeds: Iterable[Measurement] = (),
    threads: Iterable[ThreadChoice] = (),
    memory: Callable[[tuple[MemoryLesson, ...]], tuple[MemoryLesson, ...]] | None = None,
    kernels: Iterable[KernelLesson] = (),
) -> Path:
    """Keep measurements; each takes the place of an earlier one of the same thing. The oldest go when there are many.

    A measurement of a busy machine does not take the place of one of the same thing that was not disturbed. ``memory``
    makes the new lessons on memory of those that are kept.

    Returns: the file.

    Raises:
        AdvisorError: ``not-writable``, ``disk-full``, ``busy``; ``state-unreadable`` where a file is there that cannot
            be read.
    """
    from advisor.execute.disk import make_folders, write_atomic
    from advisor.execute.locks import locked

    path = path_of(settings, machine)
    make_folders(path.parent)
    with locked(path.with_suffix(".lock"), wait_s=_WAIT_S):
        found = load(settings, machine)
        if any(w.code == _UNREADABLE for w in found.warnings):  # it would be lost, not added to
            raise AdvisorError("state-unreadable", found.warnings[0].message, hint="advisor paths")
        kept = found.kept
        known = {_identity(m): m for m in kept.speeds}
        for new in speeds:
            old = known.get(_identity(new))
            if old is None or old.busy or not new.busy:
                known.pop(_identity(new), None)
                known[_identity(new)] = new
        chosen = {_thread_identity(t): t for t in kept.threads}
        for choice in threads:
            chosen.pop(_thread_identity(choice), None)
            chosen[_thread_identity(choice)] = choice
        lacked = {_kernel_identity(k): k for k in kept.kernels}
        for lesson in kernels:
            lacked.pop(_kernel_identity(lesson), None)
            lacked[_kernel_identity(lesson)] = lesson
        whole = MeasuredSpeeds(
            machine=kept.machine,
            speeds=tuple(known.values())[-MOST_SPEEDS:],
            threads=tuple(chosen.values())[-MOST_THREADS:],
            memory=(memory(kept.memory) if memory is not None else kept.memory)[-MOST_LESSONS:],
            kernels=tuple(lacked.values())[-MOST_LESSONS:],
        )
        write_atomic(path, whole.dumps())
    return path


def keep(
    settings: Settings, machine: Machine, speeds: Iterable[Measurement] = (), threads: Iterable[ThreadChoice] = ()
) -> str | None:
    """As ``add``, where the measurement is a by-product: what went wrong is returned in words."""
    try:
        add(settings, machine, speeds, threads)
    except AdvisorError as e:
        return f"What was measured is not kept: {e.message}"
    return None


def forget(settings: Settings, machine: Machine) -> Path | None:
    """Remove what was measured on this machine; the file that was removed, ``None`` where there was none.

    Raises:
        AdvisorError: ``not-writable``.
    """
    from advisor.execute.disk import disk_errors

    path = path_of(settings, machine)
    with disk_errors(path):
        try:
            path.unlink()
        except FileNotFoundError:
            return None
    return path


def _identity(m: Measurement) -> tuple[object, ...]:
    return (
        *(m.runtime, m.engine, m.method, m.format, m.shape, m.devices, m.threads, m.depth, m.kv_type),
        *(m.gpu_layers, m.cpu_moe_layers, m.origin),
    )


def _thread_identity(t: ThreadChoice) -> tuple[object, ...]:
    return (t.shape, t.format, t.granted, t.because)


def _kernel_identity(k: KernelLesson) -> tuple[object, ...]:
    return (k.runtime, k.engine, k.method, k.format, k.devices)


def engines(kept: MeasuredSpeeds, file: Path) -> tuple[MeasuredEngine, ...]:
    """The engines that were measured, for ``advisor probe``."""
    out = []
    for runtime, engine in dict.fromkeys((m.runtime, m.engine) for m in kept.speeds):
        own = [m for m in kept.speeds if (m.runtime, m.engine) == (runtime, engine)]
        out.append(
            MeasuredEngine(
                runtime=runtime,
                engine=engine,
                models=tuple(sorted({m.model for m in own if m.origin != "stand-in"})),
                formats=tuple(sorted({m.format for m in own if m.origin != "stand-in"})),
                speeds=len(own),
                file=str(file),
                measured_at=max((m.measured_at for m in own if m.measured_at is not None), default=None),
            )
        )
    return tuple(out)


def now() -> str:
    """UTC, ISO 8601, in seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
