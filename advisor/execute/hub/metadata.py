"""Facts of a model of the hub from its configuration and the headers of its weights; the weights stay where they are.

What is read is kept under the commit, so that the same facts are there without a network.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from advisor.errors import AdvisorError
from advisor.events import Event
from advisor.execute.disk import make_folders, write_atomic
from advisor.execute.hub.client import STEP, EntryMissing, Hub
from advisor.execute.hub.digest import check_bytes
from advisor.execute.hub.prefix import Prefix
from advisor.execute.hub.record import Library, Record, RemoteFile, from_etag, from_information, usable
from advisor.facts.model import ModelFacts
from advisor.facts.text import clean
from advisor.model import folder, gguf, gguf_facts, safetensors
from advisor.model.hubref import HubRef
from advisor.model.jsonfile import MAX_CONFIG_BYTES
from advisor.model.paths import check_names

# Read whole where they are there: (name, most bytes).
_DOCUMENTS: Final = (
    ("config.json", MAX_CONFIG_BYTES),
    ("generation_config.json", MAX_CONFIG_BYTES),
    ("tokenizer_config.json", MAX_CONFIG_BYTES),
    (folder.INDEX, folder.MAX_INDEX_BYTES),
)
_CARD: Final = "README.md"
_SHARD: Final = re.compile(r"-\d{5}-of-\d{5}\.safetensors$")


class Known(NamedTuple):
    """A revision, the folder of what was read of it, and the weight files that the reference means."""

    record: Record
    folder: Path
    weights: tuple[str, ...]


def resolve(hub: Hub, library: Library, ref: HubRef) -> Record:
    """Ask the hub what ``ref`` is now, and keep the answer.

    Raises:
        AdvisorError: ``model-not-found``, ``gated``, ``unauthorized``, ``network``, ``integrity``,
            ``untrusted-model-path``, ``disk-full``, ``not-writable``, ``interrupted``.
    """
    found = hub.information(ref.repo, ref.revision)
    record = from_information(found, ref.repo, hub.access.endpoint)
    if ref.pinned and record.commit != ref.revision:
        raise AdvisorError(
            "integrity",
            f"The hub answers with commit {record.commit} of {ref.repo} where {ref.revision} was asked for.",
        )
    library.keep(record, ref.revision)
    return record


def read(hub: Hub | None, library: Library, record: Record, ref: HubRef) -> Known:
    """Read configuration and headers, as far as they are not kept yet. Without ``hub`` only what is kept is used.

    Raises:
        AdvisorError: as ``resolve``; ``offline`` where something is missing and there is no ``hub``; ``missing-part``,
            ``pickle-refused``, ``untrusted-model-header``, ``untrusted-model-config``.
    """
    where = library.folder(record)
    try:
        if ref.file is not None:
            return Known(record, where, _gguf(hub, record, where, ref.file))
        names = {f.path for f in record.files}
        for name, limit in _DOCUMENTS:
            if name in names:
                _document(hub, record, where, name, limit)
        if _CARD in names:
            _card(hub, record, where)
        if "config.json" not in names and any(_is_model_gguf(n) for n in names):
            return Known(record, where, _gguf(hub, record, where, None))
        files = _safetensors(record, where, names)
        if not files and any(_is_model_gguf(n) for n in names):
            return Known(record, where, _gguf(hub, record, where, None))
        for name in files:
            _header(hub, record, where, name)
        return Known(record, where, files)
    except EntryMissing as e:
        raise AdvisorError(
            "missing-part",
            f"{record.repo} lists {clean(str(e), 120)}, but the hub does not have it.",
            data={"missing": [clean(str(e))]},
        ) from e


def facts(known: Known, ref: HubRef, *, local: Path | None = None) -> ModelFacts:
    """The facts of what was read; ``local``: the folder with the whole files, where they are here.

    Raises:
        AdvisorError: as the readers of folders and files.
    """
    record = known.record
    pinned = ref.at(record.repo, record.commit)
    source = local if local is not None else known.folder
    sizes = None if local is not None else _sizes(known)
    try:
        if known.weights and known.weights[0].lower().endswith(".gguf"):
            first = known.weights[0]
            found = gguf_facts.facts(source / first, ref=pinned, kind="hub", sizes=sizes)
            found = msgspec.structs.replace(found, source=f"header of {first} in {record.repo}")
        else:
            found = folder.facts(source, ref=pinned, kind="hub", name=record.repo, sizes=sizes)
            found = msgspec.structs.replace(found, source=f"config.json of {record.repo} at {record.commit[:12]}")
    except AdvisorError as e:
        raise _of_repository(e, source, record) from e
    notes = found.notes
    if ref.repo.lower() != record.repo.lower():
        notes = (*notes, f"renamed: {ref.repo} is {record.repo} now")
    return msgspec.structs.replace(
        found,
        revision=record.commit,
        license=found.license or record.license,
        path=found.path if local is not None else None,
        notes=notes,
    )


def _of_repository(error: AdvisorError, source: Path, record: Record) -> AdvisorError:
    """The reader's error, about the repository instead of the folder that it was read in."""
    hint = error.hint
    if hint is not None and str(source) in hint:
        hint = "advisor models list"
        names = re.findall(re.escape(str(source)) + r"/([^\s'\"]+\.gguf)", error.hint or "")
        if names:
            hint = f"advisor recommend hf:{record.repo}/{names[0]}"
    told = error.message.replace(str(source.absolute()), record.repo).replace(str(source), record.repo)
    data = {**error.data, "repo": record.repo, "revision": record.commit}
    return AdvisorError(error.code, told, context=error.context, hint=hint, data=data)


