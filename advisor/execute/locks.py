"""One builder at a time, where the file system has locks; elsewhere work may be done twice, never wrongly."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from advisor.errors import AdvisorError
from advisor.events import Cancel
from advisor.execute.disk import disk_errors, make_folders

# What flock says on file systems that have no locks.
_NO_LOCKS: Final = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_POLL_S: Final = 0.1


def try_lock(fd: int) -> bool:
    """Take the lock of an open file without waiting; true as well where there are no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as e:
        if e.errno not in _NO_LOCKS:
            raise
    return True


@contextmanager
def locked(
    path: Path, *, cancel: Cancel | None = None, wait_s: float | None = None, on_wait: Callable[[], None] | None = None
) -> Iterator[None]:
    """Hold the lock ``path`` for the length of a ``with`` block; it ends with the process, however that ends.

    ``on_wait`` is called once if somebody else holds it.

    Raises:
        AdvisorError: ``busy`` after ``wait_s`` seconds, ``interrupted``, ``not-writable`` or ``disk-full``.
    """
    cancel = cancel or Cancel()
    make_folders(path.parent)
    with disk_errors(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        waited = 0.0
        while not try_lock(fd):
            if waited == 0.0 and on_wait is not None:
                on_wait()
            if wait_s is not None and waited >= wait_s:
                raise AdvisorError("busy", f"Another advisor has held {path.name} for {wait_s:.0f} s.")
            cancel.wait(_POLL_S)
            cancel.check()
            waited += _POLL_S
        yield
    finally:
        os.close(fd)
