"""Configures and compiles a CMake project with Ninja: progress with the time that is left, resumed where it stopped."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from advisor.errors import AdvisorError
from advisor.events import Cancel, Event, Reporter
from advisor.execute.disk import disk_errors
from advisor.execute.proc import Completed, run

_EDGE: Final = re.compile(r"^\[(\d+)/(\d+)\] (?:Building \w+ object |Linking \w+ )?(.*)$")
_FAILED: Final = re.compile(r"^(FAILED: |.*(fatal )?error: |CMake Error|ninja: error)")
_SHARE_BEFORE_GUESS: Final = 0.02
# The largest sources of llama.cpp take about this much while they are compiled.
BYTES_A_JOB: Final = 1_300_000_000


class Tree(NamedTuple):
    """A project to compile: its sources, where objects go, CMake's options, what to make, and with which tools."""

    source: Path
    build: Path
    flags: tuple[str, ...]
    targets: tuple[str, ...]
    cmake: str
    ninja: str


class Edges:
    """Reads Ninja's ``[n/m] ...`` lines; the rate of the edges so far tells the seconds that are left.

    A resumed build counts only what is left of it, so the rate is of this run alone.
    """

    def __init__(self, step: str, report: Reporter, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._step, self._report, self._clock = step, report, clock
        self._started: float | None = None
        self.done = self.total = 0

    def hear(self, line: str) -> None:
        """One line of output."""
        m = _EDGE.match(line)
        if m is None:
            return
        now = self._clock()
        self._started = now if self._started is None else self._started
        self.done, self.total = int(m[1]), int(m[2])
        spent = now - self._started
        left = None
        if self.total and self.done > 1 and self.done / self.total >= _SHARE_BEFORE_GUESS:
            left = round(spent / (self.done - 1) * (self.total - self.done), 1)
        name = Path(m[3].split(" ")[-1]).name.removesuffix(".o")
        self._report(
            Event(
                kind="progress",
                step=self._step,
                message=f"compiling {name}",
                done=self.done,
                total=self.total,
                unit="files",
                seconds_left=left,
            )
        )


def jobs(cores: float, available_bytes: int | None) -> int:
    """Compilers at once: the cores that are granted, fewer where memory would run out."""
    fit = max(1, available_bytes // BYTES_A_JOB) if available_bytes is not None else 1 << 10
    return max(1, min(int(cores), fit))


def compile_tree(
    tree: Tree,
    *,
    log: Path,
    step: str,
    at_once: int,
    env: Mapping[str, str],
    reporter: Reporter,
    cancel: Cancel | None,
) -> None:
    """Configure and compile. What an earlier run left is gone on from; where that fails, it is begun again once.

    Raises:
        AdvisorError: ``env-failed`` with the lines that say why, ``out-of-memory``, ``disk-full``, ``interrupted``.
    """
    resumed = (tree.build / "CMakeCache.txt").is_file()
    try:
        _once(tree, log=log, step=step, at_once=at_once, env=env, reporter=reporter, cancel=cancel)
    except AdvisorError as e:
        if not resumed or e.code != "env-failed":
            raise
        reporter(Event(kind="warning", step=step, message="what an earlier build left does not go on; begun again"))
        shutil.rmtree(tree.build, ignore_errors=True)
        _once(tree, log=log, step=step, at_once=at_once, env=env, reporter=reporter, cancel=cancel)


def _once(
    tree: Tree,
    *,
    log: Path,
    step: str,
    at_once: int,
    env: Mapping[str, str],
    reporter: Reporter,
    cancel: Cancel | None,
) -> None:
    with disk_errors(tree.build):
        tree.build.mkdir(parents=True, exist_ok=True)
    reporter(Event(kind="progress", step=step, message="configuring"))
    trouble: list[str] = []

    def watch(line: str) -> None:
        if _FAILED.match(line):
            trouble.append(line)

    configure: list[str | Path] = [tree.cmake, "-S", tree.source, "-B", tree.build, "-G", "Ninja"]
    configure += [f"-DCMAKE_MAKE_PROGRAM={tree.ninja}", *tree.flags]
    done = run(configure, log=log, step=step, env=env, cancel=cancel, check=False, on_line=watch)
    _must(done, "CMake cannot configure llama.cpp", trouble)
    edges = Edges(step, reporter)

    def hear(line: str) -> None:
        edges.hear(line)
        watch(line)

    done = run(
        [tree.ninja, "-C", tree.build, "-j", str(at_once), *tree.targets],
        log=log,
        step=step,
        env={**env, "NINJA_STATUS": "[%f/%t] "},
        cancel=cancel,
        check=False,
        on_line=hear,
    )
    _must(done, "llama.cpp does not compile", trouble)


def _must(done: Completed, what: str, trouble: Sequence[str]) -> None:
    if done.returncode == 0:
        return
    text = "\n".join((*trouble, *done.tail))
    if "No space left on device" in text or "Disk quota exceeded" in text:
        raise AdvisorError("disk-full", f"{what}: the disk is full.", context=done.tail, hint="advisor paths")
    if done.oom_killed or "Killed signal terminated program" in text:
        raise AdvisorError("out-of-memory", f"{what}: a compiler was killed, memory ran out.", context=done.tail)
    lines = list(dict.fromkeys(trouble))[:8] or list(done.tail)
    raise AdvisorError(
        "env-failed",
        f"{what}: exit status {done.returncode}.",
        context=(*lines, f"log: {done.log}"),
        data={"backend_exit": done.returncode, "log": str(done.log)},
    )
