"""Vulkan: drivers by their manifests, devices by vulkaninfo's text; nothing is listed twice or planned on software."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.facts.machine import Device, Vulkan
from advisor.probes.detect import detect
from advisor.probes.sanity import Notes
from advisor.probes.vendors.base import unusable
from advisor.probes.vulkan import merged, parse_summary, read_vulkan
from tests.unit.probes.fake import FakeSource

ICD = "/usr/share/vulkan/icd.d"
# As published by the owner of a laptop with two devices, identifiers replaced.
LAPTOP = """==========
VULKANINFO
==========

Vulkan Instance Version: 1.3.275

Devices:
========
GPU0:
        apiVersion         = 1.4.318
        driverVersion      = 25.2.8
        vendorID           = 0x8086
        deviceID           = 0xa788
        deviceType         = PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU
        deviceName         = Intel(R) Graphics (RPL-S)
        driverID           = DRIVER_ID_INTEL_OPEN_SOURCE_MESA
        driverName         = Intel open-source Mesa driver
        driverInfo         = Mesa 25.2.8-0ubuntu0.24.04.1
        conformanceVersion = 1.4.0.0
        deviceUUID         = 00000001-0000-0000-0000-000000000000
        driverUUID         = 00000002-0000-0000-0000-000000000000
GPU1:
        apiVersion         = 1.4.312
        driverVersion      = 580.95.5.0
        vendorID           = 0x10de
        deviceID           = 0x2860
        deviceType         = PHYSICAL_DEVICE_TYPE_DISCRETE_GPU
        deviceName         = NVIDIA GeForce RTX 4070 Laptop GPU
        driverID           = DRIVER_ID_NVIDIA_PROPRIETARY
        driverName         = NVIDIA
        driverInfo         = 580.95.05
        conformanceVersion = 1.4.1.3
        deviceUUID         = 00000003-0000-0000-0000-000000000000
        driverUUID         = 00000004-0000-0000-0000-000000000000
GPU2:
        apiVersion         = 1.4.318
        driverVersion      = 25.2.8
        vendorID           = 0x10005
        deviceID           = 0x0000
        deviceType         = PHYSICAL_DEVICE_TYPE_CPU
        deviceName         = llvmpipe (LLVM 20.1.2, 256 bits)
        driverID           = DRIVER_ID_MESA_LLVMPIPE
        driverName         = llvmpipe
        driverInfo         = Mesa 25.2.8-0ubuntu0.24.04.1 (LLVM 20.1.2)
        deviceUUID         = 00000005-0000-0000-0000-000000000000
"""
# The long form of an older version: versions as numbers, heaps, names that come again further down.
LONG = """Device Properties and Extensions:
=================================
GPU0:
VkPhysicalDeviceProperties:
---------------------------
\tapiVersion     = 4206869 (1.3.277)
\tdriverVersion  = 2308620416 (0x899ac080)
\tvendorID       = 0x10de
\tdeviceID       = 0x2684
\tdeviceType     = PHYSICAL_DEVICE_TYPE_DISCRETE_GPU
\tdeviceName     = NVIDIA GeForce RTX 4090
VkPhysicalDeviceMemoryProperties:
memoryHeaps: count = 3
\tmemoryHeaps[0]:
\t\tsize   = 25757220864 (0x5ff400000) (23.99 GiB)
\t\tbudget = 24000000000
\t\tflags: count = 1
\t\t\tMEMORY_HEAP_DEVICE_LOCAL_BIT
\tmemoryHeaps[1]:
\t\tsize   = 50000000000 (46.5 GiB)
\t\tflags:
\t\t\tNone
\tmemoryHeaps[2]:
\t\tsize   = 268435456 (256.00 MiB)
\t\tflags: count = 1
\t\t\tMEMORY_HEAP_DEVICE_LOCAL_BIT
\tdeviceName     = another
"""


def device(vendor: str, name: str, number: int, pci: str | None = None) -> Device:
    """A device that its vendor's probe lists."""
    made = unusable(vendor, name, "x")  # type: ignore[arg-type]
    return msgspec.structs.replace(made, id=f"gpu{number}", unusable=None, pci=pci)


def ask(
    *names: str, text: str | None = LAPTOP, devices: tuple[Device, ...] = (), environment: dict[str, str] | None = None
) -> tuple[Vulkan | None, FakeSource]:
    """What a machine with these manifests gives."""
    source = FakeSource(
        {f"{ICD}/{name}": "{}" for name in names},
        names={ICD: names},
        replies={"vulkaninfo": {"stdout": text, "exit": 0}} if text is not None else {},
    )
    found = read_vulkan(source, Notes(), deadline_s=1.0, environment=environment or {}, devices=devices)
    return found, source


def test_a_laptop_with_two_devices_and_a_software_one() -> None:
    first, second, third = parse_summary(LAPTOP)
    assert (first.name, first.kind, first.vendor_id, first.device_id) == (
        "Intel(R) Graphics (RPL-S)",
        "integrated",
        0x8086,
        0xA788,
    )
    assert (second.kind, second.driver, second.driver_version, second.api_version) == (
        "discrete",
        "NVIDIA",
        "580.95.05",
        "1.4.312",
    )
    assert (third.kind, third.memory_bytes) == ("cpu", None)


def test_the_long_form_has_memory() -> None:
    (only,) = parse_summary(LONG)
    assert (only.name, only.api_version, only.memory_bytes) == ("NVIDIA GeForce RTX 4090", "1.3.277", 25757220864)


