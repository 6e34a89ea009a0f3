"""The disk of advisor's store: what file system it is, how much is free, and how fast it is read.

Reading is measured on a file that advisor writes beside the store and takes away again, past the page cache: with
``O_DIRECT`` where the file system has it, else after the cache was told to drop the file. Sources: open(2),
posix_fadvise(2), fcntl(2) of macOS (``F_NOCACHE``), proc_pid_mountinfo(5).
"""

from __future__ import annotations

import mmap
import os
import re
import time
from pathlib import Path
from typing import Final, NamedTuple

from advisor.errors import AdvisorError
from advisor.events import Cancel
from advisor.facts.base import Shape, loads
from advisor.facts.machine import Storage, StorageKind
from advisor.facts.quantity import Quantity
from advisor.facts.text import clean
from advisor.probes.boot import boot_id
from advisor.probes.sanity import within
from advisor.probes.source import LiveSource, Source

FILE_BYTES: Final = 256 << 20
SMALLEST_BYTES: Final = 16 << 20
REPEATS: Final = 3
STABLE_FROM: Final = 0.75
CACHE_FILE: Final = "disk.json"
_BLOCK: Final = 4 << 20
_MAX_CACHE_BYTES: Final = 1 << 16
_NETWORK: Final = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "glusterfs", "lustre", "beegfs", "gpfs", "9p"),
        *("virtiofs", "vboxsf", "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.glusterfs", "drvfs"),
    )
)
_MEMORY: Final = frozenset(("tmpfs", "ramfs"))
_OVERLAY: Final = frozenset(("overlay", "aufs", "fuse-overlayfs", "fuse.fuse-overlayfs"))
_LOCAL: Final = frozenset(
    (
        *("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "bcachefs", "ntfs", "ntfs3", "fuseblk", "vfat"),
        *("exfat", "apfs", "hfs", "jfs", "reiserfs", "erofs"),
    )
)


class Mounted(NamedTuple):
    """The mount that a path lies on: its point, kind of file system, and the number of its block device."""

    point: str
    filesystem: str
    device: str


class Speed(Shape, frozen=True, kw_only=True):
    """``quantity``: the median of the repeats, its range theirs. ``stable``: the slowest is at least three quarters of
    the fastest. ``direct``: read with ``O_DIRECT``. ``key``: boot and folder, hashed."""

    quantity: Quantity
    stable: bool
    direct: bool
    file_bytes: int
    key: str


def mount_of(mountinfo: str, path: str) -> Mounted | None:
    """The mount with the longest point above ``path``, the last one where several lie over each other."""
    best: Mounted | None = None
    for line in mountinfo.split("\n"):
        before, dash, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if not dash or len(fields) < 6 or not fields[4].startswith("/") or not kind[0]:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8) & 0xFF), fields[4])
        inside = point == "/" or path == point or path.startswith(point.rstrip("/") + "/")
        if inside and (best is None or len(point) >= len(best.point)):
            best = Mounted(point, clean(kind[0], 40), fields[2])
    return best


def kind_of(filesystem: str | None) -> StorageKind:
    """What a file system is on."""
    if filesystem in _MEMORY:
        return "memory"
    if filesystem in _NETWORK:
        return "network"
    if filesystem in _OVERLAY:
        return "overlay"
    return "local" if filesystem in _LOCAL else "unknown"


def read_storage(folder: Path, source: Source | None = None) -> Storage:
    """The file system of ``folder``, or of the nearest folder above it that is there; what is not known is ``None``."""
    source = source or LiveSource()
    there = _nearest(folder)
    mounted = mount_of(source.text("/proc/self/mountinfo") or "", str(there))
    total: int | None = None
    free: int | None = None
    try:
        found = os.statvfs(there)
        total, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    except (OSError, ValueError):
        total = free = None
    return Storage(
        kind=kind_of(mounted.filesystem if mounted else None),
        filesystem=mounted.filesystem if mounted else None,
        total_bytes=total if total else None,
        free_bytes=free if total else None,
        rotational=rotational(source, mounted.device) if mounted else None,
    )


def rotational(source: Source, device: str) -> bool | None:
    """Whether the kernel takes a block device for a turning disk; virtual disks often say so without being one."""
    if not re.fullmatch(r"\d{1,6}:\d{1,8}", device, re.ASCII) or device.startswith("0:"):
        return None
    # A partition has no queue of its own: its disk is the folder above.
    for queue in (f"/sys/dev/block/{device}/queue", f"/sys/dev/block/{device}/../queue"):
        word = (source.text(f"{queue}/rotational") or "").strip()
        if word in ("0", "1"):
            return word == "1"
    return None


