"""Reading state files as if they were hostile, writing them for this user alone, and the lock of a name."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from advisor.errors import AdvisorError
from advisor.events import Cancel
from advisor.facts.base import Shape, loads

T = TypeVar("T", bound=Shape)
MAX_BYTES: Final = 4 * 1024 * 1024


class Untrusted(Exception):  # noqa: N818 - a verdict on a file, named as such
    """A state file or folder that is not acted on; the message says why."""


def _ours(seen: os.stat_result, what: str) -> None:
    if seen.st_uid != os.geteuid():
        raise Untrusted(f"{what} belongs to user id {seen.st_uid}, not to this user")
    if seen.st_mode & 0o022:
        raise Untrusted(f"{what} can be written by others (mode {stat.S_IMODE(seen.st_mode):04o})")


def check_folder(folder: Path) -> None:
    """Accept a state folder only where it is a real folder that nobody else can write.

    Raises:
        Untrusted: it is a link, no folder, another user's, or writable by others.
        FileNotFoundError: there is none.
    """
    seen = folder.lstat()
    if not stat.S_ISDIR(seen.st_mode):
        raise Untrusted(f"{folder.name} is a link or a file, not a folder")
    _ours(seen, folder.name)


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Read a small file of this user's, without following a link.

    Raises:
        Untrusted: it is a link, not a plain file, another user's, writable by others, or too large.
        FileNotFoundError: there is none.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as e:
        why = "is a symbolic link" if e.errno in (errno.ELOOP, errno.EMLINK) else f"cannot be opened: {e.strerror}"
        raise Untrusted(f"{path.name} {why}") from e
    try:
        seen = os.fstat(fd)
        if not stat.S_ISREG(seen.st_mode):
            raise Untrusted(f"{path.name} is not a plain file")
        _ours(seen, path.name)
        with os.fdopen(os.dup(fd), "rb") as f:
            raw = f.read(limit + 1)
    except OSError as e:
        raise Untrusted(f"{path.name} cannot be read: {e.strerror}") from e
    finally:
        os.close(fd)
    if len(raw) > limit:
        raise Untrusted(f"{path.name} is larger than {limit} bytes")
    return raw


def read(path: Path, kind: type[T]) -> T:
    """Read a state file as ``kind``.

    Raises:
        Untrusted: as ``read_bytes``, or its content is empty, cut off, or of another shape.
        FileNotFoundError: there is none.
    """
    raw = read_bytes(path)
    if not raw.strip():
        raise Untrusted(f"{path.name} is empty")
    try:
        return loads(kind, raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise Untrusted(f"{path.name} is damaged: {e}") from e


def make_folder(folder: Path) -> None:
    """Make a folder for this user alone, and its parents.

    Raises:
        AdvisorError: ``not-writable`` or ``disk-full``.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            folder.chmod(0o700)
    except OSError as e:
        raise unwritable(folder, e) from e


def unwritable(path: Path, e: OSError) -> AdvisorError:
    """The error for a write that failed."""
    if e.errno in (errno.ENOSPC, errno.EDQUOT):
        return AdvisorError("disk-full", f"{path} cannot be written: {e.strerror}.", hint="advisor paths")
    return AdvisorError("not-writable", f"{path} cannot be written: {e.strerror}.", hint="advisor paths")


def write(path: Path, raw: bytes) -> None:
    """Write a file of mode 0600: all of it, or nothing.

    Raises:
        AdvisorError: ``not-writable`` or ``disk-full``.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as f:
            os.fchmod(f.fileno(), 0o600)
            f.write(raw)
            f.flush()
            os.fsync(f.fileno())
        temporary.replace(path)
    except OSError as e:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise unwritable(path, e) from e


class Lock:
    """The lock of one name, between processes and between threads; released when its holder dies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def try_acquire(self) -> bool:
        """Take the lock if it is free.

        Raises:
            AdvisorError: ``not-writable`` or ``disk-full``.
        """
        import fcntl

        make_folder(self.path.parent)
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as e:
            raise unwritable(self.path, e) from e
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            os.close(fd)
            if e.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return False
            raise unwritable(self.path, e) from e
        self._fd = fd
        return True

    def release(self) -> None:
        """Give the lock back."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    @property
    def is_free(self) -> bool:
        """Whether nobody holds the lock at this moment."""
        if not self.path.exists():
            return True
        if not self.try_acquire():
            return False
        self.release()
        return True

    @contextlib.contextmanager
    def held(self, timeout_s: float, cancel: Cancel, busy: str) -> Iterator[None]:
        """Hold the lock, waiting up to ``timeout_s``.

        Raises:
            AdvisorError: ``busy`` with the message ``busy``, or ``interrupted``.
        """
        until = time.monotonic() + timeout_s
        while not self.try_acquire():
            cancel.check()
            if time.monotonic() >= until:
                raise AdvisorError("busy", busy, hint="advisor status")
            cancel.wait(0.05)
        try:
            yield
        finally:
            self.release()
