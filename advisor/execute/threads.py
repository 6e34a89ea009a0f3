"""How many threads decode fastest here and now, found by a few tokens with each of some numbers.

Threads that wait for a core that somebody else has hold up all others at every layer, so that on a shared processor or
under a CPU quota fewer threads can be several times as fast.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from advisor.execute import speeds
from advisor.facts.bench import ThreadChoice
from advisor.facts.machine import Machine

if TYPE_CHECKING:
    from advisor.execute.speeds import Driver

QUOTA: Final = "quota"
SHARED: Final = "shared"
_DEPTH: Final = 32
_TOKENS: Final = 8
_REPEAT: Final = 3
# Fewer threads must be this much faster: the noise of so few tokens shall not change a plan.
_CLEARLY: Final = 1.07
# Load of others, by granted cores, from which on the processor counts as shared.
_LOAD: Final = 0.5


def reason(machine: Machine, load: float | None = None) -> str | None:
    """Why the number of threads should be tried: ``quota`` where fewer cores are granted than there are, ``shared``
    where others use at least half of what is granted, ``None`` where neither is so.

    Args:
        machine: what is granted.
        load: the load average; the system's own by default.
    """
    cpu = machine.host.cpu
    if cpu.cores_granted < cpu.cores_logical:
        return QUOTA
    if load is None:
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return SHARED if load >= _LOAD * cpu.cores_granted else None


def candidates(granted: float, planned: int) -> tuple[int, ...]:
    """Numbers of threads to try, most first: what is granted (rounded up), what is planned, and down to one."""
    most = max(1, math.ceil(granted))
    tried = {most, planned, round(0.75 * most), most // 2, most // 4, 1}
    return tuple(sorted((n for n in tried if 1 <= n <= max(most, planned)), reverse=True))


def choose(
    driver: Driver, artifact: Path, machine: Machine, *, planned: int, because: str, shape: str, fmt: str
) -> ThreadChoice | None:
    """Try several numbers of threads on a GGUF file; ``None`` where there is nothing to choose from.

    Raises:
        AdvisorError: as ``Driver.measure``.
    """
    from advisor.execute.measurements import now

    tried = candidates(machine.host.cpu.cores_granted, planned)
    if len(tried) < 2:
        return None
    (runs,) = driver.measure(
        [{"label": fmt, "path": str(artifact)}],
        depths=(_DEPTH,),
        threads=tried,
        repeat=_REPEAT,
        tokens=_TOKENS,
        step="threads",
    )
    found = speeds.points(runs)
    rates = {str(p.threads): round(float(p.decode.value), 3) for p in found if p.decode is not None}
    best = _best(rates, planned)
    return ThreadChoice(
        threads=best,
        tried=rates,
        granted=machine.host.cpu.cores_granted,
        because=because,
        shape=shape,
        format=fmt,
        measured_at=now(),
    )


def _best(rates: dict[str, float], planned: int) -> int:
    """The fastest number; the planned one where none is clearly faster."""
    if not rates:
        return planned
    fastest = max(sorted(rates, key=int), key=lambda n: rates[n])
    usual = rates.get(str(planned))
    return int(fastest) if usual is None or rates[fastest] > _CLEARLY * usual else planned
