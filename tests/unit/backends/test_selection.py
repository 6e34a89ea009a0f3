"""A server sees the devices of its plan."""

from __future__ import annotations

from pathlib import Path

from advisor.backends.llama.binary import BinaryDevice
from advisor.backends.selection import environment, vulkan_names
from advisor.facts.machine import Vulkan, VulkanDevice
from advisor.probes.record import load_machine

MACHINES = Path(__file__).resolve().parents[2] / "fixtures" / "machines"


def test_one_slice_is_shown_by_its_uuid() -> None:
    devices = load_machine(MACHINES / "a100-pair-one-mig").machine.devices
    slices = [d for d in devices if d.mig is not None]
    whole = [d for d in devices if d.mig is None and d.unusable is None]
    assert slices
    assert whole
    for device in (slices[0], whole[0]):
        assert environment(devices, (device.id,)) == {"CUDA_VISIBLE_DEVICES": device.uuid}


def test_all_of_a_vendor_need_no_selection() -> None:
    devices = load_machine(MACHINES / "h100-sxm-pair-nvlink").machine.devices
    assert environment(devices, tuple(d.id for d in devices)) == {}
    second = devices[1]
    assert environment(devices, ("host", second.id)) == {"CUDA_VISIBLE_DEVICES": second.uuid}


def test_a_plan_for_the_cpu_selects_nothing() -> None:
    devices = load_machine(MACHINES / "h100-sxm-pair-nvlink").machine.devices
    assert environment(devices, ("host",)) == {}
    assert environment((), ("host",)) == {}


VULKAN = Vulkan(
    drivers=("radeon_icd", "intel_icd", "lvp_icd"),
    devices=(
        VulkanDevice(name="AMD Radeon RX 7900 XTX (RADV NAVI31)", kind="discrete", device="gpu0"),
        VulkanDevice(name="AMD Radeon RX 7900 XTX (RADV NAVI31)", kind="discrete", device="gpu1"),
        VulkanDevice(name="Intel(R) Arc(tm) A380 Graphics (DG2)", kind="discrete", device="gpu2"),
        VulkanDevice(name="llvmpipe (LLVM 15.0.6, 256 bits)", kind="cpu"),
    ),
)


def seen(*names: str, backend: str = "vulkan") -> tuple[BinaryDevice, ...]:
    return tuple(BinaryDevice(name=f"Vulkan{i}", backend=backend, description=n) for i, n in enumerate(names))


AMD, INTEL = "AMD Radeon RX 7900 XTX (RADV NAVI31)", "Intel(R) Arc(tm) A380 Graphics (DG2)"


def test_a_server_with_vulkan_is_told_the_names_of_its_devices() -> None:
    all_of_them = seen(INTEL, AMD, AMD)
    assert vulkan_names(VULKAN, ("gpu0",), all_of_them) == ("Vulkan1",)
    assert vulkan_names(VULKAN, ("gpu1", "host"), all_of_them) == ("Vulkan2",)
    assert vulkan_names(VULKAN, ("gpu2",), all_of_them) == ("Vulkan0",)
    assert vulkan_names(VULKAN, ("gpu1", "gpu0"), all_of_them) == ("Vulkan2", "Vulkan1")
    # Shares are told in the order of the plan's devices, which need not be Vulkan's.
    assert vulkan_names(VULKAN, ("gpu0", "gpu1", "gpu2"), all_of_them) == ("Vulkan1", "Vulkan2", "Vulkan0")


def test_nothing_is_named_where_all_are_meant_or_one_is_not_known() -> None:
    assert vulkan_names(VULKAN, ("gpu2", "gpu0", "gpu1"), seen(INTEL, AMD, AMD)) == ()
    assert vulkan_names(VULKAN, ("gpu2",), seen(AMD, AMD)) == ()
    assert vulkan_names(VULKAN, ("gpu3",), seen(INTEL, AMD, AMD)) == ()
    assert vulkan_names(None, ("gpu0",), seen(INTEL, AMD)) == ()
    assert vulkan_names(VULKAN, ("gpu0",), (*seen(AMD, AMD), *seen("A card", backend="cuda"))) == ()
