"""What is known of one revision of one repository: its files with sizes and hashes, kept under its commit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec

from advisor.errors import AdvisorError
from advisor.execute.disk import make_folders, write_atomic
from advisor.facts.base import Shape, loads
from advisor.facts.text import clean
from advisor.model.hubref import DEFAULT_REVISION, HubRef, is_commit
from advisor.model.paths import check_name

SCHEMA: Final = "advisor/hub/v1"
MAX_FILES: Final = 100_000
_HEX: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")


class RemoteFile(Shape, frozen=True, kw_only=True):
    """A file of a revision. ``sha256`` is of its content (files in large-file storage); ``git_sha1`` is git's id of the
    blob (small files). ``None``: the hub did not say."""

    path: str
    bytes: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None


class Record(Shape, frozen=True, kw_only=True):
    """A revision. ``repo`` is its present id; ``asked`` the one it was found by."""

    schema: str
    repo: str
    asked: str
    commit: str
    endpoint: str
    files: tuple[RemoteFile, ...]
    gated: bool = False
    license: str | None = None
    downloads: int | None = None
    last_modified: str | None = None

    def file(self, path: str) -> RemoteFile | None:
        """The file of that path."""
        return next((f for f in self.files if f.path == path), None)

    @property
    def publisher(self) -> str:
        """Whose repository it is."""
        return self.repo.partition("/")[0] if "/" in self.repo else ""

    @property
    def slug(self) -> str:
        """The name of its folder."""
        return slug(self.repo)


class Pointer(Shape, frozen=True, kw_only=True):
    """Where a branch or tag pointed when it was last asked for."""

    repo: str
    commit: str


def slug(repo: str) -> str:
    """A folder name for a repository; ids have no ``--``."""
    return f"models--{repo.replace('/', '--')}".lower()


def from_information(found: dict[str, Any], asked: str, endpoint: str) -> Record:
    """Check the hub's description and take what is needed from it.

    Raises:
        AdvisorError: ``integrity`` where it lacks the commit or is no description, ``untrusted-model-path`` for names
            that would lead out of a folder or differ in case only.
    """

    def wrong(why: str) -> AdvisorError:
        return AdvisorError("integrity", f"The hub's description of {asked} cannot be used: {why}.")

    commit, repo = found.get("sha"), found.get("id") or found.get("modelId")
    if not isinstance(commit, str) or not is_commit(commit):
        raise wrong("it names no commit")
    if not isinstance(repo, str) or not _ID.fullmatch(repo) or ".." in repo or "--" in repo:
        raise wrong("it names no repository")
    siblings = found.get("siblings")
    if not isinstance(siblings, list) or len(siblings) > MAX_FILES:
        raise wrong("it lists no files, or too many")
    files: dict[str, RemoteFile] = {}
    for item in siblings:
        if not isinstance(item, dict) or not isinstance(item.get("rfilename"), str):
            raise wrong("a file in it has no name")
        files[item["rfilename"]] = _file(item)
    card = found.get("cardData")
    licence = card.get("license") if isinstance(card, dict) else None
    downloads, modified = found.get("downloads"), found.get("lastModified")
    return Record(
        schema=SCHEMA,
        repo=repo,
        asked=asked,
        commit=commit,
        endpoint=endpoint,
        files=tuple(files[p] for p in sorted(files)),
        gated=bool(found.get("gated")),
        license=clean(licence, 60) if isinstance(licence, str) else None,
        downloads=downloads if isinstance(downloads, int) and not isinstance(downloads, bool) else None,
        last_modified=clean(modified, 40) if isinstance(modified, str) else None,
    )


def _file(item: dict[str, Any]) -> RemoteFile:
    lfs = item.get("lfs") if isinstance(item.get("lfs"), dict) else {}
    assert isinstance(lfs, dict)
    size = lfs.get("size", item.get("size"))
    sha256, blob = lfs.get("sha256"), item.get("blobId")
    return RemoteFile(
        path=item["rfilename"],
        bytes=size if isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 1 << 50 else None,
        sha256=sha256 if isinstance(sha256, str) and len(sha256) == 64 and _HEX.fullmatch(sha256) else None,
        git_sha1=blob if not lfs and isinstance(blob, str) and len(blob) == 40 and _HEX.fullmatch(blob) else None,
    )


def from_etag(file: RemoteFile, size: int | None, etag: str | None) -> RemoteFile:
    """``file`` with what an answer to a question about it alone said."""
    known = etag if etag is not None and _HEX.fullmatch(etag) else None
    return RemoteFile(
        path=file.path,
        bytes=file.bytes if file.bytes is not None else size,
        sha256=file.sha256 or (known if known is not None and len(known) == 64 else None),
        git_sha1=file.git_sha1 or (known if known is not None and len(known) == 40 else None),
    )


def usable(path: str) -> bool:
    """Whether a file of that name may be written anywhere below a folder; others are left alone, unless needed."""
    try:
        check_name(path)
    except AdvisorError:
        return False
    return True


class Library:
    """The kept descriptions, below the cache: ``SLUG/COMMIT/record.json`` with ``files/`` (configuration and headers),
    and ``SLUG/refs/REVISION.json``. Everything in it may be deleted at any time."""

    def __init__(self, cache: Path) -> None:
        self.root = cache / "hub" / "v1"

    def folder(self, record: Record) -> Path:
        """Where the configuration and the headers of a revision are kept."""
        return self.root / record.slug / record.commit / "files"

    def keep(self, record: Record, revision: str | None) -> None:
        """Keep a description, and that ``revision`` pointed at it.

        Raises:
            AdvisorError: ``disk-full`` or ``not-writable``.
        """
        where = self.root / record.slug / record.commit
        make_folders(where)
        write_atomic(where / "record.json", record.dumps())
        if revision is not None and is_commit(revision):
            return
        pointer = Pointer(repo=record.repo, commit=record.commit).dumps()
        for name in dict.fromkeys((record.repo, record.asked)):
            path = self._pointer(name, revision)
            make_folders(path.parent)
            write_atomic(path, pointer)

    def find(self, ref: HubRef) -> Record | None:
        """The kept description that ``ref`` names; a branch is where it was when it was last asked for."""
        try:
            if ref.pinned and ref.revision is not None:
                return self._record(ref.repo, ref.revision)
            pointer = loads(Pointer, self._pointer(ref.repo, ref.revision).read_bytes())
            return self._record(pointer.repo, pointer.commit)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return None

    def _record(self, repo: str, commit: str) -> Record | None:
        if not is_commit(commit) or not _ID.fullmatch(repo):
            return None
        record = loads(Record, (self.root / slug(repo) / commit / "record.json").read_bytes())
        return record if record.schema == SCHEMA and record.commit == commit else None

    def _pointer(self, repo: str, revision: str | None) -> Path:
        name = quote(revision or DEFAULT_REVISION, safe="")
        return self.root / slug(repo) / "refs" / f"{name}.json"
