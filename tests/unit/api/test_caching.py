"""The cache is told by kind; a collection takes what is left over and never what is in use."""

from __future__ import annotations

from pathlib import Path

from advisor import api, settings
from advisor.execute.store import Store


def store_with_something() -> tuple[Store, Path]:
    store = Store(settings.load().paths.store)

    def build(tmp: Path) -> dict[str, str]:
        (tmp / "model.gguf").write_bytes(b"x" * 5000)
        return {}

    folder, _ = store.make(store.key("quantize", {"n": 1}), build)
    return store, folder


def test_an_empty_cache_holds_nothing() -> None:
    assert api.cache_info().parts == ()
    assert api.cache_gc().removed == ()


def test_leftovers_go_and_artifacts_stay() -> None:
    store, folder = store_with_something()
    dead = store.root / "tmp" / f"{folder.name}.nobody.1.1.abcd"
    part = store.root / "partial" / "hub-0"
    damaged = store.root / "quarantine" / "quantize-0.abcd"
    for path in (part, damaged):
        path.mkdir(parents=True)
        (path / "file").write_bytes(b"y" * 3000)
    told = {p.what: p for p in api.cache_info().parts}
    assert told["quantized models"].items == 1
    assert told["quantized models"].bytes >= 5000
    assert told["unfinished transfers"].bytes >= 3000
    would = api.cache_gc(dry_run=True)
    assert would.dry_run
    assert would.freed_bytes is not None
    assert would.freed_bytes >= 6000
    assert part.is_dir()
    gone = api.cache_gc()
    assert set(gone.removed) == {"hub-0", "quantize-0.abcd"}
    assert gone.freed_bytes == would.freed_bytes
    assert not part.exists()
    assert not damaged.exists()
    assert not dead.exists()
    assert folder.is_dir()


def test_what_somebody_is_at_work_on_stays() -> None:
    store, folder = store_with_something()
    with store.work(folder.name):
        assert api.cache_gc(unused=True).removed == ()
    assert folder.is_dir()
    assert api.cache_gc(unused=True).removed == (folder.name,)
    assert not folder.exists()
