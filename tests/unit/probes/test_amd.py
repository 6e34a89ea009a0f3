"""AMD devices from the files of amdgpu and the Kernel Fusion Driver: recorded machines, and what can be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.facts.machine import Device, Machine
from advisor.probes.detect import Probed, detect
from advisor.probes.record import load_machine, record
from advisor.probes.sanity import Notes
from advisor.probes.vendors.amd_kfd import gfx_name, overridden, properties, read_nodes
from advisor.probes.vendors.amd_select import select
from tests.unit.probes.fake import GIB, MACHINES, FakeSource

NODES = "/sys/class/kfd/kfd/topology/nodes"
SERIALS = ("8f1e2d3c4b5a6978", "0a1b2c3d4e5f6071")


def card(
    address: str = "0000:03:00.0",
    *,
    ids: tuple[str, str] = ("0x744c", "0xc8"),
    minor: int = 128,
    driver: str | None = "amdgpu",
    vram: int | str = 25753026560,
    **files: str,
) -> FakeSource:
    """A machine with one device: an RX 7900 XTX with all that a usual system says of it."""
    at = f"/sys/bus/pci/devices/{address}"
    texts = {"vendor": "0x1002", "class": "0x030000", "device": ids[0], "revision": ids[1]}
    texts |= {"mem_info_vram_total": str(vram), "mem_info_vram_used": "1073741824"} | files
    return FakeSource(
        {f"{at}/{name}": text + "\n" for name, text in texts.items()},
        names={"/sys/bus/pci/devices": (address,), f"{at}/drm": ("card0", f"renderD{minor}")},
        links={} if driver is None else {f"{at}/driver": driver},
        replies=files_of(minor),
    )


def files_of(*minors: int, kfd: bool | None = True, render: bool = True) -> dict[str, Any]:
    files = {f"/dev/dri/renderD{m}": {"open": render, "group": "render"} for m in minors}
    if kfd is not None:
        files["/dev/kfd"] = {"open": kfd, "group": "render"}
    return {"device-files": {"files": files}}


def node(
    source: FakeSource, number: int, address: str, gfx: int, *, units: int = 96, each: int = 2, **more: int
) -> None:
    """Add a node of the Kernel Fusion Driver; number 0 is the processor."""
    domain, bus, rest = address.split(":")
    slot, function = rest.split(".")
    location = int(bus, 16) << 8 | int(slot, 16) << 3 | int(function)
    known = {"simd_count": units * each, "simd_per_cu": each, "gfx_target_version": gfx, "vendor_id": 4098}
    known |= {"location_id": location, "domain": int(domain, 16), "mem_banks_count": 1, "drm_render_minor": 128} | more
    bank = known.pop("bank", 0)
    source.files[f"{NODES}/{number}/properties"] = "".join(f"{k} {v}\n" for k, v in known.items())
    source.files[f"{NODES}/{number}/mem_banks/0/properties"] = f"heap_type 1\nsize_in_bytes {bank}\n"
    source.files.setdefault(f"{NODES}/0/properties", "cpu_cores_count 16\nsimd_count 0\nvendor_id 0\n")
    source.listed[NODES] = tuple(sorted({*source.listed.get(NODES, ("0",)), str(number)}))
    source.there = (*source.there, "/dev/kfd")


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


def pair() -> FakeSource:
    """Two MI210, of which the kernel's second node is the first on the bus."""
    first, second = card("0000:63:00.0", ids=("0x740f", "0x02"), vram=64 * GIB), None
    second = card("0000:43:00.0", ids=("0x740f", "0x02"), vram=64 * GIB, minor=129)
    source = FakeSource(
        first.files | second.files,
        names=first.listed | second.listed | {"/sys/bus/pci/devices": ("0000:43:00.0", "0000:63:00.0")},
        links=first.links | second.links,
        replies=files_of(128, 129),
    )
    node(source, 1, "0000:63:00.0", 90010, units=104, each=4)
    node(source, 2, "0000:43:00.0", 90010, units=104, each=4, drm_render_minor=129)
    for address, serial in zip(("0000:63:00.0", "0000:43:00.0"), SERIALS, strict=True):
        source.files[f"/sys/bus/pci/devices/{address}/unique_id"] = serial + "\n"
    return source


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


# Readers of text


@pytest.mark.parametrize(
    ("version", "name"),
    [
        (110501, "gfx1151"),
        (110000, "gfx1100"),
        (90010, "gfx90a"),
        (90402, "gfx942"),
        (90006, "gfx906"),
        (80003, "gfx803"),
        (120001, "gfx1201"),
        (0, None),
        (99999999, None),
        (111600, None),
    ],
)
def test_names_of_architectures(version: int, name: str | None) -> None:
    assert gfx_name(version) == name


@pytest.mark.parametrize(
    ("value", "name"),
    [("10.3.0", "gfx1030"), ("11.0.0 ", "gfx1100"), ("9.0.10", "gfx90a"), ("gfx1030", None), ("", None)],
)
def test_overridden_architectures(value: str, name: str | None) -> None:
    assert overridden(value) == name


@settings(deadline=None)
@given(st.text(max_size=400))
def test_any_text_has_properties(text: str) -> None:
    for name, value in properties(text).items():
        assert name.isascii()
        assert 0 <= value < 10**20


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            [
                *("vendor_id", "simd_count", "simd_per_cu", "gfx_target_version", "location_id", "domain"),
                *("drm_render_minor", "mem_banks_count", "heap_type"),
            ]
        ),
        st.integers(0, 1 << 64) | st.sampled_from([4098, 0, 1]),
    )
)
def test_any_numbers_make_a_node_or_none(known: dict[str, int]) -> None:
    source = FakeSource(
        {f"{NODES}/1/properties": "".join(f"{k} {v}\n" for k, v in known.items())}, names={NODES: ("0", "1", "x")}
    )
    for found in read_nodes(source):
        assert len(found.address) >= 12
        assert found.compute_units is None or 0 < found.compute_units <= 1 << 16
    check(detect(source).machine)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"]),
        st.lists(st.sampled_from(["0", "1", "2", "-1", "GPU-8f", "", "x", "٣", "9" * 30]) | st.text(max_size=6)).map(
            ",".join
        ),
    ),
    st.booleans(),
)
def test_any_selection_shows_a_part(environment: dict[str, str], cuda: bool) -> None:
    found = select(("8f1e", "0a1b", ""), environment, Notes(), cuda=cuda)
    assert sorted({*found.order, *found.hidden}) == [0, 1, 2]
    assert not set(found.order) & set(found.hidden)
    assert len(set(found.order)) == len(found.order)


@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_any_text_in_any_file(data: st.DataObject) -> None:
    source = pair()
    path = data.draw(st.sampled_from(sorted(source.files)))
    source.files[path] = data.draw(st.text(max_size=60) | st.sampled_from(["", "0", "-1", "9" * 25, "0x", "\x1b[2J"]))
    check(detect(source).machine)


def check(machine: Machine) -> None:
    for device in machine.devices:
        assert device.memory.total_bytes is None or 1 << 20 <= device.memory.total_bytes <= 1 << 50
        assert device.unusable is not None or device.memory.total_bytes is not None
        assert "\x1b" not in device.name
