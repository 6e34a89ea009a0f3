from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.errors import AdvisorError
from advisor.events import Cancel, Event
from advisor.execute import locks, owner
from advisor.execute.store import MANIFEST, Store
from tests.support.faults import fail_nth


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def put(store: Store, key: str, content: bytes = b"weights", name: str = "model.gguf") -> Path:
    with store.work(key) as tmp:
        (tmp / "sub").mkdir()
        (tmp / "sub" / name).write_bytes(content)
        return store.publish(tmp, key, {"seconds": 1.5})


def test_published_artifact_is_found_with_its_manifest(store: Store) -> None:
    key = store.key("quantize", {"source": "abc"}, params={"format": "q4_k_m"}, tool="cyllama 0.2.18")
    assert store.find(key) is None
    path = put(store, key)
    assert store.find(key) == path == store.find(key, verify=True)
    assert store.manifest(path) == {"seconds": 1.5}
    (stored,) = store.record(path).files
    assert (stored.path, stored.bytes) == ("sub/model.gguf", 7)
    assert [e.key for e in store.entries()] == [key]
    assert not list((store.root / "tmp").iterdir())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=6), json_values, max_size=5))
def test_key_ignores_order_and_sees_every_change(inputs: dict[str, object]) -> None:
    store = Store(Path("unused"))
    key = store.key("convert", inputs)
    assert key == store.key("convert", dict(reversed(inputs.items())))
    others = {
        store.key("convert", {**inputs, "another input": 1}),
        store.key("convert", inputs, params={"a": 1}),
        store.key("convert", inputs, tool="t"),
        store.key("convert", inputs, platform="p"),
        store.key("quantize", inputs),
    }
    assert len(others) == 5
    assert key not in others


@pytest.mark.parametrize("bad", ["../x", "quantize-zz", "", "quantize-" + "0" * 31, "a/b-" + "0" * 32])
def test_keys_cannot_leave_the_store(store: Store, bad: str) -> None:
    with pytest.raises(ValueError, match="not an artifact key"):
        store.path(bad)
    with pytest.raises(ValueError, match="not an artifact kind"):
        store.key("../" + bad, {})


def events_of(root: Path) -> tuple[Store, list[Event]]:
    events: list[Event] = []
    return Store(root, reporter=events.append), events


@pytest.mark.parametrize("damage", ["shorter", "gone", "flipped", "manifest", "no manifest", "renamed"])
def test_damaged_artifact_is_set_aside_and_counts_as_absent(tmp_path: Path, damage: str) -> None:
    store, events = events_of(tmp_path / "store")
    key = store.key("convert", {})
    path = put(store, key)
    model = path / "sub" / "model.gguf"
    if damage == "shorter":
        model.write_bytes(b"weigh")
    elif damage == "gone":
        model.unlink()
    elif damage == "flipped":
        model.write_bytes(b"Weights")
        os.utime(model, ns=(0, 0))
    elif damage == "manifest":
        (path / MANIFEST).write_bytes(b"{}")
    elif damage == "no manifest":
        (path / MANIFEST).unlink()
    else:
        other = store.key("convert", {"another": 1})
        path.rename(path.parent / other)
        key = other
    assert store.find(key) is None
    assert [e.kind for e in events] == ["warning"]
    assert not path.exists() or damage == "renamed"
    assert len(list((store.root / "quarantine").iterdir())) == 1
    assert put(store, key) == store.find(key)
    assert len(store.gc().removed) == 1


def test_silent_bit_flip_is_found_by_verify_only(store: Store) -> None:
    key = store.key("convert", {})
    model = put(store, key) / "sub" / "model.gguf"
    before = model.stat()
    model.write_bytes(b"Weights")
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert store.find(key) is not None
    assert store.find(key, verify=True) is None


def test_moved_times_alone_are_accepted_once_hashed(store: Store) -> None:
    key = store.key("convert", {})
    path = put(store, key)
    os.utime(path / "sub" / "model.gguf", ns=(5, 5))
    assert store.find(key) == path
    assert store.record(path).files[0].mtime_ns == 5


def test_unpublished_work_leaves_nothing(store: Store) -> None:
    key = store.key("convert", {})
    with pytest.raises(RuntimeError), store.work(key) as tmp:
        (tmp / "half").write_bytes(b"x")
        raise RuntimeError
    assert store.find(key) is None
    assert not list((store.root / "tmp").iterdir())


