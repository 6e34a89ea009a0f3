"""What the cache holds and what of it can go: everything in it can be fetched or made again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from advisor.api.context import load_settings
from advisor.facts.reports import CachePart, CacheReport

if TYPE_CHECKING:
    from advisor.execute.store import Store
    from advisor.settings import Settings

_WORDS: Final = {
    "fetch": "fetched models",
    "hub": "fetched models",
    "convert": "16-bit GGUF files",
    "restore": "16-bit checkpoints",
    "quantize": "quantized models",
    "imatrix": "importance matrices",
}


class _Part(NamedTuple):
    """``removable``: paths that ``gc`` takes away; ``unused``: more of them for ``--unused``."""

    what: str
    paths: tuple[Path, ...]
    removable: tuple[Path, ...] = ()


def cache_info(*, settings: Settings | None = None) -> CacheReport:
    """What the cache holds, by kind, in bytes; nothing is changed.

    Raises:
        AdvisorError: ``not-writable`` where the cache cannot be read.
    """
    s = load_settings(settings)
    parts = _parts(s)
    return CacheReport(path=str(s.paths.cache), parts=tuple(_told(p) for p in parts), freed_bytes=None)


def cache_gc(*, unused: bool = False, dry_run: bool = False, settings: Settings | None = None) -> CacheReport:
    """Remove what killed runs left, damaged artifacts and unfinished transfers.

    What another run is working on stays, and so does what a deployment serves.

    Args:
        unused: remove also every artifact that no deployment serves.
        dry_run: only tell.

    Raises:
        AdvisorError: ``not-writable``.
    """
    from advisor.execute.disk import remove_tree, tree_bytes
    from advisor.execute.store import Store

    s = load_settings(settings)
    store = Store(s.paths.store)
    doomed = [*store.leftovers(), *_partial(store)]
    if unused:
        doomed += _unused(s, store)
    told = CachePart(what="removed", items=len(doomed), bytes=sum(tree_bytes(p) for p in doomed))
    if not dry_run:
        for path in doomed:
            remove_tree(path)
    return CacheReport(
        path=str(s.paths.cache),
        parts=tuple(_told(p) for p in _parts(s)),
        freed_bytes=told.bytes,
        removed=tuple(sorted(p.name for p in doomed)),
        dry_run=dry_run,
    )


def _parts(settings: Settings) -> list[_Part]:
    from advisor.execute.store import Store

    store = Store(settings.paths.store)
    kinds: dict[str, list[Path]] = {}
    for entry in store.entries():
        kind = entry.key.rsplit("-", 1)[0]
        kinds.setdefault(_WORDS.get(kind, f"{kind} results"), []).append(Path(entry.path))
    found = [_Part(what, tuple(paths)) for what, paths in sorted(kinds.items())]
    found.append(_Part("unfinished transfers", tuple(_partial(store, free=False))))
    found.append(_Part("left by killed runs, or damaged", tuple(store.leftovers())))
    envs = settings.paths.envs
    if envs.is_dir():
        found.append(
            _Part("environments", tuple(sorted(p for p in envs.iterdir() if p.is_dir() and p.name != "locks")))
        )
    return [p for p in found if p.paths]


def _told(part: _Part) -> CachePart:
    from advisor.execute.disk import tree_bytes

    return CachePart(what=part.what, items=len(part.paths), bytes=sum(tree_bytes(p) for p in part.paths))


def _partial(store: Store, *, free: bool = True) -> list[Path]:
    """Partial files of transfers; with ``free`` only of those that nobody is at work on."""
    folder = store.root / "partial"
    if not folder.is_dir():
        return []
    return [p for p in sorted(folder.iterdir()) if p.is_dir() and not (free and store.is_busy(p.name))]


def _unused(settings: Settings, store: Store) -> list[Path]:
    """Artifacts of which no deployment serves a file, and that nobody is at work on."""
    from advisor.api.serving import manager

    live = manager(settings).list()
    served = [Path(d.artifact).resolve() for d in live if d.artifact]
    return [
        Path(e.path)
        for e in store.entries()
        if not store.is_busy(e.key) and not any(f.is_relative_to(Path(e.path).resolve()) for f in served)
    ]
