"""Where the prebuilt Vulkan server runs, and which devices it is promised for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from advisor.backends.llama import prebuilt
from advisor.backends.pins import pins
from advisor.facts.machine import Device, Machine, Prebuilt, Vulkan, VulkanDevice
from advisor.probes.record import load_machine
from tests.support import shapes

ISA = tuple(pins(prebuilt.ENV).package(prebuilt.PACKAGE).isa)  # type: ignore[union-attr]
RADEON = "AMD Radeon RX 7900 XTX"


def machine(*devices: Device, isa: tuple[str, ...] = (*ISA, "avx_vnni"), vulkan: Vulkan | None = None) -> Machine:
    made = shapes.machine(*devices, isa=isa)
    return msgspec.structs.replace(made, vulkan=vulkan)


def card(vendor: str = "amd", **changes: Any) -> Device:
    return msgspec.structs.replace(shapes.gpu(name=RADEON, vendor=vendor), **changes)


def shown(*devices: VulkanDevice, drivers: tuple[str, ...] = ("radeon_icd.x86_64",)) -> Vulkan:
    return Vulkan(drivers=drivers, devices=devices)


SEEN = VulkanDevice(name=f"{RADEON} (RADV NAVI31)", kind="discrete", device="gpu0")
SOFTWARE = VulkanDevice(name="llvmpipe", kind="cpu")


@pytest.fixture(autouse=True)
def _new_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is pinned here whatever the C library of the machine that tests."""
    from advisor import datafiles
    from advisor.backends import pins as pins_

    monkeypatch.setattr(pins_, "glibc", lambda: (2, 36))
    built = pins_._read(datafiles.profiles_dir("backends") / "llama.cpp-vulkan.yaml")
    monkeypatch.setattr(prebuilt, "pins", lambda _: built)


def test_a_card_that_vulkan_shows_is_promised() -> None:
    assert prebuilt.installable(machine(card(), vulkan=shown(SEEN))) == Prebuilt(vendors=("amd",), layers_on_host=True)


def test_without_a_driver_nothing_is_promised() -> None:
    nvidia = card("nvidia", name="NVIDIA GeForce RTX 4090")
    for vulkan in (
        None,
        shown(),
        shown(SOFTWARE),
        shown(msgspec.structs.replace(SEEN, device=None)),
        Vulkan(drivers=("lvp_icd.x86_64",), devices=()),
        Vulkan(drivers=("nvidia_icd",)),  # vulkaninfo is not there, and the driver's file alone says little
        Vulkan(drivers=("radeon_icd.x86_64",)),
    ):
        assert prebuilt.installable(machine(nvidia, vulkan=vulkan)) is None, vulkan


def test_another_makers_card_is_not_meant() -> None:
    intel = card("intel", id="gpu1", name="Intel Arc A380")
    found = prebuilt.installable(
        machine(card("nvidia"), intel, vulkan=shown(msgspec.structs.replace(SEEN, device="gpu1")))
    )
    assert found is not None
    assert found.vendors == ("intel",)


def test_where_devices_could_not_be_listed_driver_and_device_files_decide() -> None:
    unlisted = Vulkan(drivers=("radeon_icd.x86_64",))
    assert prebuilt.vendors(machine(card(apis=("rocm", "vulkan")), vulkan=unlisted)) == ("amd",)
    assert prebuilt.vendors(machine(card(apis=("rocm",)), vulkan=unlisted)) == ()
    assert prebuilt.vendors(machine(card(apis=("vulkan",), unusable="no access"), vulkan=unlisted)) == ()
    intel = card("intel", apis=("vulkan",))
    assert prebuilt.vendors(machine(intel, vulkan=unlisted)) == ()
    assert prebuilt.vendors(machine(intel, vulkan=Vulkan(drivers=("intel_hasvk_icd.x86_64",)))) == ("intel",)


@pytest.mark.parametrize("lacking", ISA)
def test_a_processor_without_what_it_was_compiled_for_is_named(lacking: str) -> None:
    there = machine(card(), isa=tuple(f for f in (*ISA, "avx_vnni") if f != lacking), vulkan=shown(SEEN))
    assert lacking in str(prebuilt.why_not(there))
    assert prebuilt.installable(there) is None


def test_without_avx_vnni_all_layers_must_be_on_devices() -> None:
    zen4 = machine(card(), isa=ISA, vulkan=shown(SEEN))
    assert prebuilt.why_not(zen4) is None
    assert "avx_vnni" in str(prebuilt.no_host_layers(zen4))
    assert prebuilt.installable(zen4) == Prebuilt(vendors=("amd",), layers_on_host=False)


@pytest.mark.parametrize(("os", "arch"), [("darwin", "arm64"), ("linux", "aarch64"), ("darwin", "x86_64")])
def test_other_systems(os: str, arch: str) -> None:
    made = machine(card(), vulkan=shown(SEEN))
    other = msgspec.structs.replace(made, host=msgspec.structs.replace(made.host, os=os, arch=arch))
    assert f"not {os} on {arch}" in str(prebuilt.why_not(other))
    assert prebuilt.installable(other) is None


def test_an_old_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    without = msgspec.structs.replace(pins(prebuilt.ENV), packages=())
    monkeypatch.setattr(prebuilt, "pins", lambda _: without)
    monkeypatch.setattr(prebuilt, "glibc", lambda: (2, 31))
    assert "this system has 2.31" in str(prebuilt.why_not(machine()))
    monkeypatch.setattr(prebuilt, "glibc", lambda: None)
    assert "has none" in str(prebuilt.why_not(machine()))


def test_recorded_machines_without_vulkan_are_promised_nothing() -> None:
    folder = Path(__file__).resolve().parents[2] / "fixtures" / "machines"
    without = 0
    for bundle in sorted(p for p in folder.iterdir() if p.is_dir()):
        recorded = load_machine(bundle).machine
        if recorded.vulkan is None and recorded.devices:
            without += 1
            assert prebuilt.vendors(recorded) == (), bundle.name
            assert prebuilt.installable(recorded) is None, bundle.name
    assert without
