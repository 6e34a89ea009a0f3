"""``advisor bench``: how fast a running deployment, or a model file, really is here; kept for later predictions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from advisor.api import bench_files, bench_servers, learning, planning
from advisor.api.context import DEFAULT_MODEL, load_settings
from advisor.errors import AdvisorError
from advisor.events import Cancel, Reporter
from advisor.facts.bench import Bench

if TYPE_CHECKING:
    from advisor.execute.steps import Steps
    from advisor.facts.bench import Measurement
    from advisor.facts.machine import Machine
    from advisor.facts.results import Deployment
    from advisor.settings import Settings

DEPTHS: Final = (256, 1024)
REPEAT: Final = 3
_MOST_DEPTH: Final = 1 << 20
_MOST_THREADS: Final = 4096
_MOST_REPEAT: Final = 100


def bench(
    target: str | None = None,
    *,
    depths: Sequence[int] = (),
    threads: Sequence[int] = (),
    repeat: int = REPEAT,
    format: str | None = None,
    stand_ins: bool = True,
    settings: Settings | None = None,
    reporter: Reporter | None = None,
    cancel: Cancel | None = None,
) -> Bench:
    """Measure decode and prefill, and keep the result for later predictions on this machine.

    Args:
        target: the name of a running deployment (measured through its endpoint), or a model: a GGUF file, or any
            model of which there is a GGUF file in the store. The only deployment that runs, else advisor's usual
            small model, where nothing is named.
        depths: tokens in the cache before decoding; 256 and 1024 by default, cut to what the model takes.
        threads: numbers of threads to compare, of a file only; those planned and fewer by default.
        repeat: runs of each.
        format: which of several files of the model.
        stand_ins: of a file, measure also the other formats on files of the same shapes with random weights.

    Raises:
        AdvisorError: ``deployment-not-found``, ``not-running``, ``model-not-found``, ``model-needs-download`` where
            there is no file to measure, ``contradictory-options``, ``bad-option``, ``env-failed``, ``interrupted``.
    """
    s = load_settings(settings)
    _check(depths, threads, repeat)
    from advisor.execute.journal import Journal
    from advisor.execute.steps import Steps

    steps = Steps(reporter=reporter, cancel=cancel, journal=Journal(s.paths.logs / "journal.jsonl"))
    deployment = _deployment(s, target)
    machine = planning.own_machine(s)
    wanted = tuple(dict.fromkeys(depths)) or DEPTHS
    if deployment is not None:
        if threads or format is not None:
            option = "--threads" if threads else "--format"
            raise AdvisorError(
                "contradictory-options",
                f"{option} cannot be chosen for {deployment.name}: it runs already.",
                context=["the threads of a server are set when it starts; a model file can be measured with any"],
                hint=f"advisor bench {deployment.name}",
            )
        found, kept = bench_servers.measure(s, steps, deployment, machine, depths=wanted, repeat=repeat)
    else:
        found, kept = bench_files.measure(
            s,
            steps,
            target or DEFAULT_MODEL,
            machine,
            depths=wanted,
            threads=tuple(dict.fromkeys(threads)),
            repeat=repeat,
            fmt=format,
            stand_ins=stand_ins,
        )
    return _kept(s, steps, found, kept, machine)


def forget_measured(*, settings: Settings | None = None) -> Path | None:
    """Remove all that was measured on this machine; the file, or ``None`` where there was none.

    Raises:
        AdvisorError: ``not-writable``.
    """
    from advisor.execute import measurements

    s = load_settings(settings)
    return measurements.forget(s, planning.own_machine(s))


def _kept(s: Settings, steps: Steps, found: Bench, speeds: tuple[Measurement, ...], machine: Machine) -> Bench:
    """The result with the file in which it is kept, or why it is not."""
    import msgspec

    from advisor.execute import measurements
    from advisor.execute.steps import Outcome, Step

    if not speeds:
        return found

    def run() -> Outcome[str | None]:
        problem = learning.keep(s, machine, speeds)
        return Outcome(problem, detail=problem or f"{len(speeds)} measurements")

    problem = steps.do(Step("keep", run))
    if problem is not None:
        return msgspec.structs.replace(found, notes=(*found.notes, problem))
    return msgspec.structs.replace(found, file=str(measurements.path_of(s, machine)))


def _check(depths: Sequence[int], threads: Sequence[int], repeat: int) -> None:
    for name, values, most in (("--depths", depths, _MOST_DEPTH), ("--threads", threads, _MOST_THREADS)):
        for n in values:
            if not 1 <= n <= most:
                usual = "256,1024" if name == "--depths" else "2,1"
                raise AdvisorError(
                    "bad-option", f"{name} {n}: between 1 and {most}.", hint=f"advisor bench {name} {usual}"
                )
    if not 1 <= repeat <= _MOST_REPEAT:
        raise AdvisorError(
            "bad-option", f"--repeat {repeat}: between 1 and {_MOST_REPEAT}.", hint=f"advisor bench --repeat {REPEAT}"
        )


def _deployment(s: Settings, target: str | None) -> Deployment | None:
    """The deployment that is meant; ``None`` for a model.

    Raises:
        AdvisorError: ``not-running``; ``usage`` where several run and none is named.
    """
    from advisor.api.serving import manager

    m = manager(s)
    if target is None:
        alive = [d for d in m.survey()[0] if d.state == "ready"]
        if len(alive) > 1:
            names = [d.name for d in alive]
            raise AdvisorError(
                "usage",
                f"{len(names)} deployments run: say which one to measure.",
                context=[f"running: {', '.join(names)}"],
                hint=f"advisor bench {names[0]}",
                data={"names": names},
            )
        return alive[0] if alive else None
    if os.sep in target or target.endswith(".gguf") or target not in m.names():
        return None
    found = m.get(target)
    if found.state != "ready":
        raise AdvisorError(
            "not-running",
            f"The deployment {target} is {found.state}, so it cannot be measured.",
            context=[found.reason] if found.reason else [],
            hint=f"advisor restart {target}",
        )
    return found