def test_a_device_of_two_drivers_is_listed_once() -> None:
    twice = LAPTOP.replace("00000003-0000", "00000001-0000")
    assert [d.kind for d in parse_summary(twice)] == ["integrated", "cpu"]


def test_each_device_says_which_of_the_machine_it_is() -> None:
    devices = (
        device("nvidia", "NVIDIA GeForce RTX 4070 Laptop GPU", 0),
        device("intel", "Intel Raptor Lake-S UHD Graphics", 1),
    )
    found, _ = ask("nvidia_icd.json", "intel_icd.x86_64.json", "lvp_icd.x86_64.json", devices=devices)
    assert found is not None
    assert found.drivers == ("nvidia_icd", "intel_icd.x86_64", "lvp_icd.x86_64")
    assert found.devices is not None
    assert [d.device for d in found.devices] == ["gpu1", "gpu0", None]


def test_equal_cards_are_two_devices() -> None:
    text = "".join(
        f"GPU{n}:\n vendorID = 0x1002\n deviceID = 0x744c\n deviceType = PHYSICAL_DEVICE_TYPE_DISCRETE_GPU\n"
        f" deviceName = AMD Radeon RX 7900 XTX (RADV NAVI31)\n deviceUUID = {n}\n"
        for n in range(2)
    )
    cards = tuple(device("amd", "AMD Radeon RX 7900 XTX", n) for n in range(2))
    assert [d.device for d in merged(parse_summary(text), cards, {})] == ["gpu0", "gpu1"]


def test_the_number_on_the_bus_decides_before_the_name() -> None:
    cards = (device("amd", "unknown", 0, "0000:0c:00.0"), device("amd", "unknown", 1, "0000:03:00.0"))
    text = (
        "GPU0:\n vendorID = 0x1002\n deviceID = 0x744c\n deviceName = one\n deviceUUID = 1\n"
        "GPU1:\n vendorID = 0x1002\n deviceID = 0x164e\n deviceName = two\n deviceUUID = 2\n"
    )
    numbers = {"0000:0c:00.0": (0x1002, 0x164E), "0000:03:00.0": (0x1002, 0x744C)}
    assert [d.device for d in merged(parse_summary(text), cards, numbers)] == ["gpu1", "gpu0"]


def test_two_unknown_devices_of_one_vendor_are_not_guessed_at() -> None:
    found = merged(parse_summary(LAPTOP), (device("nvidia", "A", 0), device("nvidia", "B", 1)), {})
    assert [d.device for d in found] == [None, None, None]


def test_no_driver_nothing_asked() -> None:
    found, source = ask()
    assert found is None
    assert source.asked == 0


@pytest.mark.parametrize("name", ["lvp_icd.x86_64.json", "vk_swiftshader_icd.json"])
def test_software_drivers_alone_are_not_asked(name: str) -> None:
    found, source = ask(name)
    assert found == Vulkan(drivers=(name.removesuffix(".json"),), devices=())
    assert source.asked == 0


def test_a_software_driver_behind_another_name_is_known_by_its_library() -> None:
    source = FakeSource(
        {f"{ICD}/mesa.json": '{"ICD": {"library_path": "/usr/lib/libvulkan_lvp.so"}}'}, names={ICD: ("mesa.json",)}
    )
    found = read_vulkan(source, Notes(), deadline_s=1.0, environment={}, devices=())
    assert found == Vulkan(drivers=("mesa (lavapipe)",), devices=())


def test_without_vulkaninfo_devices_are_unknown() -> None:
    found, _ = ask("radeon_icd.x86_64.json", text=None)
    assert found == Vulkan(drivers=("radeon_icd.x86_64",))


@pytest.mark.parametrize("variable", ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"])
def test_a_chosen_driver_replaces_the_search(variable: str) -> None:
    found, source = ask("radeon_icd.json", environment={variable: "/opt/a/amdvlk64.json:/opt/b/other.json"})
    assert found == Vulkan(drivers=("amdvlk64", "other"))
    assert source.asked == 0


def test_no_device_of_the_machine_comes_from_vulkan_alone() -> None:
    source = FakeSource(
        {f"{ICD}/freedreno_icd.json": "{}"},
        names={ICD: ("freedreno_icd.json",)},
        replies={"vulkaninfo": {"stdout": LAPTOP, "exit": 0}},
    )
    machine = detect(source).machine
    assert machine.devices == ()
    assert machine.vulkan is not None
    assert len(machine.vulkan.devices or ()) == 3


@settings(deadline=None)
@given(st.text(max_size=300))
def test_the_reader_never_raises(text: str) -> None:
    assert len(parse_summary("GPU0:\n" + text)) <= 64


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.sampled_from([line for line in (LAPTOP + LONG).split("\n") if line]),
        max_size=60,
    )
)
def test_shuffled_lines_never_raise(lines: list[str]) -> None:
    found = parse_summary("\n".join(lines))
    assert all(d.name for d in found)
    assert all(d.memory_bytes is None or d.memory_bytes >= 1 << 20 for d in found)


def test_many_devices_and_ten_megabytes_are_bounded() -> None:
    text = "".join(f"GPU{n}:\n deviceName = x{n}\n" for n in range(500)) + "y" * 10_000_000
    assert len(parse_summary(text)) == 64