def test_links_are_refused(store: Store) -> None:
    key = store.key("convert", {})
    with pytest.raises(AdvisorError) as e, store.work(key) as tmp:
        (tmp / "link").symlink_to("/etc/passwd")
        store.publish(tmp, key, {})
    assert e.value.code == "artifact-invalid"
    assert store.find(key) is None


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize(
    ("call", "n"), [("os.replace", 1), ("os.replace", 2), ("advisor.execute.store.write_atomic", 1)]
)
def test_full_disk_is_named_and_leaves_the_store_intact(store: Store, error: int, call: str, n: int) -> None:
    old = store.key("convert", {"old": 1})
    put(store, old)
    key = store.key("convert", {})
    with fail_nth(call, n, error) as calls, pytest.raises(AdvisorError) as e:
        put(store, key)
    assert calls() >= n
    assert e.value.code == "disk-full"
    assert e.value.exit_code == 5
    assert str(store.root) in e.value.message
    assert store.find(key) is None
    assert store.find(old, verify=True) is not None
    assert not list((store.root / "tmp").iterdir())


@pytest.mark.parametrize("error", [errno.EACCES, errno.EROFS])
def test_unwritable_store_is_named(store: Store, error: int) -> None:
    with fail_nth("os.mkdir", 1, error), pytest.raises(AdvisorError) as e:
        put(store, store.key("convert", {}))
    assert e.value.code == "not-writable"


def test_make_builds_once_even_from_two_threads(store: Store) -> None:
    key, built = store.key("convert", {}), []
    got: list[tuple[Path, bool]] = []

    def build(tmp: Path) -> dict[str, object]:
        built.append(tmp)
        time.sleep(0.05)
        (tmp / "f").write_bytes(b"1")
        return {}

    threads = [threading.Thread(target=lambda: got.append(store.make(key, build))) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(built) == 1
    assert sorted(reused for _, reused in got) == [False, True, True]


def test_without_locks_work_is_done_twice_but_never_wrong(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(fd: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", no_locks)
    key = store.key("convert", {})
    with store.work(key) as first, store.work(key) as second:
        (first / "f").write_bytes(b"same")
        (second / "f").write_bytes(b"same")
        one = store.publish(first, key, {"by": 1})
        two = store.publish(second, key, {"by": 2})
    assert one == two == store.find(key, verify=True)
    assert store.manifest(one) == {"by": 1}


def test_publishing_over_a_damaged_artifact_replaces_it(store: Store) -> None:
    key = store.key("convert", {})
    path = put(store, key)
    with store.work(key) as tmp:
        (path / "sub" / "model.gguf").unlink()
        (tmp / "f").write_bytes(b"new")
        store.publish(tmp, key, {})
    assert (path / "f").read_bytes() == b"new"


def test_waiting_for_the_lock_can_be_cancelled(store: Store) -> None:
    key, cancel = store.key("convert", {}), Cancel()
    cancel.set()
    with store.work(key), pytest.raises(AdvisorError) as e, store.work(key, cancel):
        pass
    assert e.value.code == "interrupted"


def test_gc_takes_the_work_of_the_dead_and_leaves_that_of_the_living(store: Store) -> None:
    key = store.key("convert", {})
    root = store.root / "tmp"
    dead = root / f"{key}.{owner.kernel()}.{os.getpid()}.1.abcd"  # a PID that was given to us since
    stranger = root / f"{key}.aaaaaaaaaaaa.1.1.abcd"
    old_stranger = root / f"{key}.bbbbbbbbbbbb.1.1.abcd"
    for folder in (dead, stranger, old_stranger):
        folder.mkdir(parents=True)
        (folder / "f").write_bytes(b"12345678" * 1000)
    past = time.time() - 3 * 24 * 3600
    for p in (old_stranger / "f", old_stranger):
        os.utime(p, (past, past))
    with store.work(key) as mine:
        collected = store.gc()
        assert mine.is_dir()
        assert stranger.is_dir()
        # Its key is being worked on, maybe over there.
        assert old_stranger.is_dir()
    assert collected.removed == (dead.name,)
    assert collected.freed_bytes > 0
    assert store.gc().removed == (old_stranger.name,)


def test_removed_artifact_is_gone_and_removing_twice_is_fine(store: Store) -> None:
    key = store.key("convert", {})
    put(store, key)
    store.remove(key)
    store.remove(key)
    assert store.find(key) is None
    assert not list((store.root / "tmp").iterdir())


def test_store_in_a_path_with_odd_names(tmp_path: Path) -> None:
    store = Store(tmp_path / "with 'quotes' and ünïcode" / ("x" * 120))
    key = store.key("convert", {})
    assert put(store, key) == store.find(key, verify=True)


def test_restrictive_umask_works(store: Store) -> None:
    old = os.umask(0o077)
    try:
        assert put(store, store.key("convert", {})).is_dir()
    finally:
        os.umask(old)
