"""Texts to measure or to calibrate on from datasets of the hub: one file of a repository, or WikiText-2 by its name.

The dataset itself is published as Parquet, which takes a reader of its own; its raw splits as plain text come from the
archive that llama.cpp's own measurements use (scripts/get-wikitext-2.sh), so that perplexities can be compared. The
test split is measured on, the training split calibrated on.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any, Final, NamedTuple

from advisor.errors import AdvisorError
from advisor.execute.hub.access import Patience
from advisor.execute.hub.client import EntryMissing, Hub
from advisor.execute.hub.digest import Digest
from advisor.execute.hub.record import RemoteFile, from_etag, from_information
from advisor.execute.store import Store
from advisor.execute.texts import Use
from advisor.facts.text import clean
from advisor.facts.words import DATASETS as SCHEME
from advisor.facts.words import WIKITEXT
from advisor.model.paths import check_name

# A whole text may take longer than a short document.
PATIENCE: Final = Patience(document_s=900.0)
_MAX_BYTES: Final = 64 << 20
_PART: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_NAMED: Final = re.compile(rf"({_PART}/{_PART})(?:@([A-Za-z0-9][A-Za-z0-9._-]{{0,199}}))?/(.+)")
_TEXTS: Final = (".txt", ".raw", ".md")
_LINES: Final = (".jsonl", ".ndjson")  # calibration takes records, too
_SPLITS: Final[dict[Use, str]] = {
    "verification": "wikitext-2-raw/wiki.test.raw",
    "calibration": "wikitext-2-raw/wiki.train.raw",
}


class Corpus(NamedTuple):
    """A file of a dataset; ``member``: the text inside it, where it is a ZIP archive."""

    repo: str
    revision: str | None
    path: str
    member: str | None = None


def parse(words: str, use: Use = "verification") -> Corpus | None:
    """What ``wikitext-2`` or ``hf:datasets/OWNER/NAME[@REVISION]/FILE.txt`` names; ``None`` for anything else.

    Raises:
        AdvisorError: ``bad-option`` for a dataset's file that is no text, ``untrusted-model-path``.
    """
    if words == WIKITEXT:
        return Corpus("ggml-org/ci", None, "wikitext-2-raw-v1.zip", _SPLITS[use])
    if not words.startswith(SCHEME):
        return None
    kinds = (*_TEXTS, *_LINES) if use == "calibration" else _TEXTS
    found = _NAMED.fullmatch(words.removeprefix(SCHEME))
    if found is None or not found[3].lower().endswith(kinds):
        raise AdvisorError(
            "bad-option",
            f"{clean(words, 160)} names no text of a dataset: {SCHEME}OWNER/NAME/FILE, ending with "
            f"{', '.join(kinds)}. Parquet files cannot be read here.",
            hint=f"advisor {'recommend 8B --calibration' if use == 'calibration' else 'up --text'} {WIKITEXT}",
        )
    check_name(found[3])
    return Corpus(found[1], found[2], found[3])


def find(store: Store, words: str, corpus: Corpus) -> Path | None:
    """The text that was fetched for ``words`` before."""
    folder = store.find(_key(store, words, corpus))
    return folder / _file(corpus) if folder is not None else None


def _key(store: Store, words: str, corpus: Corpus) -> str:
    # Two members of one archive are two texts.
    return store.key("text", {"source": words, "file": corpus.member or corpus.path})


def _file(corpus: Corpus) -> str:
    """The name it has there, which results show."""
    return (corpus.member or corpus.path).rsplit("/", 1)[-1]


def fetch(hub: Hub, store: Store, words: str, corpus: Corpus) -> tuple[Path, bool]:
    """Bring the text into the store; its file, and whether it was there. A branch is taken where it is the first time.

    Raises:
        AdvisorError: ``model-not-found`` (no such dataset), ``file-not-found`` (no such file in it), ``gated``,
            ``unauthorized``, ``network``, ``integrity``, ``disk-full``, ``interrupted``.
    """

    def build(tmp: Path) -> dict[str, Any]:
        record = from_information(
            hub.information(corpus.repo, corpus.revision, kind="datasets"), corpus.repo, hub.access.endpoint
        )
        raw, checked = _bytes(hub, record.repo, record.commit, record.file(corpus.path), corpus.path)
        (tmp / _file(corpus)).write_bytes(raw if corpus.member is None else _member(raw, corpus))
        return {"kind": "text", "source": words, "repo": record.repo, "revision": record.commit, "checked": checked}

    folder, reused = store.make(_key(store, words, corpus), build, cancel=hub.cancel)
    return folder / _file(corpus), reused


def _bytes(hub: Hub, repo: str, commit: str, file: RemoteFile | None, path: str) -> tuple[bytes, bool]:
    missing = AdvisorError("file-not-found", f"The dataset {repo} has no file {clean(path, 160)}.")
    if file is None:
        raise missing
    if file.bytes is not None and file.bytes > _MAX_BYTES:
        raise AdvisorError(
            "bad-option", f"{clean(path, 160)} of {repo} has {file.bytes:,} bytes; a text may have {_MAX_BYTES:,}."
        )

    def once() -> bytes:
        return hub.open(repo, commit, path, kind="datasets/").exchange.whole(_MAX_BYTES)

    try:
        if file.sha256 is None and file.git_sha1 is None:
            about = hub.about(repo, commit, path, kind="datasets/")
            file = from_etag(file, about.size, about.etag)
        for last in (False, True):
            raw = hub.trying(once, path)
            digest = Digest(file)
            digest.update(raw)
            if digest.right is not False:
                return raw, digest.right is True
            if last:
                raise digest.wrong(repo)
    except EntryMissing:
        raise missing from None
    raise AssertionError("unreachable")


def _member(raw: bytes, corpus: Corpus) -> bytes:
    import zipfile

    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            info = archive.getinfo(corpus.member or "")
            if info.file_size > _MAX_BYTES:
                raise AdvisorError("integrity", f"{corpus.member} in {corpus.path} has {info.file_size:,} bytes.")
            return archive.read(info)
    except (zipfile.BadZipFile, KeyError, RuntimeError, NotImplementedError, EOFError, OSError) as e:
        raise AdvisorError("integrity", f"{corpus.path} of {corpus.repo} cannot be used: {clean(str(e))}.") from e
