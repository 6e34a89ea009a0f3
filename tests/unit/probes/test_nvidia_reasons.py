"""Why a device that is there cannot be used: said in words that help, for as long as it costs nothing to find out."""

from __future__ import annotations

from typing import Any

import pytest

from advisor.errors import AdvisorError
from advisor.facts.machine import Device, DeviceMemory
from advisor.probes.bundle import BundleSource
from advisor.probes.detect import detect
from advisor.probes.record import load_machine
from advisor.probes.scrub import Scrubber
from tests.unit.probes.fake import GIB, MACHINES, FakeSource

FOLDER = "/sys/bus/pci/devices"
MIB = 1 << 20
MISMATCH = {"error": {"code": "LIB_RM_VERSION_MISMATCH", "message": "Driver/library version mismatch"}}


def on_bus(*drivers: str | None, device: str = "0x2684", **more: Any) -> FakeSource:
    """A machine with one NVIDIA device for each driver."""
    addresses = tuple(f"0000:{n:02x}:00.0" for n in range(1, len(drivers) + 1))
    files: dict[str, str] = dict(more.pop("files", {}))
    for address in addresses:
        files |= {f"{FOLDER}/{address}/vendor": "0x10de", f"{FOLDER}/{address}/class": "0x030000"}
        files[f"{FOLDER}/{address}/device"] = device
    links = {f"{FOLDER}/{a}/driver": d for a, d in zip(addresses, drivers, strict=True) if d is not None}
    return FakeSource(files, names={FOLDER: addresses}, links=links | more.pop("links", {}), **more)


def reply(*addresses: str | None, **changes: Any) -> dict[str, Any]:
    devices = [
        {
            "index": n,
            "name": "NVIDIA GeForce RTX 4090",
            "uuid": f"GPU-{n}",
            "memory": {"total": 24 * GIB, "free": 23 * GIB},
        }
        | ({} if address is None else {"pci": address})
        | changes
        for n, address in enumerate(addresses)
    ]
    return {"nvml": {"driver": "570.1", "cuda": 12080, "devices": devices}}


def bundle(name: str) -> tuple[Device, ...]:
    return load_machine(MACHINES / name).machine.devices


@pytest.mark.parametrize(
    ("driver", "words"),
    [("nouveau", "nouveau"), ("nova_core", "nova_core"), ("vfio-pci", "virtual machine"), ("pci-stub", "set aside")],
)
def test_a_device_that_another_driver_holds_is_not_asked_for(driver: str, words: str) -> None:
    source = on_bus(driver, driver)
    machine = detect(source).machine
    assert [words in (d.unusable or "") for d in machine.devices] == [True, True]
    assert source.asked == 0


def test_one_of_two_is_set_aside_for_a_virtual_machine() -> None:
    source = on_bus("nvidia", "vfio-pci", replies=reply("00000000:01:00.0"))
    first, second = detect(source).machine.devices
    assert (first.unusable, first.pci) == (None, "0000:01:00.0")
    assert "virtual machine" in (second.unusable or "")
    assert second.pci == "0000:02:00.0"


def test_one_of_three_is_not_listed_any_more() -> None:
    source = on_bus("nvidia", "nvidia", "nvidia", replies=reply("00000000:01:00.0", "00000000:03:00.0"))
    devices = detect(source).machine.devices
    assert [d.pci for d in devices] == ["0000:01:00.0", "0000:03:00.0", "0000:02:00.0"]
    assert [d.unusable is None for d in devices] == [True, True, False]
    assert "fallen off the bus" in (devices[2].unusable or "")


def test_a_device_without_a_driver_beside_one_with() -> None:
    source = on_bus("nvidia", None, replies=reply("00000000:01:00.0"))
    assert detect(source).machine.devices[1].unusable == "no driver holds it"


def test_a_lost_device_is_listed_once() -> None:
    answer = reply("00000000:01:00.0")
    answer["nvml"]["devices"].append({"index": 1, "error": "GPU_IS_LOST"})
    devices = detect(on_bus("nvidia", "nvidia", replies=answer)).machine.devices
    assert len(devices) == 2
    assert "fallen off the bus" in (devices[1].unusable or "")


