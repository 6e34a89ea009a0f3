"""Devices that are more, or less, than a card: slices, shared memory, virtual ones, cards without a profile."""

from __future__ import annotations

from typing import Any

import pytest

from advisor.facts.machine import Device, Machine
from advisor.probes.detect import detect
from advisor.probes.record import load_machine
from tests.unit.probes.fake import GIB, MACHINES, FakeSource

MIB = 1 << 20
GB = 10**9


def machine(name: str) -> Machine:
    return load_machine(MACHINES / name).machine


def one(**changes: Any) -> Device:
    raw = {
        "index": 0,
        "name": "NVIDIA GeForce RTX 3090",
        "uuid": "GPU-0",
        "pci": "00000000:01:00.0",
        "memory": {"total": 24576 * MIB, "free": 24000 * MIB, "reserved": 389 * MIB},
        "compute_capability": [8, 6],
    } | changes
    (device,) = detect(
        FakeSource(present=("/dev/nvidiactl",), replies={"nvml": {"driver": "570", "cuda": 12080, "devices": [raw]}})
    ).machine.devices
    return device


def test_slices_are_devices_of_their_own() -> None:
    first, second, whole = machine("a100-pair-one-mig").devices
    for part in (first, second):
        assert part.mig is not None
        assert (part.mig.profile, part.mig.multiprocessors) == ("3g.20gb", 42)
        assert part.memory.total_bytes == 19968 * MIB
        assert part.nvlink is None
        # 3g has half of the memory, and with it of the bandwidth; 42 of 108 multiprocessors
        assert part.bandwidth is not None
        assert part.bandwidth.value == pytest.approx(1555 * GB / 2, rel=0.001)
        assert part.bandwidth.method == "formula"
        assert part.fp16_tflops == pytest.approx(312 * 42 / 108, rel=0.001)
        assert part.compute_capability == 8.0
    assert first.uuid != second.uuid
    assert whole.mig is None
    assert whole.memory.total_bytes == 40960 * MIB
    assert whole.nvlink is not None
    assert (whole.nvlink.links, whole.nvlink.bandwidth and whole.nvlink.bandwidth.value) == (12, 300 * GB)


def test_slices_by_nvidia_smi_have_no_names() -> None:
    devices = machine("a100-mig-by-nvidia-smi").devices
    assert len(devices) == 2
    for part in devices:
        assert part.mig is not None
        assert (part.mig.profile, part.mig.multiprocessors, part.uuid) == (None, 42, None)
        assert part.memory.total_bytes == 19968 * MIB
        assert part.fp16_tflops is None


@pytest.mark.parametrize(("slice_mib", "eighths"), [(4864, 1), (9856, 2), (19968, 4), (40320, 8)])
def test_bandwidth_of_a_slice_goes_by_eighths(slice_mib: int, eighths: int) -> None:
    part = {"name": "X MIG 1g", "uuid": "MIG-1", "memory": {"total": slice_mib * MIB, "free": 0}}
    device = one(
        name="Some A100", memory={"total": 40960 * MIB, "free": 0}, mig={"slices": [part]},
        memory_clock_mhz=1215, bus_width=5120,
    )  # fmt: skip
    assert device.bandwidth is not None
    assert device.bandwidth.value == 1555_200_000_000 * eighths // 8


def test_shared_memory_keeps_to_the_limit_of_the_group() -> None:
    found = machine("gb10-unified")
    (device,) = found.devices
    assert device.unified_memory
    assert device.memory.total_bytes == device.memory.usable_bytes == 96 * GIB
    assert device.memory.free_bytes == found.host.memory.available_bytes
    assert device.processes is not None
    assert device.processes.used_bytes == 19135 * MIB
    assert any(p.source == "/proc/meminfo" and "shares the host's" in (p.note or "") for p in found.provenance)


