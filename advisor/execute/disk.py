"""Writing to disk so that a crash leaves either the old or the new, and failures with a name."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from advisor.errors import AdvisorError

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED: Final = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP}
# What fsync says where there is nothing to flush (folders of some file systems, special files).
_NO_SYNC: Final = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EROFS}


def free_bytes(path: Path) -> int | None:
    """Bytes that may still be written where ``path`` is or would be; ``None`` where the system does not say."""
    for folder in (path, *path.parents):
        try:
            return shutil.disk_usage(folder).free
        except OSError:
            continue
    return None


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn failures of the file system inside the block into errors that name ``path``.

    Raises:
        AdvisorError: ``disk-full`` (no space, quota, no inodes) or ``not-writable``; other failures pass.
    """
    try:
        yield
    except OSError as e:
        if e.errno in _FULL:
            free = free_bytes(path)
            left = "" if free is None else f" ({free:,} bytes free)"
            raise AdvisorError(
                "disk-full",
                f"The disk is full while writing {path}: {e.strerror}{left}.",
                hint="advisor paths",
                data={"path": str(path), "free_bytes": free},
            ) from e
        if e.errno in _DENIED:
            raise AdvisorError(
                "not-writable",
                f"{path} cannot be written: {e.strerror}.",
                hint="advisor paths",
                data={"path": str(path)},
            ) from e
        raise


def make_folders(path: Path, *, mode: int = 0o777) -> None:
    """Make a folder and those above it; one that is there is fine.

    Raises:
        AdvisorError: ``disk-full``, or ``not-writable``: also where a file is in the way, or the file system takes no
            folders at all.
    """
    with disk_errors(path):
        try:
            path.mkdir(mode=mode, parents=True, exist_ok=True)
        except (FileExistsError, FileNotFoundError) as e:
            raise AdvisorError(
                "not-writable",
                f"The folder {path} cannot be made: {e.strerror}.",
                hint="advisor paths",
                data={"path": str(path)},
            ) from e


def sync(path: Path) -> None:
    """Flush a file or folder to the disk; file systems that cannot sync folders are left alone.

    Raises:
        OSError: the data did not reach the disk. Some file systems tell only here that it is full.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _flush(fd)
    finally:
        os.close(fd)


def _flush(fd: int) -> None:
    try:
        os.fsync(fd)
    except OSError as e:
        if e.errno not in _NO_SYNC:
            raise


def settle(path: Path) -> None:
    """Flush a file, and let what is kept of it in memory go: read back it lies in larger pages than as it was written.

    Tools write in small pieces, and a mapped file keeps the pages in which it was written: decoding from it costs more
    misses of the address cache until the next boot. Nothing is lost where the system cannot do it.

    Raises:
        OSError: as ``sync``.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _flush(fd)
        if hasattr(os, "posix_fadvise"):
            with suppress(OSError):
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def write_atomic(path: Path, raw: bytes) -> None:
    """Write a whole file or nothing.

    Raises:
        AdvisorError: ``disk-full`` or ``not-writable``.
    """
    tmp = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with disk_errors(path):
        try:
            with tmp.open("xb") as f:
                f.write(raw)
                f.flush()
                _flush(f.fileno())
            os.replace(tmp, path)  # noqa: PTH105 - one name for the call that tests make fail
            sync(path.parent)
        except BaseException:
            with suppress(OSError):
                tmp.unlink()
            raise


def tree_bytes(path: Path) -> int:
    """Disk blocks of everything under ``path``, in bytes; hard links count once, what vanishes meanwhile does not."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(OSError):
                st = os.lstat(os.path.join(folder, name))  # noqa: PTH118 - ten thousands of files
                if (st.st_dev, st.st_ino) not in seen:
                    seen.add((st.st_dev, st.st_ino))
                    total += st.st_blocks * 512
    return total


def remove_tree(path: Path) -> None:
    """Remove a folder, also one whose parts were made read-only; what cannot be removed stays."""
    for folder, _, _ in os.walk(path):
        with suppress(OSError):
            os.chmod(folder, 0o700)  # noqa: PTH101
    shutil.rmtree(path, ignore_errors=True)
