"""What the helper asks of the driver's library, of one that answers everything, and one that answers little."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from advisor.probes import ask
from advisor.probes.ask import nvml_reply


class NotSupported(Exception):
    pass


class FullNvml:
    """Two devices, the first of them split; a link is up on the second."""

    NVML_NVLINK_MAX_LINKS = 18
    NVML_FI_DEV_NVLINK_GET_SPEED = 164

    def __init__(self) -> None:
        self.named: list[int] = []

    def nvmlInit(self) -> None:
        return None

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return f"gpu{index}"

    def nvmlDeviceGetName(self, handle: str) -> str:
        return f"name of {handle}"

    def nvmlDeviceGetUUID(self, handle: str) -> bytes:
        return f"GPU-{handle}".encode()

    def nvmlDeviceGetPciInfo(self, handle: str) -> SimpleNamespace:
        return SimpleNamespace(busId=b"00000000:0A:00.0")

    def nvmlDeviceGetMemoryInfo(self, handle: str, version: int | None = None) -> SimpleNamespace:
        return SimpleNamespace(total=10, free=4, used=6)

    def nvmlDeviceGetEccMode(self, handle: str) -> list[int]:
        return [1, 1]

    def nvmlDeviceGetMaxClockInfo(self, handle: str, kind: int) -> int:
        assert kind == pynvml.NVML_CLOCK_MEM
        return 1215

    def nvmlDeviceGetMigMode(self, handle: str) -> list[int]:
        return [1, 1] if handle == "gpu0" else [0, 0]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: str) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: str, index: int) -> str:
        if index in (0, 2):
            return f"part{index}"
        raise NotSupported

    def nvmlDeviceGetAttributes_v2(self, handle: str) -> SimpleNamespace:
        if handle == "part2":
            raise NotSupported
        return SimpleNamespace(multiprocessorCount=42)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[SimpleNamespace]:
        found = [SimpleNamespace(pid=7, usedGpuMemory=100), SimpleNamespace(pid=8, usedGpuMemory=50)]
        return found if handle == "gpu1" else []

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=7, usedGpuMemory=120)] if handle == "gpu1" else []

    def nvmlSystemGetProcessName(self, pid: int) -> str:
        self.named.append(pid)
        return "secret"

    def nvmlDeviceGetNvLinkState(self, handle: str, link: int) -> int:
        if handle == "gpu0" or link >= 4:
            raise NotSupported
        return int(link != 1)

    def nvmlDeviceGetNvLinkVersion(self, handle: str, link: int) -> int:
        return 5

    def nvmlDeviceGetFieldValues(self, handle: str, fields: list[tuple[int, int]]) -> list[SimpleNamespace]:
        assert fields == [(164, 0)]
        return [SimpleNamespace(nvmlReturn=0, valueType=1, value=SimpleNamespace(uiVal=14062, ullVal=0))]

    def nvmlSystemGetDriverVersion(self) -> str:
        return "550.1"


def test_everything_is_written_down() -> None:
    nvml = FullNvml()
    reply = nvml_reply(nvml)
    split, linked = reply["devices"]
    assert split["pci"] == "00000000:0A:00.0"
    assert (split["ecc"], split["memory_clock_mhz"]) == ([1, 1], 1215)
    assert (split["nvlink"], linked["mig"]) == (None, None)
    first, second = split["mig"]["slices"]
    assert (first["name"], first["uuid"], first["multiprocessors"]) == ("name of part0", "GPU-part0", 42)
    assert second["multiprocessors"] == {"error": "NotSupported: "}
    assert linked["nvlink"] == {"active": 3, "version": 5, "mbps": 14062}
    # a process that computes and draws counts once, with the larger of its two figures
    assert linked["processes"] == {"count": 2, "used": 170}
    assert nvml.named == []
    json.dumps(reply, allow_nan=False)


def test_a_process_whose_memory_is_not_told_makes_the_sum_unknown() -> None:
    class Wddm(FullNvml):
        def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[SimpleNamespace]:
            return [SimpleNamespace(pid=7, usedGpuMemory=None)]

        def nvmlDeviceGetGraphicsRunningProcesses(self, handle: str) -> list[SimpleNamespace]:
            return []

    assert nvml_reply(Wddm())["devices"][0]["processes"] == {"count": 1, "used": None}


@pytest.mark.parametrize(("kind", "status", "mbps"), [(3, 0, 26562), (0, 0, None), (1, 3, None), (1, 0, None)])
def test_the_speed_of_a_link_in_the_type_that_the_driver_says(kind: int, status: int, mbps: int | None) -> None:
    class Typed(FullNvml):
        def nvmlDeviceGetFieldValues(self, handle: str, fields: list[tuple[int, int]]) -> list[SimpleNamespace]:
            value = SimpleNamespace(uiVal=0, ullVal=26562)
            return [SimpleNamespace(nvmlReturn=status, valueType=kind, value=value)]

    assert nvml_reply(Typed())["devices"][1]["nvlink"]["mbps"] == mbps


class LostNvml(FullNvml):
    """The handle is there, the device is gone."""

    class NVMLError_GpuIsLost(Exception):
        pass

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvmlDeviceGet") and name not in ("nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex"):
            raise object.__getattribute__(self, "NVMLError_GpuIsLost")
        return object.__getattribute__(self, name)


def test_a_device_that_is_lost_answers_nothing_and_stops_nothing() -> None:
    for device in nvml_reply(LostNvml())["devices"]:
        assert device["name"] == {"error": "GPU_IS_LOST"}
        assert device["memory"] == {"error": "GPU_IS_LOST"}
        assert (device["mig"], device["nvlink"]) == (None, None)


@pytest.mark.parametrize("call", sorted({call for _, call in ask._CALLS}))
def test_the_binding_has_every_call(call: str) -> None:
    assert callable(getattr(pynvml, call))


def test_the_binding_has_the_constants_of_links() -> None:
    assert pynvml.NVML_FI_DEV_NVLINK_GET_SPEED > 0
    assert pynvml.NVML_NVLINK_MAX_LINKS >= 18
    assert {"uiVal", "ullVal"} <= {name for name, _ in pynvml.c_nvmlValue_t._fields_}
    assert (pynvml.NVML_VALUE_TYPE_UNSIGNED_INT, pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG) == (1, 3)
    assert pynvml.NVML_COMPUTEMODE_PROHIBITED == 2
    assert pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS == 3
    assert pynvml.NVML_GPU_VIRTUALIZATION_MODE_VGPU == 2