def measure(
    folder: Path,
    *,
    cache_dir: Path | None = None,
    source: Source | None = None,
    file_bytes: int = FILE_BYTES,
    repeats: int = REPEATS,
    cancel: Cancel | None = None,
) -> Speed:
    """Measure how fast a file under ``folder`` is read in one piece; takes away what it wrote, also when it fails.

    Args:
        cache_dir: where the result is kept for this boot and folder; ``None`` keeps it nowhere.
        file_bytes: size of the file; at most an eighth of what is free.

    Raises:
        AdvisorError: ``disk-full`` where too little is free; ``not-writable``; ``interrupted``; ``probe-failed``.
    """
    source = source or LiveSource()
    folder = Path(folder)
    free = read_storage(folder, source).free_bytes
    size = (file_bytes if free is None else min(file_bytes, free // 8)) // _BLOCK * _BLOCK
    if size < min(SMALLEST_BYTES, file_bytes):
        raise AdvisorError(
            "disk-full",
            f"Measuring the disk takes {8 * SMALLEST_BYTES} free bytes under {clean(str(folder))}; there are {free}.",
            hint="advisor cache gc",
        )
    path = folder / f".advisor-measure-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            _write(path, size, cancel)
            rates = []
            direct = False
            for _ in range(repeats):
                rate, direct = _read(path, size, cancel)
                rates.append(rate)
        finally:
            path.unlink(missing_ok=True)
    except OSError as e:
        code = "disk-full" if e.errno in (28, 122) else "not-writable"
        raise AdvisorError(
            code, f"The disk cannot be measured under {clean(str(folder))}: {e.strerror}.", hint="advisor paths"
        ) from e
    rates.sort()
    value = rates[len(rates) // 2]
    if not within(value, "disk speed"):
        raise AdvisorError("probe-failed", f"The measured disk speed, {value:.0f} bytes/s, cannot be right.")
    how = "O_DIRECT" if direct else "page cache dropped"
    result = Speed(
        quantity=Quantity(
            value=int(value),
            low=int(rates[0]),
            high=int(rates[-1]),
            unit="bytes/s",
            method="measured",
            source=f"sequential read of {size} bytes, {how}, median of {repeats}",
        ),
        stable=rates[0] / rates[-1] >= STABLE_FROM,
        direct=direct,
        file_bytes=size,
        key=_key(source, folder),
    )
    if cache_dir is not None:
        _keep(cache_dir, result)
    return result


def cached(cache_dir: Path, folder: Path, source: Source | None = None) -> Speed | None:
    """What was measured under ``folder`` since this boot; ``None`` if nothing was."""
    try:
        with (Path(cache_dir) / CACHE_FILE).open("rb") as f:
            found = loads(Speed, f.read(_MAX_CACHE_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    key = _key(source or LiveSource(), folder)
    q = found.quantity
    sane = q.unit == "bytes/s" and all(within(n, "disk speed") for n in (q.low, q.value, q.high)) and q.low <= q.value
    return found if key and key == found.key and sane and q.value <= q.high else None


def _nearest(folder: Path) -> Path:
    try:
        path = Path(folder).resolve()
        return next((p for p in (path, *path.parents) if p.is_dir()), Path("/"))
    except (OSError, RuntimeError):
        return Path("/")


def _write(path: Path, size: int, cancel: Cancel | None) -> None:
    """Random bytes, so that no file system stores them in less; each block differs, so that none is stored once."""
    block = bytearray(os.urandom(_BLOCK))
    with path.open("xb", buffering=0) as f:
        for n in range(size // _BLOCK):
            if cancel is not None:
                cancel.check()
            for page in range(0, _BLOCK, 4096):
                block[page : page + 8] = n.to_bytes(8, "little")
            left = memoryview(block)
            while left:
                left = left[f.write(left) :]
        os.fsync(f.fileno())


def _read(path: Path, size: int, cancel: Cancel | None) -> tuple[float, bool]:
    """Bytes a second of one pass over the file, and whether it went past the cache by ``O_DIRECT``."""
    descriptor, direct = _opened(path)
    try:
        # An anonymous mapping lies on a page boundary, as O_DIRECT wants its buffers.
        with mmap.mmap(-1, _BLOCK) as buffer:
            done = 0
            begun = time.perf_counter()
            while done < size:
                if cancel is not None:
                    cancel.check()
                got = os.readv(descriptor, [buffer])
                if got == 0:
                    break
                done += got
            return done / max(time.perf_counter() - begun, 1e-9), direct
    finally:
        os.close(descriptor)


def _opened(path: Path) -> tuple[int, bool]:
    """The file, past the page cache as far as the system can."""
    flag = getattr(os, "O_DIRECT", 0)
    if flag:
        descriptor = -1
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flag)
            with mmap.mmap(-1, _BLOCK) as probe:
                os.preadv(descriptor, [probe], 0)
            return descriptor, True
        except OSError:  # the file system has no such thing
            if descriptor >= 0:
                os.close(descriptor)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    else:
        import fcntl

        fcntl.fcntl(descriptor, getattr(fcntl, "F_NOCACHE", 48), 1)
    return descriptor, False


def _key(source: Source, folder: Path) -> str:
    """A hash of boot and folder; empty where the boot has no id, which matches nothing."""
    import hashlib

    boot = boot_id(source)
    text = f"{boot}\0{Path(folder).absolute()}"
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32] if boot else ""


def _keep(cache_dir: Path, result: Speed) -> None:
    """Write the cache in one step; a cache that cannot be written is no failure of the measurement."""
    import tempfile

    try:
        Path(cache_dir).mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=cache_dir, prefix=CACHE_FILE)
        with os.fdopen(descriptor, "wb") as f:
            f.write(result.dumps())
        Path(name).replace(Path(cache_dir) / CACHE_FILE)
    except OSError:
        return
