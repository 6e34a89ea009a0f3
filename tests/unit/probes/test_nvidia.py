"""NVIDIA devices: what the driver says, what it does not say, and what cannot be right."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.facts.machine import Device, Provenance
from advisor.probes.ask import nvml_reply
from advisor.probes.detect import Probed, detect
from tests.unit.probes.fake import GIB, FakeSource

MIB = 1 << 20


def gpu(index: int = 0, name: str = "NVIDIA GeForce RTX 3090", **changes: Any) -> dict[str, Any]:
    return {
        "index": index,
        "name": name,
        "uuid": f"GPU-{index:08d}-aaaa",
        "memory": {"total": 24576 * MIB, "free": 20000 * MIB, "reserved": 400 * MIB},
        "compute_capability": [8, 6],
        "pcie_gen": 4,
        "pcie_width": 8,
        "mig": None,
    } | changes


def selected(visible: str | None) -> dict[str, str]:
    return {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}


def probe(*devices: dict[str, Any], visible: str | None = None, **reply: Any) -> Probed:
    driver = reply or {"driver": "570.00", "cuda": 12080, "devices": list(devices)}
    return detect(FakeSource(present=("/dev/nvidiactl",), replies={"nvml": driver}), environment=selected(visible))


def one(device: dict[str, Any]) -> tuple[Device, tuple[Provenance, ...]]:
    machine = probe(device).machine
    (found,) = machine.devices
    return found, machine.provenance


def test_without_a_sign_of_a_device_the_driver_is_not_asked() -> None:
    source = FakeSource(replies={"nvml": {"devices": [gpu()]}})
    assert detect(source).machine.devices == ()
    assert source.asked == 0


def test_three_memories() -> None:
    device, _ = one(gpu())
    assert device.memory.total_bytes == 24576 * MIB
    assert device.memory.usable_bytes == 24176 * MIB
    assert device.memory.free_bytes == 20000 * MIB
    assert device.profile == "rtx-3090"
    assert device.fp16_tflops == 71.2


def test_an_old_driver_does_not_say_what_it_keeps() -> None:
    device, _ = one(gpu(memory={"total": 24576 * MIB, "free": 20000 * MIB}))
    assert device.memory.usable_bytes is None
    assert device.memory.total_bytes == 24576 * MIB


def test_memory_not_supported_is_unknown_not_zero() -> None:
    device, provenance = one(gpu(memory={"error": "NOT_SUPPORTED"}))
    assert device.memory.total_bytes is None
    assert device.unusable is None
    assert any(p.note == "memory is not reported; unknown" for p in provenance)


def test_memory_not_supported_on_a_unified_device_is_the_hosts() -> None:
    device, _ = one(gpu(name="NVIDIA GB10", memory={"error": "NOT_SUPPORTED"}, compute_capability=[12, 1]))
    assert device.unified_memory
    assert device.memory.total_bytes == 8 * GIB
    assert device.memory.free_bytes == 6 * GIB
    assert device.compute_capability == 12.1


@pytest.mark.parametrize("total", [1 << 63, -1, 0, "24 GB", None, True, 1.5e30])
def test_absurd_memory_is_unknown(total: object) -> None:
    device, provenance = one(gpu(memory={"total": total, "free": 1}))
    assert device.memory.total_bytes is None
    assert device.profile == "rtx-3090"
    if total is not None:
        assert any((p.note or "").startswith("invalid") for p in provenance)


def test_absurd_values_are_warned_of() -> None:
    warnings = probe(gpu(memory={"total": 1 << 63, "free": 1}, pcie_gen=99)).warnings
    assert {w.code for w in warnings} == {"probe-invalid-value"}
    assert len(warnings) == 2


def test_more_free_than_there_is_cannot_be() -> None:
    device, _ = one(gpu(memory={"total": 100 * MIB, "free": 200 * MIB, "reserved": 300 * MIB}))
    assert device.memory.free_bytes is None
    assert device.memory.usable_bytes is None


def test_a_name_is_matched_whole_or_not_at_all() -> None:
    device, provenance = one(gpu(name="NVIDIA GeForce RTX 3090 Super Extra"))
    assert (device.profile, device.bandwidth, device.formats) == (None, None, {})
    assert device.unusable is None
    assert any(p.source == "profiles/hardware" for p in provenance)


def test_one_name_for_two_sizes_is_told_apart_by_the_memory() -> None:
    name = "NVIDIA GeForce RTX 3060"
    assert one(gpu(name=name, memory={"total": 12288 * MIB, "free": 0}))[0].profile == "rtx-3060-12gb"
    assert one(gpu(name=name, memory={"total": 8192 * MIB, "free": 0}))[0].profile == "rtx-3060-8gb"
    assert one(gpu(name=name, memory={"total": 6144 * MIB, "free": 0}))[0].profile is None


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("LIB_RM_VERSION_MISMATCH", "different versions"),
        ("DRIVER_NOT_LOADED", "not loaded"),
        ("LIBRARY_NOT_FOUND", "not installed"),
        ("deadline", "within 3 s"),
        ("SOMETHING_NEW", "SOMETHING_NEW"),
    ],
)
def test_a_failing_driver_leaves_an_unusable_device_with_the_reason(code: str, words: str) -> None:
    machine, warnings = probe(error={"code": code, "message": "x"})
    (device,) = machine.devices
    assert device.unusable is not None
    assert words in device.unusable
    assert device.memory.total_bytes is None
    assert [w.code for w in warnings] == ["device-unusable"]


def test_each_device_on_the_bus_is_listed_when_the_driver_fails() -> None:
    addresses = ("0000:01:00.0", "0000:02:00.0", "0000:03:00.0", "0000:04:00.0")
    kinds = (("0x10de", "0x030000"), ("0x10de", "0x030200"), ("0x10de", "0x040300"), ("0x1234", "0x030000"))
    files = {}
    for address, (vendor, kind) in zip(addresses, kinds, strict=True):
        folder = f"/sys/bus/pci/devices/{address}"
        files |= {f"{folder}/vendor": vendor, f"{folder}/class": kind, f"{folder}/device": "0x2684"}
    source = FakeSource(
        files, names={"/sys/bus/pci/devices": addresses}, replies={"nvml": {"error": {"code": "deadline"}}}
    )
    devices = detect(source).machine.devices
    assert [d.name for d in devices] == ["NVIDIA GeForce RTX 4090 (by PCI id)"] * 2
    assert all(d.unusable for d in devices)


def test_wsl_without_an_nvidia_device_lists_none() -> None:
    source = FakeSource(present=("/dev/dxg",), replies={"nvml": {"error": {"code": "LIBRARY_NOT_FOUND"}}})
    assert detect(source).machine.devices == ()
    assert source.asked == 1


def test_one_of_two_has_fallen_off_the_bus() -> None:
    machine, _ = probe({"index": 0, "error": "GPU_IS_LOST"}, gpu(1))
    assert [d.id for d in machine.devices] == ["gpu0", "gpu1"]
    assert machine.devices[0].unusable is None
    assert "fallen off the bus" in (machine.devices[1].unusable or "")


def test_mig_without_slices_and_with() -> None:
    a100 = gpu(name="NVIDIA A100-SXM4-80GB", memory={"total": 81920 * MIB, "free": 0})
    machine, _ = probe(a100 | {"mig": {"slices": []}})
    assert machine.devices[0].unusable == "it is in MIG mode, but has no slices"
    part = {"name": "NVIDIA A100-SXM4-80GB MIG 3g.40gb", "uuid": "MIG-1", "memory": {"total": 40960 * MIB, "free": 1}}
    (device,) = probe(a100 | {"mig": {"slices": [part]}}).machine.devices
    assert device.memory.total_bytes == 40960 * MIB
    assert device.bandwidth is not None
    assert (device.bandwidth.value, device.bandwidth.method) == (2039 * 10**9 // 2, "formula")


def test_two_different_cards_keep_the_order_of_the_selection() -> None:
    machine, warnings = probe(gpu(0), gpu(1, "Tesla T4", memory={"total": 15360 * MIB, "free": 1}), visible="1,0")
    assert [d.profile for d in machine.devices] == ["t4", "rtx-3090"]
    assert warnings == ()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
KEYS = ("index", "name", "uuid", "memory", "compute_capability", "pcie_gen", "pcie_width", "mig", "error")


@settings(deadline=None)
@given(
    st.fixed_dictionaries({}, optional={"driver": JSON, "cuda": JSON, "devices": JSON, "error": JSON}),
    st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, JSON)), max_size=3),
    st.none() | st.text(max_size=10),
)
def test_any_reply_gives_a_machine(reply: dict[str, Any], devices: list[Any], visible: str | None) -> None:
    for answer in (reply, {"driver": "1", "devices": devices}):
        machine = detect(
            FakeSource(present=("/dev/nvidiactl",), replies={"nvml": answer}), environment=selected(visible)
        ).machine
        for device in machine.devices:
            assert device.memory.total_bytes is None or device.memory.total_bytes >= MIB


class FakeNvml:
    """The calls of pynvml that the helper makes."""

    nvmlMemory_v2 = 0x02000028

    class NVMLError_NotSupported(Exception):
        pass

    class NVMLError_LibRmVersionMismatch(Exception):
        pass

    def __init__(self, *, mismatch: bool = False, version_2: bool = True) -> None:
        self.mismatch, self.version_2 = mismatch, version_2

    def nvmlInit(self) -> None:
        if self.mismatch:
            raise self.NVMLError_LibRmVersionMismatch("Driver/library version mismatch")

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return f"handle {index}"

    def nvmlDeviceGetName(self, handle: str) -> bytes:
        return b"NVIDIA GeForce RTX 4090"

    def nvmlDeviceGetMemoryInfo(self, handle: str, version: int | None = None) -> SimpleNamespace:
        if version is None:
            return SimpleNamespace(total=10, free=4, used=6)
        if not self.version_2:
            raise self.NVMLError_NotSupported
        return SimpleNamespace(total=10, free=4, used=5, reserved=1)

    def nvmlDeviceGetCudaComputeCapability(self, handle: str) -> tuple[int, int]:
        return (8, 9)

    def nvmlDeviceGetMaxPcieLinkGeneration(self, handle: str) -> int:
        raise self.NVMLError_NotSupported

    def nvmlDeviceGetMigMode(self, handle: str) -> list[int]:
        raise self.NVMLError_NotSupported

    def nvmlSystemGetDriverVersion(self) -> str:
        return "550.1"


def test_the_helper_writes_down_what_the_driver_says() -> None:
    reply = nvml_reply(FakeNvml())
    (device,) = reply["devices"]
    assert reply["driver"] == "550.1"
    assert device["name"] == "NVIDIA GeForce RTX 4090"
    assert device["memory"] == {"total": 10, "free": 4, "reserved": 1}
    assert device["pcie_gen"] == {"error": "NOT_SUPPORTED"}
    assert device["mig"] is None
    assert "AttributeError" in device["uuid"]["error"]


def test_the_helper_falls_back_to_the_first_version_of_the_memory_call() -> None:
    assert nvml_reply(FakeNvml(version_2=False))["devices"][0]["memory"] == {"total": 10, "free": 4}


def test_the_helper_names_the_drivers_error() -> None:
    error = nvml_reply(FakeNvml(mismatch=True))["error"]
    assert error["code"] == "LIB_RM_VERSION_MISMATCH"


def test_a_limit_of_the_group_counts_for_a_unified_device() -> None:
    source = FakeSource(
        present=("/dev/nvidiactl",),
        replies={"nvml": {"devices": [gpu(name="NVIDIA GB10", memory={"error": "NOT_SUPPORTED"})]}},
    )
    source.files["/proc/self/cgroup"] = "0::/box\n"
    source.files["/proc/self/mountinfo"] = "29 22 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n"
    source.files["/sys/fs/cgroup/box/memory.max"] = str(2 * GIB)
    (device,) = detect(source).machine.devices
    assert device.memory.total_bytes == 2 * GIB
