"""What of a device's memory is planned with, which devices are tried together, and what is said of memory in use."""

from __future__ import annotations

import msgspec
import pytest

from advisor.cost.placement import place
from advisor.facts.machine import Device, DeviceMemory, Machine, MigSlice, Processes
from advisor.facts.plan import Settings
from advisor.planner.devices import device_capacity, in_use
from advisor.planner.targets import targets
from tests.support import samples

GIB = 1 << 30


def gpu(
    n: int, *, usable: int | None = 24 * GIB, free: int | None = None, part: bool = False, unified: bool = False
) -> Device:
    return Device(
        id=f"gpu{n}",
        vendor="nvidia",
        name="NVIDIA Example",
        profile=None,
        memory=DeviceMemory(total_bytes=25 * GIB, usable_bytes=usable, free_bytes=free),
        bandwidth=None,
        compute_capability=8.6,
        formats={},
        unified_memory=unified,
        link=None,
        unusable=None,
        mig=MigSlice(profile="3g.20gb") if part else None,
    )


def machine(*devices: Device) -> Machine:
    return msgspec.structs.replace(samples.sample_probe().machine, devices=devices)


def keys(*devices: Device) -> list[tuple[str, ...]]:
    return [t.keys for t in targets(machine(*devices)) if t.placement == "gpu"]


@pytest.mark.parametrize(
    ("usable", "free", "expected"),
    [(24, 4, 4), (24, None, 24), (None, 4, 4), (None, None, 25), (24, 0, 0), (20, 24, 20)],
)
def test_what_may_be_used(usable: int | None, free: int | None, expected: int) -> None:
    found = gpu(0, usable=None if usable is None else usable * GIB, free=None if free is None else free * GIB)
    assert device_capacity(found) == expected * GIB


def test_memory_that_others_hold_is_said() -> None:
    taken = msgspec.structs.replace(gpu(0, free=4 * GIB), processes=Processes(count=2, used_bytes=20 * GIB))
    said = in_use(taken)
    assert said == "gpu0: 20.0 of 24.0 GiB are held by 2 other processes; planned with the 4.0 GiB that are free now"
    assert "held by others" in (in_use(gpu(0, free=4 * GIB)) or "")
    one = msgspec.structs.replace(taken, processes=Processes(count=1))
    assert "1 other process;" in (in_use(one) or "")


@pytest.mark.parametrize(
    "device",
    [
        gpu(0),
        gpu(0, free=24 * GIB),
        gpu(0, free=24 * GIB - 300 * (1 << 20)),
        gpu(0, free=4 * GIB, unified=True),
        gpu(0, usable=23 * GIB, free=24 * GIB),
    ],
)
def test_nothing_is_said_of_an_idle_or_a_shared_memory(device: Device) -> None:
    assert in_use(device) is None


def test_the_first_device_is_the_one_with_most_memory_now() -> None:
    assert keys(gpu(0, free=4 * GIB), gpu(1, usable=16 * GIB, free=15 * GIB)) == [("gpu1",), ("gpu0", "gpu1")]
    assert keys(gpu(0), gpu(1, usable=16 * GIB)) == [("gpu0",), ("gpu0", "gpu1")]


def test_slices_are_tried_alone() -> None:
    assert keys(gpu(0, part=True), gpu(1, part=True), gpu(2)) == [("gpu2",), ("gpu0",)]
    assert keys(gpu(0, usable=10 * GIB, part=True), gpu(1, usable=20 * GIB, part=True)) == [("gpu1",)]
    assert [t.keys for t in targets(machine(gpu(0, part=True)))] == [("host",), ("gpu0",), ("gpu0", "host")]


def test_a_full_device_gets_next_to_nothing() -> None:
    where = place(32, Settings(context=4096, gpu_layers=33), machine(gpu(0, free=0), gpu(1)), ("gpu0", "gpu1"))
    assert where.layers.count("gpu0") <= 1
    assert where.layers.count("gpu1") >= 31
