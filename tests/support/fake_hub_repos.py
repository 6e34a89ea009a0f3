"""Repositories of the fake hub, and the documents that tell of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LARGE = 64 << 10  # from here on a file is in large-file storage


@dataclass
class Entry:
    """A file of a commit."""

    path: str
    file: Path
    size: int
    sha256: str
    git: str
    lfs: bool


@dataclass
class Commit:
    sha: str
    files: dict[str, Entry]


@dataclass
class Repo:
    """``gated``: only these tokens may read; ``private``: others are told that there is nothing."""

    name: str
    folder: Path
    kind: str = "models"
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    gated: tuple[str, ...] | None = None
    private: tuple[str, ...] | None = None
    renamed_to: str | None = None
    disabled: bool = False
    license: str | None = None
    downloads: int = 100
    tags: tuple[str, ...] = ()

    def commit(self, branch: str = "main") -> str:
        """Take a snapshot of the folder; the branch moves there."""
        files: dict[str, Entry] = {}
        for path in sorted(p for p in self.folder.rglob("*") if p.is_file()):
            name = path.relative_to(self.folder).as_posix()
            size = path.stat().st_size
            with path.open("rb") as f:
                sha256 = hashlib.file_digest(f, "sha256").hexdigest()
            lfs = size >= LARGE or name.endswith((".safetensors", ".gguf", ".bin"))
            blob = b"" if lfs else path.read_bytes()
            git = hashlib.sha1(f"blob {len(blob)}\0".encode() + blob).hexdigest()
            files[name] = Entry(name, path, size, sha256, git, lfs)
        seed = json.dumps([(e.path, e.sha256) for e in files.values()]) + self.name
        sha = hashlib.sha1(seed.encode()).hexdigest()
        self.commits[sha] = Commit(sha, files)
        self.branches[branch] = sha
        return sha


def information(repo: Repo, commit: Commit, *, sizes: bool) -> dict[str, Any]:
    """What the hub's interface tells of a repository at a commit; ``sizes``: of its files also sizes and hashes."""
    siblings = []
    for e in commit.files.values():
        item: dict[str, Any] = {"rfilename": e.path}
        if sizes:
            item |= {"size": e.size, "blobId": e.git}
            if e.lfs:
                item["lfs"] = {"sha256": e.sha256, "size": e.size, "pointerSize": 134}
        siblings.append(item)
    return {
        "_id": "0",
        "id": repo.name,
        "modelId": repo.name,
        "sha": commit.sha,
        "private": repo.private is not None,
        "gated": "manual" if repo.gated is not None else False,
        "disabled": False,
        "downloads": repo.downloads,
        "lastModified": "2025-01-01T00:00:00.000Z",
        "tags": list(repo.tags),
        "cardData": {"license": repo.license} if repo.license else None,
        "siblings": siblings,
    }


def found(repos: Iterable[Repo], query: dict[str, list[str]]) -> list[dict[str, Any]]:
    """What a search answers: models with all tags of ``filter`` and ``search`` in the name, most downloaded first."""
    wanted = query.get("filter", [])
    words = query.get("search", [""])[0].lower()
    models = [
        r
        for r in repos
        if r.kind == "models" and r.renamed_to is None and r.private is None
        and all(w in r.tags for w in wanted) and words in r.name.lower()
    ]  # fmt: skip
    models.sort(key=lambda r: -r.downloads)
    limit = int(query.get("limit", ["100"])[0])
    return [
        {"id": r.name, "modelId": r.name, "downloads": r.downloads, "tags": list(r.tags), "gated": False}
        for r in models[:limit]
    ]
