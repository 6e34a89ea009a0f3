"""What a user may write to name a model of the hub; nothing here touches the network.

``org/name``, ``org/name@REVISION``, ``hf:org/name``, ``hf:org/name/FILE.gguf``, ``hf:org/name@REVISION/FILE.gguf`` and
the address of a page (``https://HOST/org/name``, also with ``/tree/REV``, ``/blob/REV/FILE``, ``/resolve/REV/FILE``).
A revision is a branch, a tag or a commit.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, NoReturn

from advisor.errors import AdvisorError
from advisor.facts.text import clean
from advisor.model.paths import check_name

SCHEME: Final = "hf:"
DEFAULT_REVISION: Final = "main"
# The hub's own rule: letters, digits, "-", "_" and ".", neither "--" nor ".." inside, no ".git" at the end.
_PART: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REPO: Final = re.compile(rf"{_PART}/{_PART}")
_BARE: Final = re.compile(_PART)
_REVISION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,199}")
_REF_REVISION: Final = re.compile(r"(refs/(?:pr|convert)/[A-Za-z0-9._-]+)(?:/(.*))?")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_LOGIN: Final = re.compile(r"(?<=://)[^/\s@]+@")
_URL: Final = re.compile(r"(https?://[^/?#\s]+)/([^?#\s]+?)/?(?:[?#]\S*)?")


class HubRef(NamedTuple):
    """A model of the hub: its id, the revision where one was asked for, one file of it, and the host of a URL."""

    repo: str
    revision: str | None = None
    file: str | None = None
    origin: str | None = None

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, which never moves."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    def at(self, repo: str, commit: str) -> str:
        """The same reference, fixed to the commit of a (perhaps renamed) repository."""
        return f"{SCHEME}{repo}@{commit}/{self.file}" if self.file else f"{repo}@{commit}"


def is_commit(text: str) -> bool:
    """Whether ``text`` is a whole commit id."""
    return _COMMIT.fullmatch(text) is not None


def _refuse(ref: str, why: str) -> NoReturn:
    shown = clean(_LOGIN.sub("", ref), 120)
    raise AdvisorError("model-not-found", f'"{shown}" names no model of the hub: {why}.', hint="advisor models list")


def explicit(ref: str) -> bool:
    """Whether ``ref`` can only mean the hub: a scheme, an address, or an id with a revision."""
    return ref.startswith((SCHEME, "https://", "http://")) or (
        "@" in ref and _REPO.fullmatch(ref.partition("@")[0]) is not None
    )


def parse(ref: str) -> HubRef | None:
    """Read a reference; ``None`` where it is written like something else.

    Raises:
        AdvisorError: ``model-not-found`` where it is meant for the hub and cannot be a model there,
            ``untrusted-model-path`` for a file name that leads elsewhere.
    """
    if ref.startswith(("https://", "http://")):
        found = _url(ref)
    elif ref.startswith(SCHEME):
        found = _words(ref, ref.removeprefix(SCHEME).removeprefix("//"))
    elif _REPO.fullmatch(ref.partition("@")[0]):
        found = _words(ref, ref)
        if found.file is not None:
            _refuse(ref, f"a file is named as {SCHEME}{found.repo}/{found.file}")
    else:
        return None
    if "--" in found.repo or ".." in found.repo or found.repo.endswith(".git"):
        _refuse(ref, 'an id has neither "--" nor ".." in it and does not end with ".git"')
    if found.revision is not None and (not _REVISION.fullmatch(found.revision) or ".." in found.revision):
        _refuse(ref, f'"{clean(found.revision, 60)}" is no revision')
    if found.file is not None:
        check_name(found.file)
        if not found.file.lower().endswith(".gguf"):
            _refuse(ref, "a single file of a model is a .gguf file")
    return found


def _words(ref: str, text: str) -> HubRef:
    repo, at, rest = text.partition("@")
    if at:
        if not rest:
            _refuse(ref, "there is no revision after the @")
        named = _REF_REVISION.fullmatch(rest)
        if named:
            revision, file = named[1], named[2]
        elif "/" in rest and rest.lower().endswith(".gguf"):
            revision, _, file = rest.partition("/")
        else:
            revision, file = rest, None
        return HubRef(_repo(ref, repo), revision, file or None)
    parts = text.split("/")
    if len(parts) <= 2:
        return HubRef(_repo(ref, text))
    return HubRef(_repo(ref, "/".join(parts[:2])), None, "/".join(parts[2:]))


def _repo(ref: str, repo: str) -> str:
    if not _REPO.fullmatch(repo) and not _BARE.fullmatch(repo):
        _refuse(ref, "an id is OWNER/NAME, in letters, digits, dots, hyphens and underscores")
    return repo


def _url(ref: str) -> HubRef:
    found = _URL.fullmatch(ref)
    if not found or "@" in found[1]:
        _refuse(ref, "it is not the address of a model's page")
    parts = found[2].split("/")
    if len(parts) < 2 or parts[0] in ("datasets", "spaces", "api", "models"):
        _refuse(ref, "it is not the address of a model's page")
    repo, rest = _repo(ref, "/".join(parts[:2])), parts[2:]
    if not rest:
        return HubRef(repo, None, None, found[1])
    if rest[0] not in ("tree", "blob", "resolve", "raw", "commit") or len(rest) < 2:
        _refuse(ref, "it is not the address of a model's page, revision or file")
    revision = rest[1].replace("%2F", "/")
    file = "/".join(rest[2:]) or None
    if rest[0] == "tree" and file is not None:
        _refuse(ref, "a folder inside a repository is not a model of its own")
    return HubRef(repo, revision, file, found[1])
