"""Makes the n-th call of a function fail, or kills the process there: how a crash at every point is tried."""

from __future__ import annotations

import errno
import importlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
