"""Intel devices from the files of i915 and xe: recorded machines, and every way to be unusable."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.facts.machine import Device
from advisor.probes.detect import detect
from advisor.probes.record import load_machine
from advisor.probes.sanity import Notes
from advisor.probes.vendors.intel_select import hidden
from tests.unit.probes.fake import GIB, MACHINES, FakeSource

CARD, INSIDE = "0000:03:00.0", "0000:00:02.0"


def window(size: int) -> str:
    """``resource`` with a BAR 2 of ``size`` bytes."""
    start = 0x6000000000
    return f"0x0000 0x0000 0x0\n0x0000 0x0000 0x0\n{start:#018x} {start + size - 1:#018x} 0x14220c\n"


def machine(
    *cards: tuple[str, str], driver: str | None = "xe", cpu: str = "", files: dict[str, str] | None = None
) -> FakeSource:
    """A machine with Intel devices, each by address and id; ``files`` are of the first."""
    texts, names, links, opened = {}, {"/sys/bus/pci/devices": tuple(a for a, _ in cards)}, {}, {}
    for n, (address, number) in enumerate(cards):
        at = f"/sys/bus/pci/devices/{address}"
        texts |= {f"{at}/vendor": "0x8086", f"{at}/class": "0x030000", f"{at}/device": number, f"{at}/revision": "0x04"}
        texts |= {f"{at}/{k}": v for k, v in (files or {}).items()} if n == 0 else {}
        names[f"{at}/drm"] = (f"card{n}", f"renderD{128 + n}")
        opened[f"/dev/dri/renderD{128 + n}"] = {"open": True, "group": "render"}
        if driver is not None:
            links[f"{at}/driver"] = driver
    texts["/proc/cpuinfo"] = f"processor : 0\nmodel name : {cpu}\n"
    texts["/proc/meminfo"] = f"MemTotal: {32 * GIB // 1024} kB\nMemAvailable: {20 * GIB // 1024} kB\n"
    return FakeSource(texts, names=names, links=links, replies={"device-files": {"files": opened}})


def one(source: FakeSource, **environment: str) -> Device:
    (found,) = detect(source, environment=environment).machine.devices
    return found


def test_a_card_beside_the_graphics_of_its_processor() -> None:
    probed = load_machine(MACHINES / "arc-b580-desktop")
    big, small = probed.machine.devices
    assert (big.profile, big.unusable, big.driver, big.apis) == ("arc-b580", None, "xe", ("level-zero", "vulkan"))
    assert (big.memory.total_bytes, big.memory.free_bytes, big.pci) == (12 * GIB, None, CARD)
    assert big.bandwidth is not None
    assert big.bandwidth.value == 456 * 10**9
    # The one lane of PCIe 1 that the device shows is not that of the slot.
    assert big.link is None
    assert (small.profile, small.driver, small.unified_memory) == (None, "i915", True)
    assert small.for_screens
    assert probed.warnings == ()


@pytest.mark.parametrize(
    ("files", "profile", "total"),
    [
        ({"tile0/physical_vram_size_bytes": str(16 * GIB)}, "arc-a770", 16 * GIB),
        ({"tile0/physical_vram_size_bytes": str(8 * GIB)}, "arc-a770-8gb", 8 * GIB),
        ({"drm/card0/lmem_total_bytes": str(8 * GIB)}, "arc-a770-8gb", 8 * GIB),
        ({"resource": window(16 * GIB)}, "arc-a770", 16 * GIB),
        ({"resource": window(8 * GIB)}, "arc-a770-8gb", 8 * GIB),
    ],
)
def test_two_cards_of_one_id(files: dict[str, str], profile: str, total: int) -> None:
    device = one(machine((CARD, "0x56a0"), files=files))
    assert (device.profile, device.memory.total_bytes, device.unusable) == (profile, total, None)


@pytest.mark.parametrize("files", [{}, {"resource": window(256 << 20)}, {"resource": "0x\n\n\n"}])
def test_a_card_of_unknown_size_is_not_guessed(files: dict[str, str]) -> None:
    device = one(machine((CARD, "0x56a0"), files=files))
    assert device.profile is None
    assert device.name == "Intel Arc A770 16GB or Intel Arc A770 8GB"
    assert "name which it is with --hardware" in (device.unusable or "")
    assert device.bandwidth is not None
    assert (device.bandwidth.low, device.bandwidth.high) == (512 * 10**9, 560 * 10**9)


def test_an_unknown_id_is_listed_but_not_planned_on() -> None:
    device = one(machine((CARD, "0xe2ff"), files={"tile0/physical_vram_size_bytes": str(24 * GIB)}))
    assert device.name == "Intel device e2ff (PCI)"
    assert device.unusable == "no profile has its PCI id; name it with --hardware"
    assert device.memory.total_bytes == 24 * GIB
    assert one(machine((CARD, "0xe2ff"))).memory.total_bytes is None


@pytest.mark.parametrize(
    ("driver", "words"),
    [(None, "no driver holds it; the kernel driver xe or i915 is needed"), ("vfio-pci", "virtual machine")],
)
def test_without_its_driver(driver: str | None, words: str) -> None:
    assert words in (one(machine((CARD, "0xe20b"), driver=driver)).unusable or "")


def test_without_its_device_file() -> None:
    source = machine((CARD, "0xe20b"))
    source.replies = {"device-files": {"files": {"/dev/dri/renderD128": {"open": False, "group": "render"}}}}
    device = one(source)
    assert device.unusable == (
        "this user may not open /dev/dri/renderD128: sudo usermod -aG render $USER, then log in again"
    )
    source.listed[f"/sys/bus/pci/devices/{CARD}/drm"] = ("card0",)
    assert "no device file for computing" in (one(source).unusable or "")


@pytest.mark.parametrize(
    ("number", "cpu", "profile"),
    [
        ("0x64a0", "Intel(R) Core(TM) Ultra 7 258V", "arc-140v"),
        ("0x64a0", "Intel(R) Core(TM) Ultra 5 226V", "arc-130v"),
        ("0x7d51", "Intel(R) Core(TM) Ultra 9 285H", "arc-140t"),
        ("0x7d55", "Intel(R) Core(TM) Ultra 5 125H", "arc-meteor-lake-7"),
    ],
)
def test_graphics_that_share_the_host_s_memory(number: str, cpu: str, profile: str) -> None:
    device = one(machine((INSIDE, number), cpu=cpu))
    assert (device.profile, device.unusable, device.unified_memory) == (profile, None, True)
    assert (device.memory.total_bytes, device.memory.usable_bytes) == (32 * GIB, 24 * GIB)
    assert device.memory.free_bytes == 20 * GIB


def test_twins_that_nothing_tells_apart_are_used_for_what_both_can() -> None:
    device = one(machine((INSIDE, "0x64a0"), cpu="Genuine Intel(R) 0000"))
    assert (device.profile, device.unusable) == (None, None)
    assert device.fp16_tflops == 26.5
    assert device.bandwidth is not None
    assert device.bandwidth.value == 136500000000


@pytest.mark.parametrize("size", ["0", "-1", str(1 << 62), "9" * 25, "12 GB", "١٢"])
def test_absurd_memory_is_unknown(size: str) -> None:
    device = one(machine((CARD, "0xe20b"), files={"tile0/physical_vram_size_bytes": size}))
    assert device.memory.total_bytes == 12 * GIB
    assert device.profile == "arc-b580"


@pytest.mark.parametrize(
    ("environment", "left"),
    [
        ({}, [0, 1, 2]),
        ({"ZE_AFFINITY_MASK": ""}, [0, 1, 2]),
        ({"ZE_AFFINITY_MASK": "0"}, [0]),
        ({"ZE_AFFINITY_MASK": "0.0,2"}, [0, 2]),
        ({"ZE_AFFINITY_MASK": "7"}, []),
        ({"ZE_AFFINITY_MASK": "x"}, []),
        ({"ONEAPI_DEVICE_SELECTOR": "level_zero:1"}, [1]),
        ({"ONEAPI_DEVICE_SELECTOR": "level_zero:gpu"}, [0, 1, 2]),
        ({"ONEAPI_DEVICE_SELECTOR": "*:*"}, [0, 1, 2]),
        ({"ONEAPI_DEVICE_SELECTOR": "*:cpu"}, []),
        ({"ONEAPI_DEVICE_SELECTOR": "cuda:*"}, []),
        ({"ONEAPI_DEVICE_SELECTOR": "opencl:cpu;level_zero:0,2"}, [0, 2]),
        ({"ONEAPI_DEVICE_SELECTOR": "!level_zero:1"}, [0, 2]),
        ({"ONEAPI_DEVICE_SELECTOR": "level_zero:*;!level_zero:0"}, [1, 2]),
        ({"ONEAPI_DEVICE_SELECTOR": "LEVEL_ZERO:1.0"}, [1]),
        # A selector counts among what the mask leaves.
        ({"ZE_AFFINITY_MASK": "1,2", "ONEAPI_DEVICE_SELECTOR": "level_zero:1"}, [2]),
    ],
)
def test_selectors(environment: dict[str, str], left: list[int]) -> None:
    gone = hidden(3, environment, Notes())
    assert [n for n in range(3) if n not in gone] == left


def test_cards_are_numbered_before_graphics_inside_the_processor() -> None:
    source = machine((INSIDE, "0x64a0"), (CARD, "0xe20b"), cpu="Intel(R) Core(TM) Ultra 7 258V")
    devices = detect(source, environment={"ZE_AFFINITY_MASK": "0"}).machine.devices
    assert [(d.pci, d.unusable) for d in devices] == [(CARD, None), (INSIDE, "hidden by ZE_AFFINITY_MASK")]


@settings(deadline=None)
@given(
    st.integers(0, 5),
    st.dictionaries(
        st.sampled_from(["ZE_AFFINITY_MASK", "ONEAPI_DEVICE_SELECTOR"]),
        st.text(alphabet="0123.,;:!*gpuleve_zro ٣", max_size=40),
    ),
)
def test_any_selector_hides_a_part(count: int, environment: dict[str, str]) -> None:
    assert set(hidden(count, environment, Notes())) <= set(range(count))


@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_any_text_in_any_file(data: st.DataObject) -> None:
    files = {"tile0/physical_vram_size_bytes": str(16 * GIB), "resource": window(16 * GIB)}
    source = machine((CARD, "0x56a0"), (INSIDE, "0x64a0"), files=files)
    path = data.draw(st.sampled_from(sorted(p for p in source.files if p.startswith("/sys"))))
    source.files[path] = data.draw(st.text(max_size=80) | st.sampled_from(["", "0", "-1", "9" * 25, "0x", "\x1b[2J"]))
    for device in detect(source).machine.devices:
        assert device.memory.total_bytes is None or 1 << 20 <= device.memory.total_bytes <= 1 << 50
        assert device.unusable is not None or device.memory.total_bytes is not None
        assert "\x1b" not in device.name
