"""Facts from headers, kept for later; files into the store, resumed and checked."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from advisor.errors import AdvisorError
from advisor.events import Cancel, Event
from advisor.execute.hub import fetch, metadata
from advisor.execute.hub.access import Access
from advisor.execute.hub.client import Hub
from advisor.model.hubref import HubRef
from tests.support.fake_hub import FakeHub
from tests.support.fake_hub_models import CONFIG, QUICK, checkpoint, gguf, no_tokens
from tests.unit.execute.hub_bench import Bench


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    no_tokens(monkeypatch, tmp_path)
    with FakeHub() as server:
        yield Bench(server, tmp_path)


def same(folder: Path, source: Path, *names: str) -> None:
    for name in names or [p.name for p in source.iterdir()]:
        assert (folder / name).read_bytes() == (source / name).read_bytes(), name


def test_facts_are_those_of_the_headers(bench: Bench) -> None:
    repo = bench.add(shards=3)
    f = bench.facts()
    total = sum(p.stat().st_size for p in (bench.tmp / "me-Tiny").glob("*.safetensors"))
    commit = repo.branches["main"]
    assert (f.kind, f.name, f.ref, f.revision, f.path) == ("hub", "me/Tiny", f"me/Tiny@{commit}", commit, None)
    assert (f.weights_format, f.weights_bytes, f.confidence, f.license) == ("safetensors", total, "exact", "apache-2.0")
    assert f.chat_template is True
    assert str(bench.tmp) not in f.dumps().decode()


def test_headers_only_are_read_of_large_weights(bench: Bench) -> None:
    bench.add(ff=40_000)
    weights = (bench.tmp / "me-Tiny" / "model.safetensors").stat().st_size
    assert weights > 25 << 20
    assert bench.facts().weights_bytes == weights
    assert bench.server.sent < 3 << 20
    assert fetch.find(bench.store, bench.known()[0]) is None


def test_gguf_files(bench: Bench) -> None:
    folder = bench.tmp / "quants"
    gguf(folder / "small-Q8_0.gguf", types="q8_0")
    gguf(folder / "small-F16.gguf")
    gguf(folder / "mmproj-small.gguf")
    bench.server.add("me/Tiny-GGUF", folder)
    e = bench.refused("me/Tiny-GGUF")
    assert (e.code, e.hint) == ("model-not-found", "advisor recommend hf:me/Tiny-GGUF/small-F16.gguf")
    assert "2 GGUF models" in e.message
    f = bench.facts("hf:me/Tiny-GGUF/small-Q8_0.gguf")
    assert (f.weights_format, f.weights_dtype, f.path) == ("gguf", "q8_0", None)
    assert f.weights_bytes == (folder / "small-Q8_0.gguf").stat().st_size
    assert f.ref.startswith("hf:me/Tiny-GGUF@")
    assert bench.facts(f.ref) == f
    path, reused = bench.fetch("hf:me/Tiny-GGUF/small-Q8_0.gguf")
    assert not reused
    assert [p.name for p in path.iterdir()] == ["small-Q8_0.gguf"]
    same(path, folder, "small-Q8_0.gguf")
    e = bench.refused("hf:me/Tiny-GGUF/small-Q9_0.gguf")
    assert '"small-Q8_0.gguf"' in e.message


def test_a_missing_part_is_named(bench: Bench) -> None:
    folder = bench.tmp / "split"
    gguf(folder / "m-00001-of-00003.gguf")
    gguf(folder / "m-00003-of-00003.gguf")
    bench.server.add("me/Split", folder)
    for text in ("me/Split", "hf:me/Split/m-00001-of-00003.gguf"):
        e = bench.refused(text)
        assert (e.code, e.exit_code, e.data["missing"]) == ("missing-part", 4, ["m-00002-of-00003.gguf"])


def test_a_missing_shard_is_named(bench: Bench) -> None:
    folder = checkpoint(bench.tmp / "gap", shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    bench.server.add("me/Gap", folder)
    e = bench.refused("me/Gap")
    assert (e.code, e.data["missing"]) == ("missing-part", ["model-00002-of-00003.safetensors"])
    assert str(bench.tmp) not in e.message


def test_pickles_and_code_are_refused_unread(bench: Bench) -> None:
    folder = checkpoint(bench.tmp / "pickled")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    bench.server.add("me/Pickled", folder)
    e = bench.refused("me/Pickled")
    assert (e.code, e.exit_code) == ("pickle-refused", 7)
    assert "me/Pickled" in e.message
    code = checkpoint(bench.tmp / "code")
    (code / "config.json").write_text(json.dumps({**CONFIG, "auto_map": {"AutoModel": "modeling_x.X"}}))
    (code / "modeling_x.py").write_text("boom")
    bench.server.add("me/Code", code)
    e = bench.refused("me/Code")
    assert (e.code, e.exit_code) == ("remote-code-refused", 7)
    assert "modeling_x.py" in e.message
    assert str(bench.tmp) not in f"{e.message}{e.hint}"
    assert not any(name in s.path for s in bench.server.seen for name in ("pytorch_model.bin", "modeling_x.py"))


def test_the_header_wins_over_the_name(bench: Bench) -> None:
    bench.server.add("me/Big-70B", checkpoint(bench.tmp / "big"))
    f = bench.facts("me/Big-70B")
    assert f.params < 10**6
    assert any(n.startswith("mismatch") and "70" in n for n in f.notes)


def test_a_renamed_model(bench: Bench) -> None:
    bench.add()
    bench.server.rename("me/Tiny", "us/Small")
    f = bench.facts("me/Tiny")
    assert f.name == "us/Small"
    assert f.ref.startswith("us/Small@")
    assert "renamed: me/Tiny is us/Small now" in f.notes
    record = bench.library.find(HubRef("me/Tiny"))
    assert record is not None
    assert record.repo == "us/Small"


def test_a_hub_that_tells_neither_sizes_nor_hashes_of_all_files(bench: Bench) -> None:
    bench.add()
    bench.server.blobs = False
    f = bench.facts()
    assert f.weights_bytes == (bench.tmp / "me-Tiny" / "model.safetensors").stat().st_size
    path, _ = bench.fetch()
    manifest = bench.store.manifest(path.parent)
    assert all(x["checked"] for x in manifest["files"].values())
    bench.server.etags = False
    bench.add("me/Other", seed=7)
    path, _ = bench.fetch("me/Other")
    same(path, bench.tmp / "me-Other", "model.safetensors")
    assert any(e.kind == "warning" and "could not be compared" in e.message for e in bench.told)


def test_fetched_files_are_those_of_the_repository(bench: Bench) -> None:
    repo = bench.add(shards=2)
    source = bench.tmp / "me-Tiny"
    for name in ("pytorch_model.bin", "evil.py", "picture.png"):
        (source / name).write_bytes(b"x" * 10)
    (source / "onnx").mkdir()
    (source / "onnx" / "model.safetensors").write_bytes(b"y" * 10)
    (source / "LICENSE").write_text("free")
    repo.commit()
    path, reused = bench.fetch()
    assert not reused
    names = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
    assert names == {p.name for p in source.iterdir() if p.is_file()} - {"pytorch_model.bin", "evil.py", "picture.png"}
    same(path, source, *names)
    manifest = bench.store.manifest(path.parent)
    assert manifest["revision"] == repo.branches["main"]
    assert manifest["source"] == f"me/Tiny@{repo.branches['main']}"
    assert manifest["files"]["LICENSE"]["checked"]
    sent = bench.server.sent
    assert bench.fetch() == (path, True)
    assert bench.server.sent - sent < 20_000, "only the description is asked for again"
    assert not (bench.store.root / "partial").exists() or not list((bench.store.root / "partial").iterdir())
    local = metadata.facts(*bench.known(), local=path)
    assert local.path == str(path)
    assert local.weights_bytes == bench.facts().weights_bytes


def test_progress_is_told_in_bytes(bench: Bench) -> None:
    bench.add(ff=10_000)
    bench.server.pause = 0.01
    bench.fetch()
    steps = [e for e in bench.told if e.kind == "progress"]
    assert steps[-1].done == steps[-1].total
    assert steps[0].unit == "bytes"
    assert [e.done for e in steps] == sorted(e.done or 0 for e in steps)
    assert any(e.seconds_left for e in steps)


def cdn(server: FakeHub, **fault: Any) -> None:
    """A fault of the store of large files."""
    server.fault(lambda s: s.host == "cdn" and s.method == "GET", **fault)


@pytest.mark.parametrize("cut", [0, 1, 100_000, 3_000_000])
def test_cut_connections_are_continued(bench: Bench, cut: int) -> None:
    bench.add(ff=20_000)
    bench.known()
    cdn(bench.server, cut_after=cut, times=3)
    path, _ = bench.fetch()
    same(path, bench.tmp / "me-Tiny")
    starts = [s.start for s in bench.server.seen if s.host == "cdn"][1:]
    assert starts == sorted(starts, key=lambda s: s or 0)
    if cut > 1:
        assert len({s for s in starts if s}) == 3, "every new connection asks for what is missing only"


def test_a_server_that_ignores_ranges_starts_the_file_anew(bench: Bench) -> None:
    bench.add(ff=20_000)
    bench.known()
    cdn(bench.server, cut_after=2_000_000, times=1)
    cdn(bench.server, ignore_range=True)
    path, _ = bench.fetch()
    same(path, bench.tmp / "me-Tiny")
    assert any(s.start for s in bench.server.seen if s.host == "cdn"), "the rest was asked for, and all was sent"


def test_a_server_that_never_gets_further_is_given_up(bench: Bench) -> None:
    bench.add(ff=20_000)
    bench.known()
    cdn(bench.server, cut_after=500_000, ignore_range=True)
    with pytest.raises(AdvisorError) as e:
        bench.fetch()
    assert (e.value.code, e.value.data["retryable"]) == ("network", True)


@pytest.mark.parametrize("fault", [{"stall_after": 100_000}, {"trickle": 0.02}])
def test_stalls_and_trickles_are_left_and_continued(bench: Bench, fault: dict[str, Any]) -> None:
    bench.add(ff=5_000)
    bench.known()
    cdn(bench.server, times=1, **fault)
    path, _ = bench.fetch()
    same(path, bench.tmp / "me-Tiny")


def test_wrong_bytes_are_set_aside_and_fetched_once_more(bench: Bench) -> None:
    bench.add()
    bench.known()
    cdn(bench.server, corrupt=True, times=1)
    path, _ = bench.fetch()
    same(path, bench.tmp / "me-Tiny")
    assert len(list((bench.store.root / "quarantine").iterdir())) == 1
    assert any(e.kind == "warning" and "set aside" in e.message for e in bench.told)


def test_wrong_bytes_twice_are_an_error(bench: Bench) -> None:
    bench.add()
    bench.known()
    cdn(bench.server, corrupt=True)
    with pytest.raises(AdvisorError) as e:
        bench.fetch()
    assert (e.value.code, e.value.exit_code) == ("integrity", 7)
    assert e.value.data["file"] == "model.safetensors"
    assert bench.store.entries() == ()
    assert len([s for s in bench.server.seen if s.host == "cdn"]) == 3, "the header, and the file twice"


def test_a_wrong_small_file_is_found_too(bench: Bench) -> None:
    bench.add()
    bench.server.fault("/config.json", corrupt=True)
    e = bench.refused()
    assert (e.code, e.data["file"]) == ("integrity", "config.json")


def test_an_interrupted_fetch_is_continued(bench: Bench) -> None:
    bench.add(ff=20_000)
    bench.known()
    bench.server.pause = 0.02

    def stop(event: Event) -> None:
        if event.kind == "progress" and (event.done or 0) > 1_000_000:
            bench.cancel.set()

    hub = Hub(Access(bench.server.endpoint), patience=QUICK, reporter=stop, cancel=bench.cancel)
    with pytest.raises(AdvisorError) as e:
        fetch.fetch(hub, bench.store, bench.known()[0])
    assert e.value.code == "interrupted"
    assert bench.store.entries() == ()
    bench.server.pause = 0
    bench.cancel = Cancel()
    path, _ = bench.fetch()
    same(path, bench.tmp / "me-Tiny")
    last = [s for s in bench.server.seen if s.host == "cdn"][-1]
    assert (last.start or 0) > 1_000_000


def test_a_branch_that_moves_between_reading_and_fetching(bench: Bench) -> None:
    repo = bench.add()
    known, _ = bench.known()
    old = (bench.tmp / "me-Tiny" / "config.json").read_bytes()
    (bench.tmp / "me-Tiny" / "generation_config.json").write_text('{"new": 1}')
    moved = repo.commit()
    assert moved != known.record.commit
    # The old revision is gone with its contents: what was planned is not silently replaced by something else.
    del repo.commits[known.record.commit]
    with pytest.raises(AdvisorError) as e:
        fetch.fetch(bench.hub, bench.store, known)
    assert (e.value.code, e.value.exit_code) == ("model-not-found", 4)
    assert known.record.commit in e.value.message
    assert (bench.tmp / "me-Tiny" / "config.json").read_bytes() == old
    path, _ = bench.fetch()
    assert bench.store.manifest(path.parent)["revision"] == moved


def test_too_little_disk_is_refused_first(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.add(ff=20_000)
    known, _ = bench.known()
    monkeypatch.setattr("advisor.execute.preflight.free_bytes", lambda _: 1000)
    asked = len(bench.server.seen)
    with pytest.raises(AdvisorError) as e:
        fetch.fetch(bench.hub, bench.store, known)
    assert (e.value.code, e.value.exit_code) == ("disk-full", 5)
    assert len(bench.server.seen) == asked


def test_a_file_damaged_later_is_fetched_again(bench: Bench) -> None:
    bench.add()
    path, _ = bench.fetch()
    raw = bytearray((path / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (path / "model.safetensors").write_bytes(raw)
    again, reused = bench.fetch()
    assert not reused
    same(again, bench.tmp / "me-Tiny")


def test_partial_files_that_nobody_came_back_for_go(bench: Bench) -> None:
    bench.add()
    old, recent, future = (bench.store.root / "partial" / name for name in ("old", "recent", "future"))
    now = time.time()
    for folder, when in ((old, now - 15 * 86400), (recent, now - 86400), (future, now + 300 * 86400)):
        folder.mkdir(parents=True)
        (folder / "x.part").write_bytes(b"x")
        for path in (folder / "x.part", folder):
            os.utime(path, (when, when))
    bench.fetch()
    assert (old.exists(), recent.exists(), future.exists()) == (False, True, True)
