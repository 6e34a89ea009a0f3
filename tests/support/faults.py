"""Makes the n-th call of a function fail, or kills the process there: how a crash at every point is tried."""

from __future__ import annotations

import errno
import importlib
import io
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def _owner(name: str) -> tuple[Any, str]:
    module, _, attribute = name.rpartition(".")
    return importlib.import_module(module), attribute


@contextmanager
def fail_nth(name: str, n: int, error: int = errno.ENOSPC) -> Iterator[Callable[[], int]]:
    """Let the ``n``-th call (from 1) of ``module.function`` raise ``OSError(error)``; yields the count of calls."""
    owner, attribute = _owner(name)
    real = getattr(owner, attribute)
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == n:
            raise OSError(error, os.strerror(error))
        return real(*args, **kwargs)

    setattr(owner, attribute, wrapped)
    try:
        yield lambda: calls
    finally:
        setattr(owner, attribute, real)


@contextmanager
def unwritable(root: Path, error: int = errno.EROFS) -> Iterator[list[str]]:
    """Let every write below ``root`` fail with ``error``, as on a read-only, full or over-quota file system; also for
    root, whom modes do not stop. Yields the calls that failed."""
    failed: list[str] = []

    def below(path: object) -> bool:
        return isinstance(path, str | os.PathLike) and str(path).startswith(str(root))

    def guarded(name: str, real: Callable[..., Any], writes: Callable[..., bool]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if below(args[0]) and writes(*args, **kwargs):
                failed.append(name)
                raise OSError(error, os.strerror(error), str(args[0]))
            return real(*args, **kwargs)

        return call

    def always(*_: Any, **__: Any) -> bool:
        return True

    def flags(_path: object, flags: int, *_: Any, **__: Any) -> bool:
        return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))

    def mode(_path: object, mode: str = "r", *_: Any, **__: Any) -> bool:
        return not set(mode).isdisjoint("wax+")

    points: list[tuple[Any, str, Callable[..., bool]]] = [
        (os, "open", flags),
        (io, "open", mode),
        *((os, name, always) for name in ("mkdir", "replace", "rename", "unlink", "rmdir", "symlink", "utime")),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in points]
    for owner, name, writes in points:
        setattr(owner, name, guarded(name, getattr(owner, name), writes))
    try:
        yield failed
    finally:
        for owner, name, real in before:
            setattr(owner, name, real)


def kill_at(name: str, n: int) -> None:
    """Kill this process with SIGKILL just before the ``n``-th call of ``module.function``. For child processes."""
    owner, attribute = _owner(name)
    real = getattr(owner, attribute)
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(owner, attribute, wrapped)
