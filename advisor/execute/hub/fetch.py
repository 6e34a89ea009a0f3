"""Brings the files of a revision into the store: resumed file by file, checked, visible only when all are there.

Partial files lie in ``partial/KEY/`` beside the artifacts, under the lock of the key, so that a run that was killed
goes on where it stopped. The artifact's manifest, written last, says which revision it is and where it came from.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from advisor.errors import AdvisorError
from advisor.events import Event
from advisor.execute.disk import disk_errors, make_folders, remove_tree, tree_bytes
from advisor.execute.hub.client import EntryMissing, Hub
from advisor.execute.hub.download import Fetched, fetch_file
from advisor.execute.hub.metadata import Known, known_file
from advisor.execute.hub.record import RemoteFile, usable
from advisor.execute.preflight import check_disk
from advisor.execute.store import Store
from advisor.facts.text import clean

STEP: Final = "fetch"
# The model's files lie below this folder of the artifact, so that none of them can be taken for the manifest.
INNER: Final = "model"
_BESIDE: Final = (".json", ".txt", ".jinja", ".model", ".tiktoken")
_LEGAL: Final = ("license", "notice", "readme.md", "use_policy.md")
_MAX_BESIDE: Final = 256 << 20
_EVERY_S: Final = 0.5
# Partial files that nobody came back for.
_STALE_S: Final = 14 * 24 * 3600


def wanted(known: Known) -> tuple[RemoteFile, ...]:
    """The files that serving or converting the model takes: its weights, and the texts beside them. Never code, never
    pickles, never a second copy of the weights in another format.

    Raises:
        AdvisorError: ``model-needs-download`` where the repository has no weights that can be used.
    """
    if not known.weights:
        raise AdvisorError("model-needs-download", f"{known.record.repo} has no safetensors and no GGUF weights.")
    single = known.weights[0].lower().endswith(".gguf")
    out: dict[str, RemoteFile] = {}
    taken: set[str] = set()
    for file in known.record.files:
        weight = file.path in known.weights
        legal = "/" not in file.path and file.path.lower().startswith(_LEGAL)
        beside = not single and "/" not in file.path and file.path.lower().endswith(_BESIDE)
        if not weight and (not (legal or beside) or not usable(file.path) or (file.bytes or 0) > _MAX_BESIDE):
            continue
        if file.path.casefold() in taken:
            raise AdvisorError(
                "untrusted-model-path", f"{known.record.repo} has two files called {clean(file.path, 120)}."
            )
        taken.add(file.path.casefold())
        out[file.path] = file
    return tuple(out.values())


def key_of(store: Store, known: Known) -> str:
    """The store's key of a fetched revision."""
    files = {f.path: f.sha256 or f.git_sha1 or f.bytes for f in wanted(known)}
    return store.key("hub", {"repo": known.record.repo, "revision": known.record.commit, "files": files})


def find(store: Store, known: Known) -> Path | None:
    """The folder with the fetched files, or ``None``; no network is used."""
    if not known.weights:
        return None
    folder = store.find(key_of(store, known))
    return folder / INNER if folder is not None else None


def fetch(hub: Hub, store: Store, known: Known) -> tuple[Path, bool]:
    """Bring the files into the store; their folder, and whether they were there already.

    Raises:
        AdvisorError: ``network``, ``gated``, ``unauthorized``, ``model-not-found`` (the revision is gone),
            ``missing-part``, ``integrity``, ``disk-full``, ``not-writable``, ``interrupted``.
    """
    key = key_of(store, known)
    found = store.find(key)
    if found is not None:
        remove_tree(store.partial(key))
        return found / INNER, True
    _forget_stale(store.root / "partial", key)

    def build(tmp: Path) -> dict[str, Any]:
        partial = store.partial(key)
        make_folders(partial, mode=0o700)
        return _fill(hub, store, known, partial, tmp)

    folder, reused = store.make(key, build, cancel=hub.cancel)
    remove_tree(store.partial(key))
    return folder / INNER, reused


def _fill(hub: Hub, store: Store, known: Known, partial: Path, tmp: Path) -> dict[str, Any]:
    record = known.record
    try:
        files = [known_file(hub, record, f.path) for f in wanted(known)]
    except EntryMissing as e:
        raise AdvisorError("missing-part", f"{record.repo} lists {clean(str(e))}, but does not have it.") from e
    total = sum(f.bytes or 0 for f in files)
    check_disk(partial, max(0, total - tree_bytes(partial)), f"{record.repo} at {record.commit[:12]}")
    progress = _Progress(hub, record.repo, total)
    started = time.monotonic()
    got: list[tuple[RemoteFile, Fetched]] = []
    for number, file in enumerate(files):
        progress.file = file.path
        name = f"{number:05d}-{(file.sha256 or file.git_sha1 or 'unknown')[:32]}.part"
        got.append(
            (file, fetch_file(hub, record, file, partial / name, quarantine=store.root / "quarantine", tell=progress))
        )
    unchecked = [f.path for f, g in got if not g.checked]
    if unchecked:
        hub.say(
            Event(
                kind="warning",
                step=STEP,
                message=f"{record.endpoint} announces no hash of {clean(', '.join(unchecked), 300)}; "
                "what came is recorded, but could not be compared.",
            )
        )
    for file, fetched in got:
        _place(fetched.path, tmp / INNER / file.path)
    return {
        "kind": "hub",
        "source": f"{record.repo}@{record.commit}",
        "repo": record.repo,
        "revision": record.commit,
        "endpoint": record.endpoint,
        "license": record.license,
        "gated": record.gated,
        "files": {f.path: {"sha256": g.sha256, "checked": g.checked} for f, g in got},
        "weights": list(known.weights),
        "seconds": round(time.monotonic() - started, 3),
    }


def _place(part: Path, target: Path) -> None:
    """A second name for the complete file, so that a kill before publishing loses nothing; moved where that fails."""
    make_folders(target.parent)
    with disk_errors(target):
        try:
            os.link(part, target)
        except OSError:
            shutil.move(part, target)


class _Progress:
    """Adds up bytes over all files, and tells now and then, with an estimate from this run's own speed."""

    def __init__(self, hub: Hub, repo: str, total: int) -> None:
        self.file = ""
        self._hub, self._repo, self._total = hub, repo, total
        self._done = 0
        self._at_start: int | None = None
        self._started = self._told = time.monotonic()

    def __call__(self, change: int) -> None:
        self._done += change
        now = time.monotonic()
        if now - self._told < _EVERY_S and self._done < self._total:
            return
        self._told = now
        if self._at_start is None:
            self._at_start, self._started = self._done, now
        speed = (self._done - self._at_start) / (now - self._started) if now > self._started else 0.0
        self._hub.say(
            Event(
                kind="progress",
                step=STEP,
                message=clean(self.file, 80),
                done=self._done,
                total=self._total,
                unit="bytes",
                seconds_left=(self._total - self._done) / speed if speed > 0 else None,
            )
        )


def _forget_stale(root: Path, current: str) -> None:
    """Drop partial files of other fetches that were not touched for two weeks."""
    with suppress(OSError):
        for folder in root.iterdir():
            newest = max((p.stat().st_mtime for p in (folder, *folder.iterdir())), default=0.0)
            if folder.name != current and time.time() - newest > _STALE_S:
                remove_tree(folder)