def test_a_shared_memory_that_the_driver_does_report_keeps_to_the_host() -> None:
    device = one(name="NVIDIA GB10", memory={"total": 128 * GIB, "free": 100 * GIB}, compute_capability=[12, 1])
    assert device.memory.total_bytes == 8 * GIB
    assert device.memory.free_bytes == 6 * GIB
    device = one(name="NVIDIA GB10", memory={"total": 7 * GIB, "free": GIB}, compute_capability=[12, 1])
    assert (device.memory.total_bytes, device.memory.free_bytes) == (7 * GIB, GIB)


def test_a_jetson_without_a_library_is_known_by_its_device_tree() -> None:
    found = machine("jetson-agx-orin")
    (device,) = found.devices
    assert (device.profile, device.unusable, device.unified_memory) == ("jetson-agx-orin", None, True)
    assert device.memory.total_bytes == found.host.memory.total_bytes
    assert (device.driver, device.compute_capability) == ("L4T 35.3.1", 8.7)


def jetson(compatible: str, nvml: dict[str, Any], **files: str) -> FakeSource:
    tree = {"/proc/device-tree/compatible": compatible} | files
    return FakeSource(tree, present=("/dev/nvgpu",), replies={"nvml": nvml})


@pytest.mark.parametrize(
    ("module", "profile"),
    [
        ("p3701-0004", "jetson-agx-orin"),
        ("p3767-0000", "jetson-orin-nx"),
        ("p3767-0005", "jetson-orin-nano"),
        ("p3767-0004", None),
        ("p9999-0000", None),
    ],
)
def test_a_jetson_whose_driver_reports_no_memory(module: str, profile: str | None) -> None:
    nvml = {
        "driver": "540.4.0",
        "cuda": 12060,
        "devices": [{"index": 0, "name": "Orin (nvgpu)", "memory": {"error": "NOT_SUPPORTED"}}],
    }
    (device,) = detect(jetson(f"nvidia,p3768-0000+{module}\0nvidia,{module}\0nvidia,tegra234\0", nvml)).machine.devices
    assert (device.name, device.profile) == ("Orin (nvgpu)", profile)
    assert device.unified_memory
    assert (device.memory.total_bytes, device.memory.free_bytes) == (8 * GIB, 6 * GIB)


def test_a_jetson_whose_driver_hangs_is_not_planned_on() -> None:
    source = jetson("nvidia,p3701-0000\0nvidia,tegra234\0", {"error": {"code": "deadline", "message": ""}})
    (device,) = detect(source).machine.devices
    assert "does not answer" in (device.unusable or "")


def test_a_jetson_keeps_to_the_selection() -> None:
    missing = {"error": {"code": "LIBRARY_NOT_FOUND", "message": ""}}
    source = jetson("nvidia,p3701-0000\0nvidia,tegra234\0", missing)
    assert detect(source).machine.devices[0].unusable is None
    (device,) = detect(source, environment={"CUDA_VISIBLE_DEVICES": ""}).machine.devices
    assert device.unusable == "hidden by CUDA_VISIBLE_DEVICES"


def test_a_screen_of_another_maker_on_an_arm_board_is_no_jetson() -> None:
    assert detect(jetson("raspberrypi,5\0", {"error": {"code": "LIBRARY_NOT_FOUND"}})).machine.devices == ()


def test_wsl() -> None:
    found = machine("wsl2-rtx")
    (device,) = found.devices
    assert found.host.virtualization == "wsl2"
    assert (device.profile, device.unusable, device.display) == ("rtx-3080", None, True)
    assert device.processes is not None
    assert (device.processes.count, device.processes.used_bytes) == (7, None)


def test_links() -> None:
    first, second = machine("h100-sxm-pair-nvlink").devices
    for device in (first, second):
        assert device.nvlink is not None
        assert device.nvlink.bandwidth is not None
        assert (device.nvlink.links, device.nvlink.bandwidth.value) == (18, 18 * 26562 * 10**6)
        assert device.ecc is True
        assert device.cuda == "12.4"
    assert first.processes is not None
    assert first.processes.used_bytes == 20 * GIB
    assert first.memory.usable_bytes == second.memory.usable_bytes == 81008 * MIB
    assert first.memory.free_bytes is not None
    assert first.memory.free_bytes < 60 * GIB < (second.memory.free_bytes or 0)