def _sizes(known: Known) -> dict[str, int]:
    """Sizes by name, as the readers of folders look for them: files at the top, and the weights."""
    out = {f.path: f.bytes or 0 for f in known.record.files if "/" not in f.path and f.path.isprintable()}
    for name in known.weights:
        whole = _whole_size(known.folder, known.record, name)
        out[name.rpartition("/")[2]] = whole or 0
    return out


def _safetensors(record: Record, where: Path, names: set[str]) -> tuple[str, ...]:
    """The weight files of a checkpoint, by the rules of ``advisor.model.folder``."""
    if folder.INDEX in names:
        return tuple(f for f in check_names(folder.index_map(where).values()) if f in names)
    top = sorted(n for n in names if n.endswith(".safetensors") and "/" not in n and "adapter" not in n)
    if folder.SINGLE in top:
        return (folder.SINGLE,)
    return () if any(_SHARD.search(n) for n in top) else check_names(top)


def _is_model_gguf(name: str) -> bool:
    return name.lower().endswith(".gguf") and "mmproj" not in name.lower() and "/" not in name


def _gguf(hub: Hub | None, record: Record, where: Path, file: str | None) -> tuple[str, ...]:
    """The GGUF file that is meant, all its parts; their headers are read."""
    names = {f.path for f in record.files}
    if file is None:
        groups = sorted({gguf_facts.part_names(Path(n))[0].as_posix() for n in names if _is_model_gguf(n)})
        if len(groups) > 1:
            raise AdvisorError(
                "model-not-found",
                f"{record.repo} holds {len(groups)} GGUF models: {clean(', '.join(groups), 600)}. Name one.",
                hint=f"advisor recommend hf:{record.repo}/{groups[0]}",
                data={"files": [clean(g) for g in groups[:200]]},
            )
        file = groups[0]
    parts = [p.as_posix() for p in gguf_facts.part_names(Path(file))]
    missing = [p for p in parts if p not in names]
    if missing and len(missing) == len(parts):
        from advisor.errors import did_you_mean

        others = sorted(n for n in names if n.lower().endswith(".gguf"))
        raise AdvisorError(
            "model-not-found",
            f"{record.repo} has no file {clean(file, 160)}.{did_you_mean(file, others)}",
            context=[f"its GGUF files: {clean(', '.join(others), 600)}" if others else "it has no GGUF files"],
            hint=f"advisor recommend hf:{record.repo}/{others[0]}" if others else "advisor models list",
        )
    if missing:
        raise AdvisorError(
            "missing-part",
            f"The model {clean(file, 160)} of {record.repo} has {len(parts)} parts, and {len(missing)} of them "
            f"{'is' if len(missing) == 1 else 'are'} missing: {clean(', '.join(missing))}.",
            data={"missing": [clean(m) for m in missing[:20]]},
        )
    check_names(parts)
    for part in parts:
        _header(hub, record, where, part)
    return tuple(parts)