@pytest.mark.parametrize("question", ["memory", "name", "uuid", "processes"])
def test_a_device_that_is_lost_while_it_is_asked(question: str) -> None:
    source = FakeSource(present=("/dev/nvidiactl",), replies=reply(None, **{question: {"error": "GPU_IS_LOST"}}))
    (device,) = detect(source).machine.devices
    assert "fallen off the bus" in (device.unusable or "")


def test_in_a_container_devices_of_others_are_left_out() -> None:
    source = on_bus("nvidia", "nvidia", present=("/dev/nvidiactl",), replies=reply("00000000:02:00.0"))
    machine = detect(source, environment={"container": "docker"}).machine
    assert [d.pci for d in machine.devices] == ["0000:02:00.0"]
    assert any("1 more on the bus" in (p.note or "") for p in machine.provenance)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, "--gpus all"),
        ({"NVIDIA_VISIBLE_DEVICES": "none"}, "hidden by NVIDIA_VISIBLE_DEVICES=none"),
        ({"NVIDIA_VISIBLE_DEVICES": "void"}, "hidden by NVIDIA_VISIBLE_DEVICES=void"),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, "--gpus all"),
    ],
)
def test_a_container_without_access_is_not_asked(environment: dict[str, str], words: str) -> None:
    source = on_bus("nvidia", "nvidia")
    devices = detect(source, environment={"container": "docker"} | environment).machine.devices
    assert [words in (d.unusable or "") for d in devices] == [True, True]
    assert source.asked == 0


def test_the_container_without_access() -> None:
    devices = bundle("nvidia-container-without-access")
    assert len(devices) == 2
    for device in devices:
        assert "--gpus all" in (device.unusable or "")
        assert "container toolkit" in (device.unusable or "")


def test_outside_a_container_the_driver_makes_its_device_files_when_it_is_asked() -> None:
    source = on_bus("nvidia", replies=reply("00000000:01:00.0"))
    assert detect(source).machine.devices[0].unusable is None


def test_versions_that_differ_are_named() -> None:
    (device,) = bundle("nvidia-driver-library-mismatch")
    assert device.unusable is not None
    assert "580.173.02" in device.unusable
    assert "580.178" in device.unusable
    assert "restart" in device.unusable


def test_the_version_of_the_library_by_its_file() -> None:
    source = on_bus(
        "nvidia",
        files={
            "/proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.90.07  Fri May 31\n"
        },
        links={"/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1": "libnvidia-ml.so.550.107.02"},
        replies={"nvml": MISMATCH},
    )
    reason = detect(source).machine.devices[0].unusable or ""
    assert "550.90.07" in reason
    assert "550.107.02" in reason


