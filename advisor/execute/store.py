"""The content-addressed store: an artifact is a folder whose ``manifest.json`` was written last.

Layout under the root: ``artifacts/KEY/`` finished ones, ``tmp/KEY.OWNER.RANDOM/`` work in progress, ``locks/``, and
``quarantine/`` for artifacts whose files no longer match their manifest. A finished folder appears by one rename, so
a process may be killed anywhere: nothing half-made is ever found.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from advisor._version import __version__
from advisor.errors import AdvisorError
from advisor.events import Cancel, Event, Reporter, safely
from advisor.execute import owner
from advisor.execute.disk import disk_errors, make_folders, remove_tree, settle, sync, tree_bytes, write_atomic
from advisor.execute.locks import locked, try_lock
from advisor.facts.base import Shape, dumps_any, loads

MANIFEST: Final = "manifest.json"
_KIND: Final = re.compile(r"[a-z][a-z0-9-]{0,39}")
_KEY: Final = re.compile(r"[a-z][a-z0-9-]{0,39}-[0-9a-f]{32}")
# Work of a process that cannot be seen from here (another host, a container, before a reboot) is left alone so long.
_UNKNOWN_OWNER_S: Final = 24 * 3600


class StoredFile(Shape, frozen=True, kw_only=True):
    """One file of an artifact; ``path`` is relative to its folder."""

    path: str
    bytes: int
    sha256: str
    mtime_ns: int


class Manifest(Shape, frozen=True, kw_only=True):
    """What an artifact consists of; ``data`` is what its maker recorded. ``seconds`` is in ``data`` where known."""

    schema: str
    key: str
    advisor: str
    created_at: str
    files: tuple[StoredFile, ...]
    data: dict[str, Any]


class Entry(Shape, frozen=True, kw_only=True):
    """A finished artifact and what it takes on the disk."""

    key: str
    path: str
    bytes: int
    created_at: str


class Collected(Shape, frozen=True, kw_only=True):
    """What a collection removed."""

    removed: tuple[str, ...]
    freed_bytes: int


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


class Store:
    """A folder of artifacts. Safe for several processes; needs no daemon and no database."""

    def __init__(self, root: Path, *, reporter: Reporter | None = None) -> None:
        self.root = root
        self._report = safely(reporter)

    def key(
        self,
        kind: str,
        inputs: Mapping[str, object],
        *,
        params: Mapping[str, object] | None = None,
        tool: str | None = None,
        platform: str | None = None,
    ) -> str:
        """The key of an artifact: ``KIND-`` and 32 hex digits of a SHA-256 over everything that decides its content.

        Args:
            kind: what it is, in lower case with hyphens: ``convert``, ``imatrix``, ``quantize`` ...
            inputs: names and content hashes (or keys) of what it is made of.
            params: parameters that change the content.
            tool: name and version of what makes it.
            platform: only where the content depends on it.

        Raises:
            ValueError: ``kind`` has other characters.
        """
        if not _KIND.fullmatch(kind):
            raise ValueError(f"not an artifact kind: {kind!r}")
        seed = {"kind": kind, "inputs": inputs, "params": params or {}, "tool": tool, "platform": platform}
        return f"{kind}-{hashlib.sha256(dumps_any(seed)).hexdigest()[:32]}"

    def path(self, key: str) -> Path:
        """Where the artifact of ``key`` lies or would lie.

        Raises:
            ValueError: not a key.
        """
        if not _KEY.fullmatch(key):
            raise ValueError(f"not an artifact key: {key!r}")
        return self.root / "artifacts" / key

    def partial(self, key: str) -> Path:
        """Where what a killed run had of an artifact is kept for the next one; ``leftovers`` does not count it."""
        return self.root / "partial" / key

    def find(self, key: str, *, verify: bool = False) -> Path | None:
        """The finished artifact of ``key``, or ``None``.

        Sizes and modification times of all files are checked; with ``verify``, or where only the time differs, their
        hashes. An artifact that does not match goes to the quarantine, with a warning, and counts as absent.
        """
        folder = self.path(key)
        try:
            manifest = self.record(folder)
        except FileNotFoundError:
            if folder.is_dir():
                self._quarantine(folder, "it has no manifest")
            return None
        except (msgspec.MsgspecError, UnicodeDecodeError) as e:
            self._quarantine(folder, f"its manifest is damaged: {e}")
            return None
        except OSError:
            return None
        wrong, touched = _compare(folder, manifest, verify=verify)
        if wrong:
            self._quarantine(folder, wrong)
            return None
        if touched and not verify:
            # The hashes are right, so only the times moved (a copy, a restore): remember them, to hash only once.
            with suppress(AdvisorError, OSError):
                fresh = msgspec.structs.replace(manifest, files=tuple(_restat(folder, f) for f in manifest.files))
                write_atomic(folder / MANIFEST, fresh.dumps())
        return folder

    def record(self, folder: Path) -> Manifest:
        """The manifest of a finished artifact.

        Raises:
            FileNotFoundError: not finished.
            msgspec.MsgspecError: damaged.
        """
        return loads(Manifest, (folder / MANIFEST).read_bytes())

    def manifest(self, folder: Path) -> dict[str, Any]:
        """What the maker of a finished artifact gave to ``publish``. Errors as ``record``."""
        return self.record(folder).data

    @contextmanager
    def work(self, key: str, cancel: Cancel | None = None) -> Iterator[Path]:
        """A new folder to make ``key`` in, under the lock of ``key``; whatever is not published is removed.

        After the lock was waited for the artifact may be there: look with ``find`` again, or use ``make``.

        Raises:
            AdvisorError: ``interrupted``, ``disk-full`` or ``not-writable``, also for writes inside the block.
        """
        self.path(key)
        with locked(self.root / "locks" / f"{key}.lock", cancel=cancel, on_wait=lambda: self._waiting(key)):
            tmp = self.root / "tmp" / f"{key}.{owner.me()}.{secrets.token_hex(4)}"
            make_folders(tmp, mode=0o700)
            try:
                with disk_errors(tmp):
                    yield tmp
            finally:
                remove_tree(tmp)

    def publish(self, tmp: Path, key: str, manifest: Mapping[str, Any]) -> Path:
        """Hash and flush every file of ``tmp``, write its manifest, and move it into place as the artifact ``key``.

        Where another process published the same key meanwhile, that one stays and ``tmp`` is dropped.

        Raises:
            AdvisorError: ``artifact-invalid`` for links and special files, ``disk-full``, ``not-writable``.
        """
        final = self.path(key)
        with disk_errors(tmp):
            whole = Manifest(
                schema="advisor/artifact/v1",
                key=key,
                advisor=__version__,
                created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                files=tuple(_stored(tmp, p) for p in _files(tmp)),
                data=dict(manifest),
            )
            write_atomic(tmp / MANIFEST, whole.dumps())
            make_folders(final.parent)
        for _ in range(3):
            try:
                with disk_errors(final):
                    os.replace(tmp, final)  # noqa: PTH105
                    sync(final.parent)
                return final
            except OSError:
                if not final.is_dir():
                    raise
                if self.find(key) is not None:
                    remove_tree(tmp)
                    return final
        raise AdvisorError("busy", f"{final} cannot be replaced: something else keeps writing it.")

    def make(
        self, key: str, build: Callable[[Path], Mapping[str, Any]], *, cancel: Cancel | None = None
    ) -> tuple[Path, bool]:
        """Find ``key``, or make it: ``build`` fills the folder it is given and returns what the manifest shall say.

        Returns the folder and whether it was reused. Errors as ``work`` and ``publish``, and those of ``build``.
        """
        found = self.find(key)
        if found is not None:
            return found, True
        with self.work(key, cancel) as tmp:
            found = self.find(key)
            if found is not None:
                return found, True
            data = build(tmp)
            if cancel is not None:
                cancel.check()
            return self.publish(tmp, key, data), False

    def entries(self) -> tuple[Entry, ...]:
        """All finished artifacts by key, with their disk use; nothing is checked beyond the manifest."""
        out = []
        for folder in sorted(_folders(self.root / "artifacts")):
            with suppress(OSError, msgspec.MsgspecError):
                m = self.record(folder)
                out.append(Entry(key=m.key, path=str(folder), bytes=tree_bytes(folder), created_at=m.created_at))
        return tuple(out)

    def remove(self, key: str) -> None:
        """Forget an artifact. It vanishes by one rename first, so nobody finds it half removed."""
        folder = self.path(key)
        gone = self.root / "tmp" / f"{key}.{owner.me()}.{secrets.token_hex(4)}"
        make_folders(gone.parent)
        with disk_errors(folder), suppress(FileNotFoundError):
            os.replace(folder, gone)  # noqa: PTH105
        remove_tree(gone)

    def withdraw(self, file: Path, why: str) -> bool:
        """Set aside the artifact that ``file`` belongs to, because it proved unusable: it is not found again.

        Returns whether ``file`` belongs to an artifact of this store.

        Raises:
            AdvisorError: ``disk-full`` or ``not-writable``.
        """
        home = self.root / "artifacts"
        if home not in file.parents:
            return False
        self._quarantine(home / file.relative_to(home).parts[0], why)
        return True

    def gc(self, *, quarantine: bool = True) -> Collected:
        """Remove what dead processes left behind and, with ``quarantine``, what was set aside as damaged.

        Work whose owner cannot be judged from here goes after a day without a write, and only if its lock is free.
        """
        doomed = self.leftovers(quarantine=quarantine)
        freed = 0
        for folder in doomed:
            freed += tree_bytes(folder)
            remove_tree(folder)
        return Collected(removed=tuple(sorted(p.name for p in doomed)), freed_bytes=freed)

    def leftovers(self, *, quarantine: bool = True) -> list[Path]:
        """What ``gc`` would remove."""
        doomed = [p for p in _folders(self.root / "tmp") if self._is_dead(p)]
        return sorted([*doomed, *(_folders(self.root / "quarantine") if quarantine else ())])

    def is_busy(self, key: str) -> bool:
        """Whether somebody is making the artifact ``key`` now."""
        return not self._is_free(key)

    def _is_dead(self, folder: Path) -> bool:
        parts = folder.name.split(".")
        alive = owner.is_alive(".".join(parts[1:4])) if len(parts) == 5 else None
        if alive is not None:
            return not alive
        newest = 0.0
        for f in (folder, *folder.rglob("*")):
            with suppress(OSError):
                newest = max(newest, f.lstat().st_mtime)
        return time.time() - newest > _UNKNOWN_OWNER_S and self._is_free(parts[0])

    def _is_free(self, key: str) -> bool:
        try:
            fd = os.open(self.root / "locks" / f"{key}.lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return True
        try:
            return try_lock(fd)
        finally:
            os.close(fd)

    def _quarantine(self, folder: Path, why: str) -> None:
        target = self.root / "quarantine" / f"{folder.name}.{secrets.token_hex(4)}"
        make_folders(target.parent)
        with disk_errors(folder), suppress(FileNotFoundError):
            os.replace(folder, target)  # noqa: PTH105
        self._report(
            Event(kind="warning", step="store", message=f"{folder.name} was set aside and is made anew: {why}")
        )

    def _waiting(self, key: str) -> None:
        self._report(Event(kind="note", step="store", message=f"another advisor is making {key}; waiting for it"))


def _folders(root: Path) -> Iterator[Path]:
    with suppress(FileNotFoundError, NotADirectoryError):
        yield from (p for p in root.iterdir() if p.is_dir() and not p.is_symlink())


def _files(folder: Path) -> list[Path]:
    out = []
    for p in sorted(folder.rglob("*")):
        if p.is_symlink() or not (p.is_file() or p.is_dir()):
            raise AdvisorError(
                "artifact-invalid", f"{p.name} is a link or a special file; an artifact holds plain files."
            )
        if p.is_file():
            out.append(p)
        else:
            sync(p)
    return out


def _stored(root: Path, path: Path) -> StoredFile:
    sha256 = file_sha256(path)
    settle(path)
    st = path.stat()
    return StoredFile(path=path.relative_to(root).as_posix(), bytes=st.st_size, sha256=sha256, mtime_ns=st.st_mtime_ns)


def _restat(root: Path, f: StoredFile) -> StoredFile:
    return msgspec.structs.replace(f, mtime_ns=(root / f.path).stat().st_mtime_ns)


def _compare(folder: Path, manifest: Manifest, *, verify: bool) -> tuple[str | None, bool]:
    """What is wrong with the artifact, if anything, and whether times alone differed."""
    if manifest.key != folder.name:
        return f"its manifest is of {manifest.key}", False
    touched = False
    for f in manifest.files:
        path = folder / f.path
        try:
            st = path.lstat()
        except OSError as e:
            return f"{f.path}: {e.strerror}", False
        if st.st_size != f.bytes:
            return f"{f.path} has {st.st_size} bytes instead of {f.bytes}", False
        if verify or st.st_mtime_ns != f.mtime_ns:
            touched = touched or st.st_mtime_ns != f.mtime_ns
            if file_sha256(path) != f.sha256:
                return f"{f.path} does not match its SHA-256", False
    return None, touched