def known_file(hub: Hub | None, record: Record, name: str) -> RemoteFile:
    """A file of the record, with what the hub says about it alone where the record does not tell size or hash.

    Raises:
        EntryMissing: there is none. AdvisorError: ``offline``; as ``Hub.about``.
    """
    found = record.file(name)
    if found is None:
        raise EntryMissing(name)
    if hub is not None and (found.bytes is None or (found.sha256 is None and found.git_sha1 is None)):
        about = hub.about(record.repo, record.commit, name)
        found = from_etag(found, about.size, about.etag)
    return found


def _need(hub: Hub | None, record: Record, name: str) -> Hub:
    if hub is None:
        raise AdvisorError(
            "offline",
            f"{clean(name, 120)} of {record.repo} has not been read yet, and advisor is offline.",
            data={"missing": f"{record.repo}/{name}"},
        )
    return hub


def _write(path: Path, raw: bytes) -> None:
    make_folders(path.parent)
    write_atomic(path, raw)


def _document(hub: Hub | None, record: Record, where: Path, name: str, limit: int) -> None:
    path = where / name
    if path.is_file():
        return
    asked = _need(hub, record, name)
    file = known_file(asked, record, name)
    if file.bytes is not None and file.bytes > limit:
        raise AdvisorError(
            "untrusted-model-config",
            f"{name} of {record.repo} has {file.bytes:,} bytes; at most {limit:,} are read.",
        )

    def once() -> bytes:
        return asked.open(record.repo, record.commit, name).exchange.whole(limit)

    raw = asked.trying(once, name)
    try:
        check_bytes(file, raw, record.repo)
    except AdvisorError as e:
        asked.say(Event(kind="warning", step=STEP, message=f"{e.message} It is fetched once more."))
        raw = asked.trying(once, name)
        check_bytes(file, raw, record.repo)
    _write(path, raw)


def _card(hub: Hub | None, record: Record, where: Path) -> None:
    """The beginning of the model card, for the licence; nobody needs it enough to fail for it."""
    if (where / _CARD).is_file() or hub is None:
        return
    size = (record.file(_CARD) or RemoteFile(path=_CARD)).bytes
    stop = folder.MAX_CARD_BYTES if size is None else min(size, folder.MAX_CARD_BYTES)
    try:
        raw = hub.part(record.repo, record.commit, _CARD, 0, stop) if stop else b""
    except (AdvisorError, EntryMissing) as e:
        if isinstance(e, AdvisorError) and e.code == "interrupted":
            raise
        return
    _write(where / _CARD, raw)


def _whole_size(where: Path, record: Record, name: str) -> int | None:
    found = record.file(name)
    if found is not None and found.bytes is not None:
        return found.bytes
    kept = where / f"{name}.size"
    try:
        return int(kept.read_text())
    except (OSError, ValueError):
        return None


def _header(hub: Hub | None, record: Record, where: Path, name: str) -> None:
    """Read the header of a weight file and keep the bytes it took."""
    path = where / name
    if path.is_file():
        return
    if not usable(name):
        check_names([name])
    asked = _need(hub, record, name)
    file = known_file(asked, record, name)
    if file.bytes is None:
        raise AdvisorError("integrity", f"The hub does not say how large {clean(name, 120)} of {record.repo} is.")
    asked.say(Event(kind="note", step=STEP, message=f"reading the header of {clean(name, 120)}"))
    prefix = Prefix(file.bytes, lambda start, stop: asked.part(record.repo, record.commit, name, start, stop))
    reader: Any = gguf.read_header_from if name.lower().endswith(".gguf") else safetensors.read_header_from
    shown = clean(name.rpartition("/")[2])
    reader(prefix, file.bytes, shown)
    _write(path, prefix.held)
    kept = record.file(name)
    if kept is None or kept.bytes is None:
        _write(where / f"{name}.size", str(file.bytes).encode())
