"""The processor on systems that write it down in different ways."""

from __future__ import annotations

import pytest

from advisor.facts.machine import Cpu
from advisor.probes.catalog import names
from advisor.probes.cpu import ISA, cpu_list, read_cpu
from advisor.probes.detect import detect
from advisor.probes.sanity import Notes
from advisor.probes.source import Platform
from tests.unit.probes.fake import GIB, FakeSource


def read(source: FakeSource) -> Cpu:
    return read_cpu(source, source.platform(), Notes(), deadline_s=1.0)


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0-3,8,10-11\n", {0, 1, 2, 3, 8, 10, 11}),
        ("0", {0}),
        ("", set()),
        ("3-1,x,-2,5", {5}),
        ("0-999999999", set()),
        ("0-999999", set()),
    ],
)
def test_cpu_lists(text: str, cpus: set[int]) -> None:
    assert cpu_list(text) == cpus


def test_two_sockets_with_hyper_threads() -> None:
    blocks = [
        f"processor : {n}\nmodel name : Two Sockets\n"
        f"physical id : {n // 4}\ncore id : {n % 2}\nflags : avx2 secret fma\n"
        for n in range(8)
    ]
    cpu = read(FakeSource({"/proc/cpuinfo": "\n".join(blocks), "/sys/devices/system/cpu/online": "0-7\n"}))
    assert (cpu.name, cpu.cores_physical, cpu.cores_logical) == ("Two Sockets", 4, 8)
    assert cpu.isa == ("fma", "avx2")


def test_arm_cores_are_named_by_their_part_numbers_and_counted_by_their_topology() -> None:
    features = "fp asimd asimdhp asimddp i8mm bf16 sve sve2"
    block = f"processor : {{n}}\nFeatures : {features}\nCPU implementer : 0x41\nCPU part : {{p}}\n"
    files = {
        "/proc/cpuinfo": "\n".join(block.format(n=n, p=p) for n, p in enumerate(("0xd85", "0xd87"))),
        "/proc/device-tree/model": "NVIDIA DGX Spark\0",
        "/sys/devices/system/cpu/online": "0-1",
        "/sys/devices/system/cpu/cpu0/topology/core_cpus_list": "0\n",
        "/sys/devices/system/cpu/cpu1/topology/core_cpus_list": "1\n",
    }
    cpu = read(FakeSource(files, platform=Platform(system="Linux", machine="aarch64", cpu_count=2)))
    assert cpu.name == "Arm Cortex-X925 + Arm Cortex-A725 (NVIDIA DGX Spark)"
    assert cpu.isa == ("asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2")
    assert cpu.cores_physical == 2


def test_what_is_not_given_is_unknown_and_said() -> None:
    source = FakeSource({"/proc/cpuinfo": ""})
    notes = Notes()
    cpu = read_cpu(source, source.platform(), notes, deadline_s=1.0)
    assert cpu.name == "unknown x86_64 processor"
    assert cpu.isa == ()
    assert cpu.cores_physical is None
    assert cpu.cores_logical == 4
    assert {"cpu.name", "cpu.isa", "cpu.cores_physical"} <= {n.what for n in notes.entries if n.note}


def test_no_count_of_cores_at_all_is_one() -> None:
    source = FakeSource({}, affinity=None, platform=Platform(system="Linux", machine="x86_64", cpu_count=0))
    cpu = read(source)
    assert (cpu.cores_logical, cpu.cores_granted) == (1, 1.0)


def test_terminal_escapes_in_a_name_are_taken_out() -> None:
    assert read(FakeSource({"/proc/cpuinfo": "processor : 0\nmodel name : a\x1b[31mb\n"})).name == "ab"


class NoProc(FakeSource):
    def text(self, path: str, /) -> str | None:
        return None

    def exists(self, path: str, /) -> bool:
        return False


def test_without_proc_py_cpuinfo_is_asked() -> None:
    source = NoProc(
        affinity=None,
        platform=Platform(system="Darwin", machine="arm64", cpu_count=10, memory_bytes=32 * GIB),
        replies={"cpuinfo": {"brand_raw": "Apple M1 Pro", "flags": ["asimd", "odd"]}},
    )
    probed = detect(source)
    host = probed.machine.host
    assert (host.os, host.arch, host.cpu.name, host.cpu.cores_logical) == ("darwin", "arm64", "Apple M1 Pro", 10)
    assert host.memory.total_bytes == 32 * GIB
    assert host.memory.available_bytes is None
    (device,) = probed.machine.devices
    assert (device.vendor, device.unified_memory) == ("apple", True)
    # Without the number of GPU cores it is the least of its kind.
    assert device.profile == min(i for i in names() if i.startswith("m1-pro-"))
    assert device.memory.total_bytes == 32 * GIB
    assert device.memory.usable_bytes == int(32 * GIB * 0.66)


def test_an_apple_chip_sold_with_two_bandwidths_is_planned_with_the_lower() -> None:
    platform = Platform(system="Darwin", machine="arm64", cpu_count=14, memory_bytes=64 * GIB)
    (device,) = detect(
        NoProc(affinity=None, platform=platform, replies={"cpuinfo": {"brand_raw": "Apple M3 Max"}})
    ).machine.devices
    assert device.profile is None
    assert device.bandwidth is not None
    assert (device.bandwidth.value, device.bandwidth.high) == (307_200_000_000, 409_600_000_000)


def test_translated_python_on_apple_silicon_is_warned_of() -> None:
    platform = Platform(system="Darwin", machine="x86_64", cpu_count=8, memory_bytes=16 * GIB)
    probed = detect(NoProc(affinity=None, platform=platform, replies={"cpuinfo": {"brand_raw": "Apple M2"}}))
    assert "rosetta" in {w.code for w in probed.warnings}


def test_py_cpuinfo_without_an_answer() -> None:
    platform = Platform(system="FreeBSD", machine="amd64", cpu_count=2, memory_bytes=GIB)
    host = detect(NoProc(affinity=None, platform=platform)).machine.host
    assert (host.os, host.cpu.name, host.cpu.isa) == ("freebsd", "unknown amd64", ())


def test_the_list_of_flags_has_no_flag_twice() -> None:
    assert len(set(ISA)) == len(ISA)
