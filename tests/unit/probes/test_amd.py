"""AMD devices from the files of amdgpu and the Kernel Fusion Driver: recorded machines, and what can be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from advisor.facts.machine import Device, Machine
from advisor.probes.detect import Probed, detect
from advisor.probes.record import load_machine, record
from tests.unit.probes.amd_fakes import NODES, SERIALS, card, files_of, node, pair
from tests.unit.probes.fake import GIB, MACHINES, FakeSource


def one(source: FakeSource, **environment: str) -> Device:
    (found,) = detect(source, environment=environment).machine.devices
    return found


def notes(machine: Machine, start: str) -> list[str]:
    return [p.note or "" for p in machine.provenance if (p.note or "").startswith(start)]


# Recorded machines


def test_a_card_beside_the_graphics_of_its_processor() -> None:
    machine, warnings = load_machine(MACHINES / "rx-7900-xtx-desktop")
    big, small = machine.devices
    assert (big.profile, big.unusable, big.arch, big.apis) == ("rx-7900-xtx", None, "gfx1100", ("rocm", "vulkan"))
    assert (big.memory.total_bytes, big.memory.free_bytes) == (25753026560, 25753026560 - 1181116416)
    assert big.memory.usable_bytes is None
    assert big.bandwidth is not None
    assert (big.bandwidth.value, big.bandwidth.method) == (960 * 10**9, "table")
    assert big.link is not None
    assert (big.link.pcie_gen, big.link.pcie_width, big.link.pcie_gen_now) == (4, 16, 4)
    assert (big.pci, big.driver, big.unified_memory) == ("0000:03:00.0", "amdgpu", False)
    assert (small.profile, small.arch, small.unified_memory) == (None, "gfx1036", True)
    assert "not planned on" in (small.unusable or "")
    assert small.for_screens
    # Nobody is warned of graphics that only drive a screen.
    assert warnings == ()
    assert any("ROCm 7.0.2" in (p.note or "") for p in machine.provenance)


def test_strix_halo_has_what_the_kernel_lets_it_take() -> None:
    (device,) = load_machine(MACHINES / "strix-halo").machine.devices
    assert (device.profile, device.arch, device.unusable) == ("ryzen-ai-max-395", "gfx1151", None)
    assert device.unified_memory
    assert device.memory.usable_bytes == 96 * GIB
    assert device.memory.total_bytes == 129361920 * 1024 + 4 * GIB
    assert device.memory.free_bytes == 96 * GIB - 412008448
    assert device.bandwidth is not None
    assert device.bandwidth.value == 256 * 10**9
    assert device.formats["fp8"] == "none"
    assert device.link is None


def test_eight_devices_of_which_four_are_shown() -> None:
    machine, warnings = load_machine(MACHINES / "mi300x-server")
    assert len(machine.devices) == 8
    assert [d.profile for d in machine.devices] == ["mi300x"] * 8
    assert [d.unusable for d in machine.devices] == [None] * 4 + ["hidden by HIP_VISIBLE_DEVICES"] * 4
    assert [d.pci for d in machine.devices][:4] == ["0000:0c:00.0", "0000:22:00.0", "0000:38:00.0", "0000:5c:00.0"]
    assert machine.devices[0].driver == "amdgpu 6.12.12"
    assert machine.devices[0].formats["fp8"] == "native"
    assert len({d.uuid for d in machine.devices}) == 8
    assert [w.code for w in warnings] == ["device-unusable"] * 4


def test_without_the_group_only_vulkan_is_left_and_the_way_in_is_told() -> None:
    machine, warnings = load_machine(MACHINES / "amd-no-kfd-access")
    (device,) = machine.devices
    assert (device.unusable, device.apis, device.profile) == (None, ("vulkan",), "rx-6800-xt")
    (warning,) = warnings
    assert warning.code == "device-limited"
    assert "sudo usermod -aG render $USER" in warning.message
    assert "only programs that use Vulkan can" in warning.message
    assert notes(machine, "the host sees a part of its memory only")


def test_three_makers_are_all_there() -> None:
    devices = load_machine(MACHINES / "mixed-vendors").machine.devices
    assert [(d.vendor, d.profile, d.unusable) for d in devices] == [
        ("nvidia", "rtx-3090", None),
        ("amd", "radeon-780m", None),
        ("intel", "arc-a770", None),
    ]
    assert [d.unified_memory for d in devices] == [False, True, False]


# One device, and what is wrong with it


def test_a_usual_card() -> None:
    source = card()
    node(source, 1, "0000:03:00.0", 110000)
    device = one(source)
    assert (device.profile, device.arch, device.apis, device.unusable) == (
        "rx-7900-xtx",
        "gfx1100",
        ("rocm", "vulkan"),
        None,
    )
    assert device.memory.free_bytes == 25753026560 - GIB


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        (None, "no driver holds it; the kernel driver amdgpu is needed"),
        ("radeon", "radeon holds it, which cannot compute; amdgpu is needed"),
        ("vfio-pci", "set aside for a virtual machine (vfio-pci)"),
    ],
)
def test_without_its_driver(driver: str | None, words: str) -> None:
    device = one(card(driver=driver))
    assert words in (device.unusable or "")
    assert device.name == "AMD Radeon RX 7900 XTX"
    assert device.driver is None


@pytest.mark.parametrize(
    ("replies", "words"),
    [
        (files_of(128, render=False), "may not open /dev/dri/renderD128: sudo usermod -aG render $USER"),
        (files_of(129), "may not open /dev/dri/renderD128"),
        ({"device-files": {"files": {"/dev/dri/renderD128": {"open": False, "group": None}}}}, "may not open /dev/dri"),
    ],
)
def test_without_its_device_file(replies: dict[str, Any], words: str) -> None:
    source = card()
    source.replies = replies
    device = one(source)
    assert words in (device.unusable or "")
    assert device.apis == ()
    assert "group None" not in (device.unusable or "")


def test_a_device_that_only_shows_pictures() -> None:
    source = card()
    source.listed["/sys/bus/pci/devices/0000:03:00.0/drm"] = ("card0",)
    assert "no device file for computing" in (one(source).unusable or "")


@pytest.mark.parametrize(
    ("kfd", "listed", "words"),
    [
        (True, False, "does not list it"),
        (None, True, "/dev/kfd is not there"),
        (False, True, "may not open /dev/kfd"),
    ],
)
def test_rocm_out_of_reach(kfd: bool | None, listed: bool, words: str) -> None:
    source = card()
    if listed:
        node(source, 1, "0000:03:00.0", 110000)
    source.replies = files_of(128, kfd=kfd)
    source.there = () if kfd is None else ("/dev/kfd",)
    probed = detect(source)
    (device,) = probed.machine.devices
    assert (device.unusable, device.apis) == (None, ("vulkan",))
    (warning,) = probed.warnings
    assert warning.code == "device-limited"
    assert words in warning.message


def test_access_that_is_not_known_hides_nothing() -> None:
    source = card()
    source.replies = {}
    device = one(source)
    assert (device.unusable, device.apis) == (None, None)


def test_a_card_without_a_profile_is_used_as_far_as_it_is_known() -> None:
    source = card(ids=("0x73c4", "0x00"), vram=12 * GIB)
    node(source, 1, "0000:03:00.0", 100301, units=40)
    device = one(source)
    assert (device.unusable, device.profile, device.bandwidth, device.arch) == (None, None, None, "gfx1031")
    assert (device.name, device.memory.total_bytes) == ("AMD device 73c4 (PCI)", 12 * GIB)
    assert device.formats == {}


def test_its_own_name_where_no_profile_has_one() -> None:
    assert one(card(ids=("0x73c4", "0x00"), product_name="Radeon \x1b[2JPro")).name == "Radeon Pro"


def test_the_kernel_fusion_driver_tells_the_memory_where_amdgpu_does_not() -> None:
    source = card(vram="")
    node(source, 1, "0000:03:00.0", 110000, bank=25753026560)
    assert one(source).memory.total_bytes == 25753026560
    assert "not known; name it with --hardware" in (one(card(vram="")).unusable or "")


@pytest.mark.parametrize("vram", ["0", "-1", str(1 << 62), "9" * 25, "24 GB", "١٢"])
def test_absurd_memory_is_unknown(vram: str) -> None:
    device = one(card(vram=vram))
    assert device.memory.total_bytes is None
    assert device.memory.free_bytes is None
    assert device.unusable is not None


def test_more_in_use_than_there_is_leaves_free_unknown() -> None:
    assert one(card(mem_info_vram_used=str(64 * GIB))).memory.free_bytes is None


def test_what_rocm_takes_it_for_is_noted() -> None:
    machine = detect(card(), environment={"HSA_OVERRIDE_GFX_VERSION": "11.0.0"}).machine
    assert notes(machine, "ROCm takes every device for gfx1100")


# Graphics inside the processor


def inside(vram: int, gtt: int | None, **more: str) -> FakeSource:
    files = {} if gtt is None else {"mem_info_gtt_total": str(gtt), "mem_info_gtt_used": "0"}
    source = card("0000:c6:00.0", ids=("0x1586", "0xc1"), vram=vram, **(files | more))
    source.files["/proc/meminfo"] = f"MemTotal: {64 * GIB // 1024} kB\nMemAvailable: {20 * GIB // 1024} kB\n"
    node(source, 1, "0000:c6:00.0", 110501, units=40)
    return source


def test_the_host_has_less_free_than_the_kernel_allows() -> None:
    device = one(inside(GIB, 48 * GIB))
    assert device.unified_memory
    assert (device.memory.usable_bytes, device.memory.free_bytes) == (48 * GIB, 20 * GIB)


def test_a_limit_of_the_container_is_a_limit_of_its_graphics() -> None:
    source = inside(GIB, 48 * GIB)
    source.files |= {
        "/proc/self/cgroup": "0::/\n",
        "/proc/self/mountinfo": "30 22 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n",
        "/sys/fs/cgroup/memory.max": str(16 * GIB),
    }
    assert one(source).memory.usable_bytes == 16 * GIB


def test_a_large_carve_out_is_memory_of_its_own() -> None:
    device = one(inside(48 * GIB, 8 * GIB, mem_info_vram_used=str(2 * GIB)))
    assert not device.unified_memory
    assert (device.memory.total_bytes, device.memory.usable_bytes, device.memory.free_bytes) == (
        48 * GIB,
        48 * GIB,
        46 * GIB,
    )
    assert device.profile == "ryzen-ai-max-395"


def test_without_an_upper_bound_the_carve_out_counts() -> None:
    assert one(inside(4 * GIB, None)).memory.total_bytes == 4 * GIB


def test_graphics_without_a_profile_are_listed_but_not_planned_on() -> None:
    source = card("0000:10:00.0", ids=("0x164e", "0xcb"), vram=GIB // 2, mem_info_gtt_total=str(4 * GIB))
    device = one(source)
    assert device.for_screens
    assert detect(source).warnings == ()


# Which of several


def shown(probed: Probed) -> list[str]:
    return [d.pci or "" for d in probed.machine.devices if d.unusable is None]


@pytest.mark.parametrize(
    ("environment", "order"),
    [
        ({}, ["63", "43"]),
        ({"ROCR_VISIBLE_DEVICES": "1"}, ["43"]),
        ({"ROCR_VISIBLE_DEVICES": "1,0"}, ["43", "63"]),
        ({"ROCR_VISIBLE_DEVICES": ""}, []),
        ({"ROCR_VISIBLE_DEVICES": f"GPU-{SERIALS[1].upper()}"}, ["43"]),
        ({"ROCR_VISIBLE_DEVICES": f"GPU-{SERIALS[1][:4]},0"}, ["43", "63"]),
        ({"ROCR_VISIBLE_DEVICES": "GPU-,0"}, []),
        ({"HIP_VISIBLE_DEVICES": ""}, ["63", "43"]),
        ({"HIP_VISIBLE_DEVICES": "1"}, ["43"]),
        ({"HIP_VISIBLE_DEVICES": "-1"}, []),
        ({"HIP_VISIBLE_DEVICES": "0,0,1"}, ["63"]),
        ({"HIP_VISIBLE_DEVICES": "0,7,1"}, ["63"]),
        ({"HIP_VISIBLE_DEVICES": f"GPU-{SERIALS[1]}"}, []),
        ({"CUDA_VISIBLE_DEVICES": "1"}, ["43"]),
        ({"CUDA_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "0"}, ["63"]),
        ({"GPU_DEVICE_ORDINAL": "1"}, ["43"]),
        # The second of what is left after the first variable.
        ({"ROCR_VISIBLE_DEVICES": "1,0", "HIP_VISIBLE_DEVICES": "1"}, ["63"]),
        ({"ROCR_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "1"}, []),
    ],
)
def test_visible_devices(environment: dict[str, str], order: list[str]) -> None:
    probed = detect(pair(), environment=environment)
    assert [address[5:7] for address in shown(probed)] == order
    assert len(probed.machine.devices) == 2
    for device in probed.machine.devices:
        assert device.unusable is None or device.unusable.startswith("hidden by ")


def test_a_selection_for_cuda_is_not_meant_for_amd_beside_an_nvidia_device() -> None:
    source = pair()
    at = "/sys/bus/pci/devices/0000:01:00.0"
    source.files |= {f"{at}/vendor": "0x10de", f"{at}/class": "0x030000", f"{at}/device": "0x2684"}
    source.listed["/sys/bus/pci/devices"] = ("0000:01:00.0", "0000:43:00.0", "0000:63:00.0")
    probed = detect(source, environment={"CUDA_VISIBLE_DEVICES": ""})
    assert [d.pci for d in probed.machine.devices if d.vendor == "amd" and d.unusable is None] == [
        "0000:63:00.0",
        "0000:43:00.0",
    ]


def test_a_partitioned_device_is_as_many_devices() -> None:
    source = card(ids=("0x74a1", "0x00"), vram=206141652992, product_name="AMD Instinct MI300X OAM")
    for number in range(1, 9):
        node(source, number, "0000:03:00.0", 90402, units=38, each=4, bank=206141652992 // 8)
    devices = detect(source).machine.devices
    assert [d.name for d in devices] == [f"AMD Instinct MI300X (partition {n} of 8)" for n in range(1, 9)]
    assert {d.memory.total_bytes for d in devices} == {206141652992 // 8}
    assert devices[0].bandwidth is not None
    assert devices[0].bandwidth.value == 5300 * 10**9 // 8


@pytest.mark.parametrize("visible", [None, f"GPU-{SERIALS[1]}", f"GPU-{SERIALS[1][:6]}", "1", "GPU-ffff,0"])
def test_a_recording_replays_and_names_no_device(tmp_path: Path, visible: str | None) -> None:
    environment = {} if visible is None else {"ROCR_VISIBLE_DEVICES": visible}
    source = pair()
    source.files[f"{NODES}/1/properties"] += "unique_id 10312345678901234567\n"
    probed = record(tmp_path / "b", source=source, environment=environment)
    assert load_machine(tmp_path / "b") == probed
    again = record(tmp_path / "c", source=pair(), environment=environment)
    assert again == probed
    for path in (tmp_path / "b").rglob("*"):
        told = path.read_text().lower() if path.is_file() else ""
        assert not any(s[:6] in told for s in SERIALS), path
        assert "10312345678901234567" not in told
