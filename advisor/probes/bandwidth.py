"""Read bandwidth of host memory, measured in one or two seconds, and kept until the next boot.

Decoding a token reads every active weight once, so what counts is how fast memory can be read. The kernel is the C
library's ``memchr`` looking for a byte that is not there: it reads every byte, writes none, uses the widest vector
instructions of the machine, and ``ctypes`` lets other threads run meanwhile. Writing kernels (a copy) move more bytes
than they are credited with, because a cache line is read before it is written.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from advisor.errors import AdvisorError
from advisor.events import Cancel
from advisor.facts.base import Shape, loads
from advisor.facts.quantity import Quantity
from advisor.probes.boot import boot_id
from advisor.probes.cpu import granted_now
from advisor.probes.memory import read_memory
from advisor.probes.sanity import Notes, within
from advisor.probes.source import LiveSource, Source

WORKING_SET_BYTES: Final = 512 << 20
# Below this a last-level cache could hold a good part of it.
SMALLEST_BYTES: Final = 64 << 20
REPEATS: Final = 5
STABLE_FROM: Final = 0.75
CACHE_FILE: Final = "bandwidth.json"
_PRESENT: Final = 0x5A
_ABSENT: Final = 0xA5
_MAX_CACHE_BYTES: Final = 1 << 16


class ThreadFigure(Shape, frozen=True, kw_only=True):
    """Best and median bytes a second with so many threads."""

    threads: int
    best: float
    median: float


class Bandwidth(Shape, frozen=True, kw_only=True):
    """``quantity``: the best repeat of the best thread count; its range is that of the repeats.

    ``stable``: the median repeat reaches three quarters of the best one. ``key``: boot and granted cores, hashed.
    """

    quantity: Quantity
    stable: bool
    threads: int
    figures: tuple[ThreadFigure, ...]
    working_set_bytes: int
    key: str


def measure(
    *,
    cache_dir: Path | None = None,
    source: Source | None = None,
    working_set_bytes: int = WORKING_SET_BYTES,
    repeats: int = REPEATS,
    cancel: Cancel | None = None,
) -> Bandwidth:
    """Measure the read bandwidth of host memory with 1, a quarter, a half and all of the granted cores.

    Args:
        cache_dir: where the result is kept for this boot; ``None`` keeps it nowhere.
        source: where the memory and the cores that are granted are read.
        working_set_bytes: at most this much is read, and at most an eighth of the memory that is granted.
        repeats: how often each thread count is timed.

    Raises:
        AdvisorError: ``not-enough-memory`` when the working set would be too small to say anything; ``interrupted``.
    """
    source = source or LiveSource()
    memory = read_memory(source, source.platform(), Notes())
    granted = min(n for n in (memory.total_bytes, memory.limit_bytes, memory.available_bytes) if n is not None)
    size = min(working_set_bytes, granted // 8)
    if size < min(SMALLEST_BYTES, working_set_bytes):
        raise AdvisorError(
            "not-enough-memory",
            f"Measuring the bandwidth takes {8 * SMALLEST_BYTES} free bytes of memory; there are {granted}.",
            hint="advisor probe",
        )
    cores = granted_now(source)
    most = max(1, int(cores))
    figures: list[tuple[int, list[float]]] = []
    for threads in sorted({1, max(1, most // 4), max(1, most // 2), most}):
        if cancel is not None:
            cancel.check()
        figures.append((threads, _rates(size, threads, repeats)))
    threads, rates = max(figures, key=lambda f: max(f[1]))
    best, median = max(rates), _median(rates)
    if not within(best, "bandwidth"):
        raise AdvisorError("probe-failed", f"The measured bandwidth, {best:.0f} bytes/s, cannot be right.")
    result = Bandwidth(
        quantity=Quantity(
            value=int(best),
            low=int(min(rates)),
            high=int(best),
            unit="bytes/s",
            method="measured",
            source=f"memchr over {size} bytes, {threads} threads, best of {repeats}",
        ),
        stable=median / best >= STABLE_FROM,
        threads=threads,
        figures=tuple(ThreadFigure(threads=n, best=max(r), median=_median(r)) for n, r in figures),
        working_set_bytes=size,
        key=_key(source, cores),
    )
    if cache_dir is not None:
        _keep(cache_dir, result)
    return result


def cached(cache_dir: Path, source: Source | None = None) -> Bandwidth | None:
    """What was measured since this boot with as many cores as are granted now; ``None`` if nothing was."""
    try:
        with (Path(cache_dir) / CACHE_FILE).open("rb") as f:
            found = loads(Bandwidth, f.read(_MAX_CACHE_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    source = source or LiveSource()
    key = _key(source, granted_now(source))
    sane = within(found.quantity.value, "bandwidth") and found.quantity.unit == "bytes/s"
    return found if key == found.key and key and sane else None


def _key(source: Source, cores: float) -> str:
    """A hash of boot and cores; empty where the boot has no id, which matches nothing."""
    import hashlib

    boot = boot_id(source)
    return hashlib.sha256(f"{boot}\0{cores:g}".encode()).hexdigest()[:32] if boot else ""


def _keep(cache_dir: Path, result: Bandwidth) -> None:
    """Write the cache in one step; a cache that cannot be written is no failure of the measurement."""
    import os
    import tempfile

    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=cache_dir, prefix=CACHE_FILE)
        with os.fdopen(descriptor, "wb") as f:
            f.write(result.dumps())
        Path(name).replace(cache_dir / CACHE_FILE)
    except OSError:
        return


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _rates(size: int, threads: int, repeats: int) -> list[float]:
    """Bytes a second of each repeat; every thread reads its own slice, whose pages it has touched first itself."""
    memchr = _memchr()
    part = size // threads
    with mmap.mmap(-1, part * threads) as memory:
        view = (ctypes.c_char * (part * threads)).from_buffer(memory)
        start = ctypes.addressof(view)
        barrier = threading.Barrier(threads + 1)
        failed: list[BaseException] = []

        def read(slice_start: int) -> None:
            try:
                # Untouched pages are all one page of zeroes, which the cache holds: each must be written once.
                ctypes.memset(slice_start, _PRESENT, part)
                for _ in range(repeats):
                    barrier.wait()
                    memchr(slice_start, _ABSENT, part)
                    barrier.wait()
            except threading.BrokenBarrierError:
                return
            except BaseException as e:  # noqa: BLE001 - told to the caller, who waits at the barrier
                failed.append(e)
                barrier.abort()

        workers = [threading.Thread(target=read, args=(start + n * part,), daemon=True) for n in range(threads)]
        for worker in workers:
            worker.start()
        rates: list[float] = []
        try:
            for _ in range(repeats):
                barrier.wait()
                begun = time.perf_counter()
                barrier.wait()
                rates.append(part * threads / max(time.perf_counter() - begun, 1e-9))
        except threading.BrokenBarrierError:
            # A thread failed; what it failed with is raised below.
            rates.clear()
        except BaseException:
            barrier.abort()
            raise
        finally:
            for worker in workers:
                worker.join()
            # The mapping can be closed only when nothing points into it.
            del view
    if failed:
        raise failed[0]
    return rates


def _memchr() -> Callable[[int, int, int], int | None]:
    """The C library's ``memchr`` by address; it runs without the interpreter's lock."""
    function = ctypes.CDLL(None).memchr
    function.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
    function.restype = ctypes.c_void_p
    found: Callable[[int, int, int], int | None] = function
    return found
