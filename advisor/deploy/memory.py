"""Memory of a set of processes: shared pages counted once where the system can tell."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Final

from advisor.deploy import spawn
from advisor.deploy.process_table import LINUX
from advisor.facts.quantity import Quantity, exact

PSS_SOURCE: Final = "sum of Pss in /proc/PID/smaps_rollup over the server's processes"
RSS_SOURCE: Final = "sum of VmRSS in /proc/PID/status over the server's processes; shared pages count more than once"
PS_SOURCE: Final = "sum of rss by ps over the server's processes; shared pages count more than once"
PEAK_SOURCE: Final = (
    "sum of VmHWM in /proc/PID/status over the server's processes; peaks need not coincide, and shared pages count "
    "more than once"
)


def _field(path: Path, name: str) -> int | None:
    """A ``Name:  n kB`` line of a /proc file, in bytes."""
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith(f"{name}:"):
            parts = line.split()
            return int(parts[1]) * 1024 if len(parts) > 1 and parts[1].isdigit() else None
    return None


def _sum(pids: Iterable[int], file: str, name: str, *, proc: Path) -> int | None:
    """The sum over the processes that are still there; ``None`` where one of those there does not tell."""
    values = []
    for pid in pids:
        value = _field(proc / str(pid) / file, name)
        if value is not None:
            values.append(value)
        elif (proc / str(pid)).exists() and _field(proc / str(pid) / "status", "VmRSS") is not None:
            return None
    return sum(values) if values else None


def resident(pids: Iterable[int], *, proc: Path = Path("/proc")) -> Quantity | None:
    """Bytes resident now: proportional set size, else resident set size; ``None`` where no process can be read."""
    known = list(pids)
    if not known:
        return None
    if not LINUX:
        shown = spawn.output("ps", "-o", "rss=", "-p", ",".join(map(str, known))).split()
        return (
            exact(sum(int(kb) * 1024 for kb in shown if kb.isdigit()), "bytes", PS_SOURCE, "measured")
            if shown
            else None
        )
    pss = _sum(known, "smaps_rollup", "Pss", proc=proc)
    if pss is not None:
        return exact(pss, "bytes", PSS_SOURCE, "measured")
    rss = _sum(known, "status", "VmRSS", proc=proc)
    return None if rss is None else exact(rss, "bytes", RSS_SOURCE, "measured")


def unreclaimable(pids: Iterable[int], *, proc: Path = Path("/proc")) -> int | None:
    """Bytes of the processes' own data, resident: what the kernel cannot drop, unlike mapped files. ``None`` where the
    system does not tell."""
    known = list(pids)
    if not known or not LINUX:
        return None
    parts = [_sum(known, "status", name, proc=proc) for name in ("RssAnon", "RssShmem")]
    found = [p for p in parts if p is not None]
    return sum(found) if found else None


def peak(pids: Iterable[int], *, proc: Path = Path("/proc")) -> Quantity | None:
    """Bytes resident at most since each process began, summed; an upper bound where there are several."""
    known = list(pids)
    most = _sum(known, "status", "VmHWM", proc=proc) if LINUX else None
    return None if most is None else exact(most, "bytes", PEAK_SOURCE, "measured")


class Sampler:
    """Samples resident memory in a thread while a ``with`` block runs; ``peak`` is the largest sample."""

    def __init__(self, sample: Callable[[], Quantity | None], interval_s: float) -> None:
        self._sample = sample
        self._interval_s = interval_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="advisor-memory", daemon=True)
        self._best: Quantity | None = None
        self.samples = 0

    def _take(self) -> None:
        seen = self._sample()
        if seen is None:
            return
        self.samples += 1
        if self._best is None or seen.value > self._best.value:
            self._best = seen

    def _run(self) -> None:
        while not self._done.wait(self._interval_s):
            self._take()

    def __enter__(self) -> Sampler:
        self._take()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self._take()

    @property
    def peak(self) -> Quantity | None:
        """The largest of all samples; ``None`` where none could be taken."""
        if self._best is None:
            return None
        source = f"largest of {self.samples} samples of: {self._best.source}"
        return exact(self._best.value, "bytes", source, "measured")