@pytest.mark.parametrize("text", ["", "NVRM version: \n", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  x\n"])
def test_versions_that_cannot_be_read_are_not_named(text: str) -> None:
    source = on_bus("nvidia", files={"/proc/driver/nvidia/version": text}, replies={"nvml": MISMATCH})
    assert "different versions" in (detect(source).machine.devices[0].unusable or "")


def test_a_hanging_driver_costs_one_question() -> None:
    (device,) = bundle("nvidia-hanging-driver")
    assert "does not answer within 3 s" in (device.unusable or "")
    source = on_bus("nvidia", replies={"nvml": {"error": {"code": "deadline", "message": ""}}})
    detect(source)
    assert source.asked == 1


def test_windows_without_a_driver_for_its_subsystem() -> None:
    source = FakeSource(
        present=("/dev/dxg", "/usr/lib/wsl/lib/libnvidia-ml.so.1"),
        replies={"nvml": {"error": {"code": "DRIVER_NOT_LOADED", "message": ""}}},
    )
    assert "wsl --shutdown" in (detect(source).machine.devices[0].unusable or "")


@pytest.mark.parametrize(
    ("name", "words", "profile", "memory"),
    [
        ("nouveau-desktop", "NVIDIA GeForce GTX 1060 6 GB", "gtx-1060-6gb", 6 * GIB),
        ("nvidia-hanging-driver", "NVIDIA GeForce RTX 4090", "rtx-4090", 24 * GIB),
        ("nvidia-container-without-access", "NVIDIA A100 SXM4 80 GB", "a100-80gb", 80 * GIB),
    ],
)
def test_what_is_known_without_the_driver(name: str, words: str, profile: str, memory: int) -> None:
    for device in bundle(name):
        assert device.vendor == "nvidia"
        assert device.pci is not None
        assert (device.name, device.profile) == (f"{words} (by PCI id)", profile)
        assert device.memory == DeviceMemory(total_bytes=memory, usable_bytes=None, free_bytes=None)
        assert device.unusable
    assert "nvidia-smi" not in BundleSource(MACHINES / name).bundle.replies


def test_a_card_without_a_driver_is_named_by_its_id_and_its_figures_by_their_table() -> None:
    source = on_bus(None, device="0x2204", replies={"nvml": {"error": {"code": "LIBRARY_NOT_FOUND", "message": ""}}})
    machine, warnings = detect(source)
    (device,) = machine.devices
    assert device.name == "NVIDIA GeForce RTX 3090 (by PCI id)"
    assert (device.unusable or "").startswith("no driver: ")
    assert (device.profile, device.arch, device.compute_capability) == ("rtx-3090", "Ampere", 8.6)
    assert device.bandwidth is not None
    assert device.bandwidth.method == "table"
    assert (device.driver, device.link, device.memory.usable_bytes, device.memory.free_bytes) == (None,) * 4
    (told,) = [p for p in machine.provenance if p.what.startswith(device.name)]
    assert (told.what, told.source) == (f"{device.name} 0000:01:00.0", "profiles/hardware/rtx-3090.yaml")
    assert "table" in (told.note or "")
    (warning,) = warnings
    assert warning.message.startswith(f"gpu0, {device.name}: no driver")
    assert not [d for d in machine.devices if d.unusable is None]


@pytest.mark.parametrize("there", ["/proc/driver/nvidia/version", "/dev/nvidiactl"])
def test_a_library_that_is_missing_beside_a_driver_is_what_is_missing(there: str) -> None:
    source = on_bus("nvidia", present=(there,), replies={"nvml": {"error": {"code": "LIBRARY_NOT_FOUND"}}})
    reason = detect(source).machine.devices[0].unusable or ""
    assert "library (libnvidia-ml.so.1) is not installed" in reason
    assert "no driver" not in reason


def test_of_an_id_of_two_cards_only_what_both_have_is_told() -> None:
    (device,) = detect(on_bus("nouveau", device="0x2504")).machine.devices
    assert device.name == "NVIDIA GeForce RTX 3060 12 GB or NVIDIA GeForce RTX 3060 8 GB (by PCI id)"
    assert (device.profile, device.memory.total_bytes, device.compute_capability) == (None, None, 8.6)
    assert device.bandwidth is not None
    assert device.bandwidth.low < device.bandwidth.high


def test_an_id_of_no_profile_is_the_name() -> None:
    (device,) = detect(on_bus("nouveau", device="0x0110")).machine.devices
    assert (device.name, device.profile, device.memory.total_bytes) == ("NVIDIA device 0110 (PCI)", None, None)
    assert (device.bandwidth, device.formats, device.pci) == (None, {}, "0000:01:00.0")


def test_a_damaged_catalogue_costs_the_name_and_not_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged() -> None:
        raise AdvisorError("bad-profile", "the index of PCI ids cannot be read")

    monkeypatch.setattr("advisor.probes.matching.pci_index", damaged)
    (device,) = detect(on_bus("nouveau")).machine.devices
    assert device.name == "NVIDIA device 2684 (PCI)"
    assert "nouveau" in (device.unusable or "")


def test_who_built_the_kernel_module_is_not_recorded() -> None:
    text = (
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  560.35.03  Release Build  (root@alices-pc)  Fri Aug\n"
        "GCC version:  gcc version 13.2.0 (Ubuntu)\n"
    )
    kept = Scrubber(None, None).file("/proc/driver/nvidia/version", text)
    assert kept == "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  560.35.03\n"
