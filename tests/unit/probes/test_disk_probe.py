"""The disk of the store: what it is, how fast it is read, and that nothing of the measurement is left behind."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.cost.effort import start_time
from advisor.errors import AdvisorError
from advisor.events import Cancel
from advisor.facts.machine import Storage
from advisor.facts.quantity import Quantity
from advisor.probes import disk
from advisor.probes.boot import boot_id
from advisor.probes.source import Platform
from tests.unit.probes.fake import FakeSource

MIB = 1 << 20
BOOT = {"/proc/sys/kernel/random/boot_id": "one\n"}
MOUNTS = (
    "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
    "28 27 0:40 / /srv/models rw - nfs4 host:/models rw\n"
    "29 27 0:41 / /srv/models/fast\\040one rw - tmpfs tmpfs rw\n"
    "30 27 8:17 / /data rw - xfs /dev/sdb1 rw\n"
    "31 27 8:33 / /data rw - btrfs /dev/sdc1 rw\n"
    "junk\n"
)


def small(folder: Path, **more: object) -> disk.Speed:
    """A measurement of 16 MiB."""
    return disk.measure(folder, file_bytes=16 * MIB, repeats=2, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "filesystem", "device"),
    [
        ("/home/user/.cache", "ext4", "254:0"),
        ("/srv/models/a", "nfs4", "0:40"),
        ("/srv/models", "nfs4", "0:40"),
        ("/srv/models2", "ext4", "254:0"),
        ("/srv/models/fast one/x", "tmpfs", "0:41"),
        ("/data/x", "btrfs", "8:33"),
    ],
)
def test_the_mount_of_a_path(path: str, filesystem: str, device: str) -> None:
    found = disk.mount_of(MOUNTS, path)
    assert found is not None
    assert (found.filesystem, found.device) == (filesystem, device)


@pytest.mark.parametrize(
    ("filesystem", "kind"),
    [
        ("ext4", "local"),
        ("nfs4", "network"),
        ("9p", "network"),
        ("overlay", "overlay"),
        ("tmpfs", "memory"),
        ("fuse.x", "unknown"),
        (None, "unknown"),
    ],
)
def test_kinds(filesystem: str | None, kind: str) -> None:
    assert disk.kind_of(filesystem) == kind


@pytest.mark.parametrize(
    ("files", "device", "expected"),
    [
        ({"/sys/dev/block/8:16/queue/rotational": "1\n"}, "8:16", True),
        ({"/sys/dev/block/8:17/../queue/rotational": "0\n"}, "8:17", False),
        ({"/sys/dev/block/8:17/queue/rotational": "?"}, "8:17", None),
        ({}, "0:40", None),
        ({}, "../../etc", None),
    ],
)
def test_rotational(files: dict[str, str], device: str, expected: bool | None) -> None:
    assert disk.rotational(FakeSource(files), device) is expected


def test_the_disk_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    found = disk.read_storage(tmp_path / "not" / "yet", FakeSource({"/proc/self/mountinfo": MOUNTS}))
    there = os.statvfs(tmp_path)
    assert (found.kind, found.filesystem) == ("local", "ext4")
    assert found.total_bytes == there.f_blocks * there.f_frsize
    assert found.free_bytes is not None
    assert not (tmp_path / "not").exists()


def test_a_measurement_leaves_nothing_behind(tmp_path: Path) -> None:
    found = small(tmp_path / "store")
    assert list((tmp_path / "store").iterdir()) == []
    assert found.quantity.method == "measured"
    assert 0 < found.quantity.low <= found.quantity.value <= found.quantity.high
    assert found.file_bytes == 16 * MIB


def test_a_wall_clock_that_jumps_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jumps = iter([1e9, -1e9, 5.0] * 1000)
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    found = small(tmp_path, cache_dir=tmp_path / "cache", source=FakeSource(BOOT))
    assert found.quantity.low > 0
    assert disk.cached(tmp_path / "cache", tmp_path, FakeSource(BOOT)) == found


def test_it_is_kept_for_the_boot_and_the_folder(tmp_path: Path) -> None:
    found = small(tmp_path / "a", cache_dir=tmp_path, source=FakeSource(BOOT))
    assert disk.cached(tmp_path, tmp_path / "a", FakeSource(BOOT)) == found
    assert disk.cached(tmp_path, tmp_path / "b", FakeSource(BOOT)) is None
    other = FakeSource({"/proc/sys/kernel/random/boot_id": "two\n"})
    assert disk.cached(tmp_path, tmp_path / "a", other) is None
    assert disk.cached(tmp_path, tmp_path / "a", FakeSource()) is None


def test_a_mac_names_its_boot_too() -> None:
    mac = Platform(system="Darwin", machine="arm64")
    reply = {"stdout": "kern.bootsessionuuid: 11112222-3333-4444-5555-666677778888\n", "exit": 0}
    assert boot_id(FakeSource(platform=mac, replies={"sysctl": reply})) == "11112222-3333-4444-5555-666677778888"
    assert boot_id(FakeSource(platform=mac)) == ""
    linux = FakeSource(BOOT, replies={"sysctl": reply})
    assert (boot_id(linux), linux.asked) == ("one", 0)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "\x00" * 100])
def test_a_damaged_cache_is_no_cache(tmp_path: Path, text: str) -> None:
    (tmp_path / disk.CACHE_FILE).write_text(text)
    assert disk.cached(tmp_path, tmp_path, FakeSource(BOOT)) is None


def test_absurd_kept_speeds_are_not_believed(tmp_path: Path) -> None:
    found = small(tmp_path, cache_dir=tmp_path, source=FakeSource(BOOT))
    for absurd in (-5, 0, 1 << 62):
        bad = msgspec.structs.replace(found, quantity=msgspec.structs.replace(found.quantity, value=absurd))
        (tmp_path / disk.CACHE_FILE).write_bytes(bad.dumps())
        assert disk.cached(tmp_path, tmp_path, FakeSource(BOOT)) is None


def test_without_o_direct_the_cache_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise OSError(errno.EINVAL, "no such thing here")

    monkeypatch.setattr(os, "preadv", refused)
    found = small(tmp_path)
    assert not found.direct
    assert "page cache dropped" in found.quantity.source


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, "disk-full"), (errno.EROFS, "not-writable")])
def test_a_disk_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str) -> None:
    def fails(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(AdvisorError) as caught:
        small(tmp_path)
    assert caught.value.code == code
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    little = Storage(kind="local", filesystem="ext4", total_bytes=100 * MIB, free_bytes=50 * MIB)
    monkeypatch.setattr(disk, "read_storage", lambda *_: little)
    with pytest.raises(AdvisorError) as caught:
        disk.measure(tmp_path)
    assert caught.value.code == "disk-full"
    assert list(tmp_path.iterdir()) == []


def test_it_stops_when_asked(tmp_path: Path) -> None:
    cancel = Cancel()
    cancel.set()
    with pytest.raises(AdvisorError) as caught:
        small(tmp_path, cancel=cancel)
    assert caught.value.code == "interrupted"
    assert list(tmp_path.iterdir()) == []


def test_the_measured_disk_predicts_the_start() -> None:
    size = 40e9
    unknown = start_time("llama.cpp", size)
    read = Quantity(value=100_000_000, low=80_000_000, high=120_000_000, unit="bytes/s", method="measured", source="x")
    slow = Storage(kind="local", filesystem="ext4", total_bytes=None, free_bytes=None, read=read)
    known = start_time("llama.cpp", size, slow)
    assert known.value == pytest.approx(1.5 + 400)
    assert known.high == pytest.approx(6 + 500)
    # What was just written may be in the page cache.
    assert known.low == unknown.low
    assert known.value > unknown.value
    assert "measured" in known.source
    fast = msgspec.structs.replace(slow, read=msgspec.structs.replace(read, value=10**10, low=10**10, high=10**10))
    assert start_time("llama.cpp", size, fast).high < unknown.high
    assert start_time("llama.cpp", size, msgspec.structs.replace(slow, read=None)) == unknown


@settings(deadline=None)
@given(st.text(max_size=300), st.text(max_size=40))
def test_mounts_never_raise(text: str, path: str) -> None:
    found = disk.mount_of(text, "/" + path)
    assert found is None or found.point.startswith("/")
