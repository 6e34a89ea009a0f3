"""Virtual machines, containers and swap; a container that was given no device is told how to get one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.facts.words import Vendor
from advisor.probes.detect import detect
from advisor.probes.record import load_machine, record
from advisor.probes.sanity import Notes
from advisor.probes.surroundings import explain_missing, read_container, read_swap, read_virtualization
from advisor.probes.vendors.base import unusable
from tests.unit.probes.fake import GIB, MACHINES, FakeSource

OVERLAY = "901 640 0:71 / / rw - overlay overlay rw\n"
DISK = "27 1 254:0 / / rw - ext4 /dev/vda rw\n"


@pytest.mark.parametrize(
    ("version", "flags", "expected"),
    [
        ("Linux version 5.15.167.4-microsoft-standard-WSL2 (root@x) #1 SMP", "hypervisor", "wsl2"),
        ("Linux version 6.6.87.2-microsoft-standard-WSL2+ (me@y)", "", "wsl2"),
        ("Linux version 4.4.0-19041-Microsoft (Microsoft@Microsoft.com) (gcc version 5.4.0)", "", "wsl1"),
        ("Linux version 6.8.0-45-generic (buildd@lcy02)", "avx2 hypervisor", "vm"),
        ("Linux version 6.8.0-45-generic", "avx2", None),
        ("", "", None),
    ],
)
def test_virtualization(version: str, flags: str, expected: str | None) -> None:
    source = FakeSource({"/proc/version": version, "/proc/cpuinfo": f"processor : 0\nflags : {flags}\n"})
    assert read_virtualization(source, Notes()) == expected


def test_a_recording_of_wsl_says_no_more_than_that(tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path)) / "b"
    source = FakeSource({"/proc/version": "Linux version 5.15.0-microsoft-standard-WSL2 (alice@host) #1"})
    probed = record(folder, source=source)
    assert probed.machine.host.virtualization == "wsl2"
    assert load_machine(folder) == probed
    assert (folder / "files/proc/version").read_text() == "Linux version 5.15.0-microsoft-standard-WSL2\n"


@pytest.mark.parametrize(
    ("files", "present", "environment", "expected"),
    [
        ({}, (), {}, None),
        ({"/proc/self/mountinfo": OVERLAY}, ("/.dockerenv",), {}, "docker"),
        # A virtual machine whose image was made from a container's.
        ({"/proc/self/mountinfo": DISK}, ("/.dockerenv",), {}, None),
        ({"/proc/self/mountinfo": DISK + "9 1 8:1 / /etc/hosts rw - ext4 x rw\n"}, ("/.dockerenv",), {}, "docker"),
        ({"/proc/self/mountinfo": OVERLAY}, ("/run/.containerenv",), {"container": "podman"}, "podman"),
        ({}, ("/var/run/secrets/kubernetes.io", "/.dockerenv"), {}, "kubernetes"),
        ({"/proc/self/cgroup": "5:memory:/kubepods/burstable/pod1/abc\n"}, (), {}, "kubernetes"),
        ({"/proc/self/cgroup": "0::/system.slice/docker-1234.scope\n"}, (), {}, "docker"),
        ({"/proc/self/cgroup": "0::/machine.slice/libpod-1234.scope/container\n"}, (), {}, "podman"),
        ({"/proc/self/cgroup": "0::/lxc.payload.box\n"}, (), {}, "lxc"),
        ({}, (), {"container": "lxc"}, "lxc"),
        ({}, (), {"container": "systemd-nspawn"}, "systemd-nspawn"),
        ({}, (), {"container": "oci"}, "container"),
        ({"/run/systemd/container": "podman\n"}, (), {}, "podman"),
        (
            {"/proc/self/mountinfo": "9 1 0:2 /docker/abc /sys/fs/cgroup/memory ro - cgroup c memory\n"},
            (),
            {},
            "docker",
        ),
        ({"/proc/self/cgroup": "0::/user.slice/docker.service\n"}, (), {}, None),
    ],
)
def test_containers(
    files: dict[str, str], present: tuple[str, ...], environment: dict[str, str], expected: str | None
) -> None:
    assert read_container(FakeSource(files, present=present), environment, Notes()) == expected


def test_a_container_without_the_gpu_says_how_it_gets_one() -> None:
    machine, warnings = load_machine(MACHINES / "docker-cgroup-v2-no-gpu")
    assert machine.host.container == "docker"
    assert (machine.host.memory.limit_bytes, machine.host.memory.available_bytes) == (8 * GIB, 7 * GIB + GIB // 2)
    assert machine.host.cpu.cores_granted == 4.0
    (device,) = machine.devices
    assert device.unusable is not None
    assert "container" in device.unusable
    assert device.unusable.endswith("start it with --gpus all")
    assert [w.code for w in warnings] == ["device-unusable"]


@pytest.mark.parametrize(
    ("vendor", "container", "words"),
    [
        ("nvidia", "docker", "start it with --gpus all"),
        ("nvidia", "podman", "start it with --device nvidia.com/gpu=all"),
        ("nvidia", "kubernetes", "nvidia.com/gpu"),
        ("amd", "docker", "--device /dev/kfd --device /dev/dri"),
        ("intel", "lxc", "--device /dev/dri"),
    ],
)
def test_how_a_container_is_given_a_device(vendor: Vendor, container: str, words: str) -> None:
    (device,) = explain_missing((unusable(vendor, "x", "no driver"),), FakeSource(), container)
    assert device.unusable is not None
    assert device.unusable.startswith("no driver; this container has no access to it: ")
    assert words in device.unusable


def test_a_device_that_the_container_has_keeps_its_reason() -> None:
    given_it = FakeSource(present=("/dev/nvidiactl",))
    broken = (unusable("nvidia", "x", "the driver does not match the library"),)
    assert explain_missing(broken, given_it, "docker") == broken
    assert explain_missing(broken, FakeSource(), None) == broken


def test_nested_groups_of_kubernetes() -> None:
    host = load_machine(MACHINES / "kubernetes-nested-v2").machine.host
    # own group: memory.high 6 GiB; container 12 GiB; pod 8 GiB of which 5 are charged and 1 of those is cache
    assert host.memory.limit_bytes == 6 * GIB
    assert host.memory.available_bytes == 4 * GIB
    # cpuset of 4 below the pod's 5 and the container's 6
    assert host.cpu.cores_granted == 4.0
    assert (host.container, host.virtualization) == ("kubernetes", "vm")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("SwapTotal: 2097152 kB\nSwapFree: 1048576 kB\n", (2 * GIB, GIB)),
        ("SwapTotal: 0 kB\nSwapFree: 0 kB\n", (0, 0)),
        ("SwapTotal: 10 kB\nSwapFree: 20 kB\n", (10240, None)),
        ("SwapFree: 20 kB\n", None),
    ],
)
def test_swap(lines: str, expected: tuple[int, int | None] | None) -> None:
    found = read_swap(FakeSource({"/proc/meminfo": lines}), Notes())
    assert (None if found is None else (found.total_bytes, found.free_bytes)) == expected


@settings(deadline=None)
@given(st.text(max_size=200), st.text(max_size=100), st.text(max_size=100), st.text(max_size=40))
def test_whatever_the_files_say_there_is_a_machine(mounts: str, own: str, version: str, said: str) -> None:
    source = FakeSource(
        {
            "/proc/self/mountinfo": mounts,
            "/proc/self/cgroup": own,
            "/proc/version": version,
            "/run/systemd/container": said,
        },
        present=("/.dockerenv",),
    )
    host = detect(source, environment={"container": said}).machine.host
    assert host.virtualization in (None, "wsl1", "wsl2", "vm")
    assert host.container is None or host.container.isprintable()
