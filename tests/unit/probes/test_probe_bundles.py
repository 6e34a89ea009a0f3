"""Every recorded machine gives a valid, repeatable machine with the figures that its inputs say."""

from __future__ import annotations

import json
import re

import pytest

from advisor.facts.base import loads
from advisor.facts.machine import Machine
from advisor.facts.plan import Warning_
from advisor.probes.bundle import BundleSource
from advisor.probes.detect import detect
from advisor.probes.record import load_machine
from advisor.probes.sanity import Notes, sane_machine
from tests.unit.probes.fake import GIB, MACHINES

BUNDLES = sorted(p.name for p in MACHINES.iterdir() if p.is_dir())


def test_the_five_machines_are_there() -> None:
    assert {
        "cgroup-v1-limit-and-quota",
        "cgroup-v2-limit",
        "firecracker-cgroup-v1",
        "one-cpu-affinity",
        "rtx-4090-desktop",
    } <= set(BUNDLES)


@pytest.mark.parametrize("name", BUNDLES)
def test_a_bundle_says_what_it_is(name: str) -> None:
    bundle = BundleSource(MACHINES / name).bundle
    assert bundle.provenance in ("real", "hand-made")
    assert bundle.made_from
    assert bundle.notes


@pytest.mark.parametrize("name", BUNDLES)
def test_a_bundle_gives_a_valid_machine_each_time_the_same(name: str) -> None:
    first, second = load_machine(MACHINES / name), load_machine(MACHINES / name)
    assert first == second
    machine = first.machine
    assert loads(Machine, machine.dumps()) == machine
    assert sane_machine(machine, Notes(machine.provenance)) == machine
    host = machine.host
    assert 0 < host.cpu.cores_granted <= host.cpu.cores_logical
    assert host.cpu.isa
    assert host.memory.available_bytes is not None
    assert host.memory.available_bytes <= (host.memory.limit_bytes or host.memory.total_bytes)
    assert [d.id for d in machine.devices] == [f"gpu{n}" for n in range(len(machine.devices))]


@pytest.mark.parametrize("name", BUNDLES)
def test_a_bundle_names_nobody(name: str) -> None:
    texts = [p.read_text() for p in (MACHINES / name).rglob("*") if p.is_file()]
    for text in [*texts, *(str(p) for p in (MACHINES / name).rglob("*"))]:
        assert not re.search(r"/home/(?!user)|/Users/(?!user)|[0-9a-f]{16,}[a-f][0-9a-f]*", text)
    own = BundleSource(MACHINES / name).text("/proc/self/cgroup") or ""
    groups = {part for line in own.splitlines() for part in line.split(":", 2)[2].split("/") if part}
    assert all(re.fullmatch(r"group-\d+|docker|(?:user|kubepods)\.slice", group) for group in groups), groups


@pytest.mark.parametrize(
    ("name", "total", "limit", "available", "granted"),
    [
        # limit 6 GiB (memory.high) less 4 GiB charged of which 2 GiB are cache; 1.5 CPUs by the group above
        ("cgroup-v2-limit", 16 * GIB, 6 * GIB, 4 * GIB, 1.5),
        # limit 2 GiB less 1.5 GiB charged of which 0.75 GiB are cache; quota 2.5 of a cpuset of 4
        ("cgroup-v1-limit-and-quota", 64 * GIB, 2 * GIB, GIB + GIB // 4, 2.5),
        ("rtx-4090-desktop", 64 * GIB, None, 58 * GIB, 32.0),
        ("firecracker-cgroup-v1", 24684096 * 1024, None, None, 2.0),
        ("one-cpu-affinity", 24684096 * 1024, None, None, 1.0),
    ],
)
def test_what_is_granted(name: str, total: int, limit: int | None, available: int | None, granted: float) -> None:
    host = load_machine(MACHINES / name).machine.host
    assert host.memory.total_bytes == total
    assert host.memory.limit_bytes == limit
    assert host.cpu.cores_granted == granted
    if available is not None:
        assert host.memory.available_bytes == available


def test_the_real_machine() -> None:
    host = load_machine(MACHINES / "firecracker-cgroup-v1").machine.host
    assert (host.os, host.arch, host.cpu.name) == ("linux", "x86_64", "AMD EPYC")
    assert {"avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16"} <= set(host.cpu.isa)
    assert (host.cpu.cores_physical, host.cpu.cores_logical) == (2, 2)


def test_the_rtx_4090() -> None:
    machine, warnings = load_machine(MACHINES / "rtx-4090-desktop")
    (device,) = machine.devices
    assert (device.vendor, device.profile, device.unusable) == ("nvidia", "rtx-4090", None)
    assert device.memory.total_bytes == 24564 << 20
    assert device.memory.usable_bytes == (24564 - 531) << 20
    assert device.memory.free_bytes == 23650 << 20
    assert device.compute_capability == 8.9
    assert device.formats["fp8"] == "native"
    assert device.bandwidth is not None
    assert (device.bandwidth.value, device.bandwidth.method) == (1008 * 10**9, "table")
    assert device.bandwidth.source == "profiles/hardware/rtx-4090.yaml"
    assert device.link is not None
    assert (device.link.pcie_gen, device.link.pcie_width) == (4, 16)
    assert device.driver == "550.144.03"
    assert warnings == ()


def test_cuda_visible_devices_hides_it() -> None:
    machine, warnings = detect(BundleSource(MACHINES / "rtx-4090-desktop"), environment={"CUDA_VISIBLE_DEVICES": ""})
    assert machine.devices[0].unusable == "hidden by CUDA_VISIBLE_DEVICES"
    assert warnings == (
        Warning_(
            code="device-unusable",
            message="gpu0, NVIDIA GeForce RTX 4090: hidden by CUDA_VISIBLE_DEVICES",
        ),
    )


@pytest.mark.parametrize("name", BUNDLES)
def test_the_document_of_probe_replays_as_the_bundle_does(name: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    machine = load_machine(MACHINES / name).machine
    for n, document in enumerate(
        (
            {"schema": "advisor/probe/v1", "advisor": "0", "data": {"machine": machine.to_json()}, "warnings": []},
            {"machine": machine.to_json()},
            machine.to_json(),
        )
    ):
        path = tmp_path / f"{n}.json"
        path.write_text(json.dumps(document))
        assert load_machine(path).machine == machine
