"""Recording takes names out and leaves the machine as it was; files of machines are judged before they are used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.errors import AdvisorError
from advisor.probes.record import load_machine, record
from advisor.probes.scrub import Scrubber
from tests.unit.probes.fake import GIB, MACHINES, FakeSource

ID = "4f1c0d2e9b8a7766554433221100ffeeddccbbaa99887766554433221100ffee"
UUID = "8932f937-d72c-4106-c12f-20bd9faed9f6"


def named_source() -> FakeSource:
    """A machine full of names."""
    own = f"/user.slice/user-alice.slice/{ID}"
    return FakeSource(
        {
            "/proc/cpuinfo": "processor : 0\nmodel name : Some CPU\nflags : avx2\nSerial : 100000001234abcd\n",
            "/proc/meminfo": "MemTotal: 8388608 kB\nMemAvailable: 6291456 kB\nOdd_alice: 1 kB\n",
            "/proc/self/cgroup": f"4:memory:{own}\n1:name=alice:/\n0::{own}\n",
            "/proc/self/mountinfo": (
                "20 1 8:1 / /home/alice rw - ext4 /dev/sda1 rw\n"
                "29 22 0:26 / /home/alice/cg rw - cgroup2 alice rw\n"
                f"30 22 0:27 {own} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
            ),
            f"/home/alice/cg{own}/memory.max": str(4 * GIB),
            f"/home/alice/cg{own}/memory.current": str(GIB),
            f"/home/alice/cg{own}/cpu.max": "150000 100000",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes": str(3 * GIB),
            "/sys/fs/cgroup/memory/memory.stat": "hierarchical_memory_limit 2147483648\nalice 3\n",
            "/sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n",
            "/sys/bus/pci/devices/0000:01:00.0/class": "0x030000\n",
        },
        names={"/sys/bus/pci/devices": ("0000:01:00.0",)},
        replies={
            "nvml": {
                "driver": "550.1",
                "devices": [
                    {
                        "index": 0,
                        "name": "NVIDIA L4",
                        "uuid": f"GPU-{UUID}",
                        "memory": {"total": 24 * GIB, "free": GIB},
                    },
                    {"index": 1, "error": "GPU_IS_LOST"},
                ],
            }
        },
    )


@pytest.mark.parametrize(
    ("visible", "usable"),
    [
        (None, True),
        ("", False),
        ("0", True),
        (f"GPU-{UUID}", True),
        (f"GPU-{UUID[:8]}", True),
        ("GPU-8", True),
        ("x,0", False),
    ],
)
def test_a_recording_replays_to_the_same_machine(tmp_path: Path, visible: str | None, usable: bool) -> None:
    probed = record(
        tmp_path / "new" / "bundle",
        source=named_source(),
        environment={} if visible is None else {"CUDA_VISIBLE_DEVICES": visible},
    )
    machine = probed.machine
    assert machine.host.memory.limit_bytes == 2 * GIB
    assert machine.host.cpu.cores_granted == 1.5
    assert (machine.devices[0].unusable is None) == usable
    assert load_machine(tmp_path / "new" / "bundle") == probed


def test_no_name_is_left_in_a_recording(tmp_path: Path) -> None:
    probed = record(tmp_path / "b", source=named_source(), environment={"CUDA_VISIBLE_DEVICES": f"GPU-{UUID[:8]}"})
    (tmp_path / "b" / "machine.json").write_bytes(probed.machine.dumps())
    for path in (tmp_path / "b").rglob("*"):
        told = str(path.relative_to(tmp_path)) + (path.read_text() if path.is_file() else "")
        for word in ("alice", ID[:12], UUID[:8], UUID[-12:], "1234abcd", "sda1"):
            assert word not in told, (path, word)


def test_replay_of_every_bundle_through_the_recorder_changes_nothing(tmp_path: Path) -> None:
    from advisor.probes.bundle import BundleSource

    for path in sorted(p for p in MACHINES.iterdir() if p.is_dir()):
        source = BundleSource(path)
        again = record(tmp_path / path.name, source=source, environment=source.bundle.environment)
        assert again == load_machine(path) == load_machine(tmp_path / path.name)


def test_this_machine_can_be_recorded(tmp_path: Path) -> None:
    assert record(tmp_path / "b", deadline_s=20.0) == load_machine(tmp_path / "b")


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(AdvisorError) as caught:
        record(tmp_path, source=named_source())
    assert caught.value.code == "name-taken"
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["mine"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(AdvisorError) as caught:
        record(tmp_path / "file" / "b", source=named_source())
    assert caught.value.code == "not-writable"


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        (f"GPU-{UUID}", "GPU-00000001-0000-0000-0000-000000000000"),
        ("aa:bb:cc:dd:ee:ff", "00:00:00:00:00:00"),
        ("/home/alice/x /Users/bob", "/home/user/x /Users/user"),
        ("9223372036854771712", "9223372036854771712"),
        (f"id {ID}", "id 000000000000"),
        ("0x10de", "0x10de"),
    ],
)
def test_identifiers(text: str, scrubbed: str) -> None:
    assert Scrubber(None, None).plain(text) == scrubbed


@settings(deadline=None)
@given(st.text(max_size=200))
def test_scrubbing_twice_is_scrubbing_once(text: str) -> None:
    once = Scrubber(None, None).plain(text)
    assert Scrubber(None, None).plain(once) == once


def document() -> dict[str, Any]:
    found: dict[str, Any] = load_machine(MACHINES / "rtx-4090-desktop").machine.to_json()
    return found


def write(folder: Path, value: object) -> Path:
    path = folder / "machine.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(AdvisorError) as caught:
        load_machine(path)
    assert caught.value.hint
    return caught.value.code


@pytest.mark.parametrize(
    "text", ["", "[]", "3", "{}", '{"data": null, "error": {}}', '{"data": {"x": 1}}', "[" * 100000, "\x00"]
)
def test_what_is_not_a_machine(tmp_path: Path, text: str) -> None:
    assert refusal(write(tmp_path, text)) == "bad-machine-file"


def test_a_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.json") == "file-not-found"


def test_bundle_json_itself_points_to_its_folder(tmp_path: Path) -> None:
    with pytest.raises(AdvisorError, match="give the folder"):
        load_machine(MACHINES / "rtx-4090-desktop" / "bundle.json")


def test_an_unknown_key_is_named(tmp_path: Path) -> None:
    machine = document()
    machine["host"]["ram"] = 3
    with pytest.raises(AdvisorError, match="ram"):
        load_machine(write(tmp_path, machine))


def test_absurd_values_become_unknown_and_are_warned_of(tmp_path: Path) -> None:
    machine = document()
    machine["host"]["memory"]["limit_bytes"] = 1 << 62
    machine["host"]["cpu"]["cores_granted"] = 0
    machine["devices"][0]["memory"] = {"total_bytes": 1 << 62, "usable_bytes": -5, "free_bytes": 7}
    machine["devices"][0]["bandwidth"] |= {"value": -1}
    machine["devices"][0]["compute_capability"] = 0
    found, warnings = load_machine(write(tmp_path, machine))
    device = found.devices[0]
    assert found.host.memory.limit_bytes is None
    assert found.host.cpu.cores_granted == found.host.cpu.cores_logical
    assert (device.memory.total_bytes, device.memory.usable_bytes, device.memory.free_bytes) == (None, None, 7)
    assert device.bandwidth is None
    assert device.compute_capability is None
    assert {w.code for w in warnings} == {"probe-invalid-value"}
    assert len(warnings) >= 6


@pytest.mark.parametrize(("part", "key", "value"), [("memory", "total_bytes", 0), ("cpu", "cores_logical", 0)])
def test_nothing_is_planned_without_memory_or_cores(tmp_path: Path, part: str, key: str, value: int) -> None:
    machine = document()
    machine["host"][part][key] = value
    with pytest.raises(AdvisorError, match=key):
        load_machine(write(tmp_path, machine))


def test_memory_of_two_to_the_63_is_refused(tmp_path: Path) -> None:
    machine = document()
    machine["host"]["memory"]["total_bytes"] = 1 << 63
    assert refusal(write(tmp_path, machine)) == "bad-machine-file"
