"""Ready-made quantized artifacts of a model: who published which format, how large it is, and where it lies.

Found by the hub's own relation (``base_model:quantized:ID``) and by the usual name (``NAME-GGUF``). Looking takes a few
seconds at most; what was found is kept for a day.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from advisor.errors import AdvisorError
from advisor.execute.disk import make_folders, write_atomic
from advisor.execute.hub.access import Patience
from advisor.execute.hub.client import EntryMissing, Hub
from advisor.execute.hub.record import Library, Record, from_information, slug
from advisor.facts.base import Shape, loads
from advisor.facts.words import GGUF_FORMATS
from advisor.model import quantized
from advisor.model.gguf_facts import part_names
from advisor.model.jsonfile import MAX_CONFIG_BYTES, parse
from advisor.model.paths import check_name

# One question, no second try: a plan without ready-made artifacts is a plan, too.
PATIENCE: Final = Patience(reply_s=4.0, window_s=4.0, document_s=4.0, tries=1)
DEADLINE_S: Final = 8.0
_MOST: Final = 5  # repositories that are looked into
_KEPT_S: Final = 24 * 3600.0
_TYPE: Final = re.compile(r"[-._](i?q\d(?:_[0-9a-z]+)*|bf16|f16|mxfp4)(?:-\d{5}-of-\d{5})?\.gguf$", re.IGNORECASE)
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


class Variant(Shape, frozen=True, kw_only=True):
    """One artifact. ``ref`` names it with its commit; ``own``: it is by the publisher of the model itself."""

    ref: str
    repo: str
    publisher: str
    own: bool
    method: str
    format: str
    bytes: int
    downloads: int | None = None
    license: str | None = None
    gated: bool = False


class Found(Shape, frozen=True, kw_only=True):
    """What a search brought, as it is kept."""

    schema: str
    variants: tuple[Variant, ...]


def look(hub: Hub, library: Library, model: Record) -> tuple[Variant, ...]:
    """The ready-made artifacts of a model, the publisher's own first, then by downloads. Never fails: what could not be
    asked in time is left out.

    Raises:
        AdvisorError: ``interrupted``.
    """
    kept = library.root / slug(model.repo) / "variants.json"
    with suppress(OSError, msgspec.MsgspecError):
        # A file from the future is as old as one from yesterday: the clock was moved.
        if 0 <= time.time() - kept.stat().st_mtime < _KEPT_S:
            found = loads(Found, kept.read_bytes())
            if found.schema == "advisor/variants/v1":
                return found.variants
    deadline = time.monotonic() + DEADLINE_S
    out: list[Variant] = []
    complete = True
    for repo in _repositories(hub, model.repo):
        if time.monotonic() > deadline:
            complete = False
            break
        try:
            record = from_information(hub.information(repo, None), repo, hub.access.endpoint)
            out += _gguf(record, model) or _checkpoint(hub, record, model)
        except AdvisorError as e:
            if e.code == "interrupted":
                raise
            complete = complete and e.code != "network"
        except EntryMissing:
            continue
    out.sort(key=lambda v: (not v.own, -(v.downloads or 0), v.ref))
    variants = tuple(out)
    if complete:
        with suppress(AdvisorError, OSError):
            make_folders(kept.parent)
            write_atomic(kept, Found(schema="advisor/variants/v1", variants=variants).dumps())
    return variants


def _repositories(hub: Hub, repo: str) -> list[str]:
    """Repositories to look into."""
    owner = repo.partition("/")[0].lower()
    query = urlencode({"filter": f"base_model:quantized:{repo}", "sort": "downloads", "direction": "-1", "limit": "50"})
    names: list[str] = []
    try:
        answer = hub.json(f"{hub.access.endpoint}/api/models?{query}", repo)
    except AdvisorError as e:
        if e.code == "interrupted":
            raise
        answer = []
    for item in answer if isinstance(answer, list) else []:
        name = item.get("id") if isinstance(item, dict) else None
        if isinstance(name, str) and _ID.fullmatch(name):
            names.append(name)
    names.sort(key=lambda n: n.partition("/")[0].lower() != owner)  # stable: by downloads otherwise
    usual = f"{repo}-GGUF"
    return list(dict.fromkeys([*(n for n in names if n.lower() == usual.lower()), *names]))[:_MOST] or [usual]


def _variant(record: Record, model: Record, method: str, fmt: str, size: int, file: str | None) -> Variant:
    at = f"{record.repo}@{record.commit}"
    return Variant(
        ref=f"hf:{at}/{file}" if file else at,
        repo=record.repo,
        publisher=record.publisher,
        own=record.publisher.lower() == model.publisher.lower() != "",
        method=method,
        format=fmt,
        bytes=size,
        downloads=record.downloads,
        license=record.license,
        gated=record.gated,
    )


def _gguf(record: Record, model: Record) -> list[Variant]:
    sizes = {f.path: f.bytes for f in record.files if f.path.lower().endswith(".gguf")}
    out: dict[str, Variant] = {}
    for path in sorted(sizes):
        named = _TYPE.search(path)
        fmt = named[1].lower() if named else ""
        if fmt not in GGUF_FORMATS or "mmproj" in path.lower() or fmt in out:
            continue
        with suppress(AdvisorError):
            check_name(path)
            parts = [p.as_posix() for p in part_names(Path(path))]
            known = [sizes.get(p) for p in parts]
            if all(known):
                out[fmt] = _variant(record, model, "gguf", fmt, sum(n or 0 for n in known), parts[0])
    return list(out.values())


def _checkpoint(hub: Hub, record: Record, model: Record) -> list[Variant]:
    """A quantized checkpoint, by what its configuration says of itself."""
    weights = [f.bytes for f in record.files if f.path.endswith(".safetensors") and "/" not in f.path]
    if record.file("config.json") is None or not weights or not all(weights):
        return []
    raw = hub.trying(
        lambda: hub.open(record.repo, record.commit, "config.json").exchange.whole(MAX_CONFIG_BYTES), "config.json"
    )
    config = parse(raw, code="untrusted-model-config", what="config.json")
    said = config.get("quantization_config") if isinstance(config, dict) else None
    kind = kind_of(said, record.repo) if isinstance(said, dict) else None
    if kind is None:
        return []
    return [_variant(record, model, *kind, sum(n or 0 for n in weights), None)]


def kind_of(said: dict[str, Any], name: str) -> tuple[str, str] | None:
    """Method and format of a ``quantization_config``; ``None`` for one that has no word here.

    What compressed-tensors does not tell, which algorithm chose 4-bit codes, the repository's name may.
    """
    found = quantized.read(said)
    if found.method is None or found.format is None or found.method in ("nf4", "int8"):
        return None
    if said.get("quant_method") == "compressed-tensors" and found.format.startswith("w4a16"):
        return ("awq" if "awq" in name.lower() else "gptq"), found.format
    return found.method, found.format
