"""Hashes of remote files, computed here: SHA-256 of large files, git's own id of small ones."""

from __future__ import annotations

import hashlib
from typing import Any

from advisor.errors import AdvisorError
from advisor.execute.hub.record import RemoteFile
from advisor.facts.text import clean


class Digest:
    """Hashes bytes as they come; ``right`` compares with what the hub said."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        file = self._file
        self._sha256 = hashlib.sha256()
        # Git's id of a file is a SHA-1 over its length and content. It names the blob and is not our only defence: the
        # file comes over TLS, and weights are compared by SHA-256.
        self._git: Any = None
        if file.sha256 is None and file.git_sha1 is not None and file.bytes is not None:
            self._git = hashlib.sha1(f"blob {file.bytes}\0".encode(), usedforsecurity=False)

    def update(self, chunk: bytes) -> None:
        """Hash the next bytes."""
        self._sha256.update(chunk)
        if self._git is not None:
            self._git.update(chunk)

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes so far, in hex."""
        return self._sha256.hexdigest()

    @property
    def right(self) -> bool | None:
        """Whether the bytes are those that the hub announced; ``None`` where it announced no hash."""
        if self._file.sha256 is not None:
            return self.sha256 == self._file.sha256
        return bool(self._git.hexdigest() == self._file.git_sha1) if self._git is not None else None

    def wrong(self, repo: str) -> AdvisorError:
        """The error for bytes that are not those."""
        f = self._file
        expected = f.sha256 or f"git {f.git_sha1}"
        seen = self.sha256 if f.sha256 is not None or self._git is None else f"git {self._git.hexdigest()}"
        return AdvisorError(
            "integrity",
            f"{clean(f.path, 160)} of {repo} is not what the hub announced: expected {expected}, got {seen}.",
            hint="advisor doctor",
            data={"file": clean(f.path), "expected": expected, "seen": seen},
        )


def check_bytes(file: RemoteFile, raw: bytes, repo: str) -> None:
    """Check a whole small file.

    Raises:
        AdvisorError: ``integrity``.
    """
    digest = Digest(file)
    digest.update(raw)
    if digest.right is False or (file.bytes is not None and file.bytes != len(raw)):
        raise digest.wrong(repo)