@pytest.mark.parametrize(
    ("raw", "links", "rate"),
    [
        ({"active": 4, "version": 5, "mbps": None}, 4, 56.25 * GB),
        ({"active": 6, "version": 2, "mbps": None}, 6, 150 * GB),
        ({"active": 18, "version": 7, "mbps": None}, 18, 900 * GB),
        ({"active": 2, "version": 99, "mbps": None}, 2, None),
        ({"active": 2, "version": {"error": "NOT_SUPPORTED"}, "mbps": -1}, 2, None),
    ],
)
def test_the_speed_of_a_link_by_its_version(raw: dict[str, Any], links: int, rate: float | None) -> None:
    found = one(nvlink=raw).nvlink
    assert found is not None
    assert found.links == links
    assert (None if found.bandwidth is None else found.bandwidth.value) == rate


@pytest.mark.parametrize("raw", [None, {}, {"active": 0}, {"active": 1000}, {"active": "4"}, {"active": True}, [4]])
def test_no_links(raw: Any) -> None:
    assert one(nvlink=raw).nvlink is None


def test_a_card_without_a_profile_has_the_bandwidth_of_its_clock_and_bus() -> None:
    device = one(name="NVIDIA Unheard Of 1", memory_clock_mhz=9751, bus_width=384)
    assert device.profile is None
    assert device.bandwidth is not None
    assert (device.bandwidth.value, device.bandwidth.method) == (936_096_000_000, "formula")
    assert one(name="NVIDIA Unheard Of 1", memory_clock_mhz={"error": "X"}, bus_width=384).bandwidth is None
    assert one(name="NVIDIA Unheard Of 1", memory_clock_mhz=0, bus_width=384).bandwidth is None


def test_a_virtual_gpu_is_not_taken_for_the_whole_card() -> None:
    device = one(name="NVIDIA A100-SXM4-40GB", virtualization=2, memory_clock_mhz=1215, bus_width=5120)
    assert (device.profile, device.bandwidth, device.unusable) == (None, None, None)
    assert device.memory.total_bytes == 24576 * MIB


@pytest.mark.parametrize(
    ("ecc", "on"), [([1, 1], True), ([0, 1], False), ({"error": "NOT_SUPPORTED"}, None), (7, None)]
)
def test_error_correction(ecc: Any, on: bool | None) -> None:
    assert one(ecc=ecc).ecc is on


def test_error_correction_takes_its_part_of_the_memory_before_the_driver_reports_it() -> None:
    # A Tesla T4 with ECC on shows 15360 of its 16384 MiB: what is reported is what there is to plan with.
    device = one(name="Tesla T4", memory={"total": 15360 * MIB, "free": 15000 * MIB, "reserved": 451 * MIB}, ecc=[1, 1])
    assert (device.profile, device.memory.usable_bytes) == ("t4", 14909 * MIB)


@pytest.mark.parametrize(("mode", "count", "usable"), [(0, 3, True), (2, 0, False), (3, 0, True), (3, 1, False)])
def test_compute_modes(mode: int, count: int, usable: bool) -> None:
    device = one(compute_mode=mode, processes={"count": count, "used": count * GIB})
    assert (device.unusable is None) == usable


@pytest.mark.parametrize("uuid", ["x" * 200, "a b", "\x1b[2J", "GPU-é"])
def test_a_uuid_that_is_none_is_unknown(uuid: str) -> None:
    assert one(uuid=uuid).uuid is None


def test_two_different_cards_are_both_there() -> None:
    probed = load_machine(MACHINES / "nvidia-two-different-cards")
    first, second = probed.machine.devices
    assert (first.profile, first.unusable) == ("rtx-3090", None)
    assert (second.profile, second.unusable) == ("rtx-4060-ti-16gb", "hidden by CUDA_VISIBLE_DEVICES")
    assert "device-order-ambiguous" in {w.code for w in probed.warnings}
    assert second.link is not None
    assert (second.link.pcie_width, second.link.pcie_width_now) == (8, 4)
