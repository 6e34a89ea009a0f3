"""Plans for machines of several makers: nothing is taken together that cannot work together, and nothing ranked that
the device's own programs cannot run."""

from __future__ import annotations

import msgspec
import pytest

from advisor import api
from advisor.facts.machine import Device
from advisor.planner.targets import targets
from advisor.probes.record import load_machine
from tests.unit.probes.fake import MACHINES


def taken(name: str) -> set[tuple[str, tuple[str, ...]]]:
    return {(t.placement, t.keys) for t in targets(load_machine(MACHINES / name).machine)}


def test_cards_of_several_makers_are_taken_apart_and_together() -> None:
    assert taken("mixed-vendors") == {
        ("cpu", ("host",)),
        ("gpu", ("gpu0",)),
        ("split", ("gpu0", "host")),
        ("gpu", ("gpu1",)),
        ("gpu", ("gpu2",)),
        ("split", ("gpu2", "host")),
        ("gpu", ("gpu0", "gpu2")),
        ("split", ("gpu0", "gpu2", "host")),
    }
    kinds = {t.keys: t.kind for t in targets(load_machine(MACHINES / "mixed-vendors").machine)}
    assert kinds["gpu0", "gpu2"] == kinds["gpu0", "gpu2", "host"] == "mixed"
    assert {kinds["gpu0",], kinds["gpu2",]} == {"nvidia", "intel"}


def test_graphics_for_screens_are_not_taken() -> None:
    for name in ("rx-7900-xtx-desktop", "arc-b580-desktop"):
        assert {key for _, keys in taken(name) for key in keys} == {"gpu0", "host"}


def test_a_card_and_graphics_of_one_maker_are_taken_apart() -> None:
    machine = load_machine(MACHINES / "rx-7900-xtx-desktop").machine
    inside = load_machine(MACHINES / "strix-halo").machine.devices[0]
    both: tuple[Device, ...] = (machine.devices[0], msgspec.structs.replace(inside, id="gpu1"))
    found = {t.keys for t in targets(msgspec.structs.replace(machine, devices=both)) if t.placement != "cpu"}
    assert found == {("gpu0",), ("gpu0", "host"), ("gpu1",)}


def test_four_of_eight() -> None:
    assert {len(keys) for place, keys in taken("mi300x-server") if place == "gpu"} == {1, 2, 4}


@pytest.mark.parametrize(
    ("machine", "runtime", "on_device"),
    [
        ("mi300x-server", "vllm", True),
        ("rx-7900-xtx-desktop", "vllm", True),
        ("strix-halo", "vllm", True),
        # gfx1030, and no way to ROCm at that.
        ("amd-no-kfd-access", "vllm", False),
        ("amd-no-kfd-access", "llama.cpp", True),
        ("rx-7900-xtx-desktop", "sglang", False),
        ("arc-b580-desktop", "llama.cpp", True),
    ],
)
def test_what_runs_on_the_device(machine: str, runtime: str, on_device: bool) -> None:
    found = api.recommend("8B", machine=MACHINES / machine, runtime=runtime)
    assert any("gpu0" in p.devices for p in found.plans) == on_device


def test_a_device_without_the_files_for_rocm_is_told_apart_from_one_without_kernels() -> None:
    machine = load_machine(MACHINES / "rx-7900-xtx-desktop").machine
    first = msgspec.structs.replace(machine.devices[0], apis=("vulkan",))
    closed = msgspec.structs.replace(machine, devices=(first, *machine.devices[1:]))
    found = api.recommend("8B", machine=closed, runtime="vllm")
    assert not any("gpu0" in p.devices for p in found.plans)
    assert any("gpu0" in p.devices for p in api.recommend("8B", machine=closed, runtime="llama.cpp").plans)
