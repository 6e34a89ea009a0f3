"""Reading the server's log files: the last lines, and new lines as they come, made safe to show."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Final

from advisor.deploy.spec import SERVER_LOG, SHIM_LOG
from advisor.events import Cancel
from advisor.facts.text import clean

_LINE_LIMIT: Final = 4000
_BLOCK: Final = 1024 * 1024


def _open(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None


def _lines(raw: bytes) -> list[str]:
    return [clean(line, _LINE_LIMIT, one_line=True) for line in raw.decode(errors="replace").splitlines()]


def _tail(path: Path, n: int, upto: int | None = None) -> list[str]:
    fd = _open(path)
    if fd is None:
        return []
    with os.fdopen(fd, "rb") as f:
        end = f.seek(0, os.SEEK_END)
        end = end if upto is None else min(end, upto)
        found: deque[bytes] = deque()
        start, newlines = end, 0
        while start > 0 and newlines <= n:
            size = min(_BLOCK, start)
            start -= size
            f.seek(start)
            block = f.read(size)
            newlines += block.count(b"\n")
            found.appendleft(block)
    raw = b"".join(found)
    lines = _lines(raw)
    return lines[-n:]


def tail(folder: Path, n: int, *, this_run: bool = False, upto: int | None = None) -> tuple[str, ...]:
    """The last ``n`` lines, oldest first, out of the rotated files too (not where ``this_run``); of the newest file
    only the first ``upto`` bytes."""
    if n <= 0:
        return ()
    lines = _tail(folder / SERVER_LOG, n, upto)
    i = 1
    while not this_run and len(lines) < n and (folder / f"{SERVER_LOG}.{i}").exists():
        lines = _tail(folder / f"{SERVER_LOG}.{i}", n - len(lines)) + lines
        i += 1
    return tuple(lines)


def shim_errors(folder: Path, n: int) -> tuple[str, ...]:
    """The last ``n`` lines that the supervisor itself left: none unless it failed."""
    return tuple(_tail(folder / SHIM_LOG, n))


def follow(
    folder: Path, cancel: Cancel, going_on: Callable[[], bool], *, poll_s: float, lines: int = 0
) -> Iterator[str]:
    """The last ``lines`` lines, then new ones from the moment of this call, across rotations, until cancelled or
    nothing goes on and all is read."""
    path = folder / SERVER_LOG
    try:
        seen = path.lstat()
        begin = (seen.st_ino, seen.st_size)
    except OSError:
        begin = (0, 0)
    before, cut = _before(folder, lines, begin) if lines > 0 else ((), begin)
    return chain(before, _follow(path, cut, cancel, going_on, poll_s))


def _before(folder: Path, n: int, begin: tuple[int, int]) -> tuple[tuple[str, ...], tuple[int, int]]:
    """The last ``n`` whole lines before ``begin``, and where what follows them begins: a line that is being written is
    left to what follows."""
    fd = _open(folder / SERVER_LOG)
    if fd is None:
        return (), begin
    with os.fdopen(fd, "rb") as f:
        if os.fstat(fd).st_ino != begin[0]:
            return tail(folder, n), begin
        start = max(0, begin[1] - _BLOCK)
        f.seek(start)
        cut = f.read(begin[1] - start).rfind(b"\n") + 1
    end = start + cut if cut else begin[1]
    return tail(folder, n, upto=end), (begin[0], end)


def _follow(
    path: Path, begin: tuple[int, int], cancel: Cancel, going_on: Callable[[], bool], poll_s: float
) -> Iterator[str]:
    fd = _open(path)
    if fd is not None and os.fstat(fd).st_ino == begin[0]:
        os.lseek(fd, begin[1], os.SEEK_SET)
    rest = b""
    try:
        while not cancel.is_set:
            alive = going_on()  # asked before reading, so that the last lines are not missed
            while fd is not None and (block := os.read(fd, _BLOCK)):
                whole, newline, rest_of = (rest + block).rpartition(b"\n")
                rest = rest_of[-_BLOCK:]
                if newline:
                    yield from _lines(whole)
            turned = _turned(path, fd)
            if turned:
                if fd is not None:
                    while block := os.read(fd, _BLOCK):
                        rest += block
                    os.close(fd)
                if rest:
                    yield from _lines(rest)
                    rest = b""
                fd = _open(path)
                continue
            if not alive:
                break
            cancel.wait(poll_s)
        if rest:
            yield from _lines(rest)
    finally:
        if fd is not None:
            os.close(fd)


def _turned(path: Path, fd: int | None) -> bool:
    """Whether there is a newer file than the one that is open."""
    try:
        seen = path.lstat()
    except OSError:
        return False
    if fd is None:
        return True
    here = os.fstat(fd)
    return (seen.st_dev, seen.st_ino) != (here.st_dev, here.st_ino)
