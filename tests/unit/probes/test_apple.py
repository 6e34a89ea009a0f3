"""Macs: chip, GPU cores, Metal's working set, the wired limit, Rosetta; from recordings, no Mac is here."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.planner.costing import threads
from advisor.probes import ask, darwin
from advisor.probes.bundle import BundleSource
from advisor.probes.catalog import names
from advisor.probes.detect import detect
from advisor.probes.record import load_machine
from advisor.probes.sanity import Notes
from advisor.probes.source import Platform
from advisor.probes.vendors.apple import gpu_cores
from tests.unit.probes.fake import GIB, MACHINES, FakeSource

SYSCTL = BundleSource(MACHINES / "m3-max-40").bundle.replies["sysctl"]["stdout"]


def mac(
    sysctl: str = SYSCTL,
    *,
    cores: int | None = 40,
    metal: dict[str, Any] | None = None,
    vm_stat: str | None = None,
    arch: str = "arm64",
    memory: int = 128 * GIB,
) -> FakeSource:
    """A Mac that answers what it is given."""
    replies: dict[str, dict[str, Any]] = {"sysctl": {"stdout": sysctl, "exit": 0}}
    if cores is not None:
        replies["ioreg"] = {"stdout": f'  |   "gpu-core-count" = {cores}\n', "exit": 0}
    if metal is not None:
        replies["metal"] = metal
    if vm_stat is not None:
        replies["vm_stat"] = {"stdout": vm_stat, "exit": 0}
    source = FakeSource(
        affinity=None,
        platform=Platform(system="Darwin", machine=arch, cpu_count=16, memory_bytes=memory),
        replies=replies,
    )
    source.files.clear()
    return source


def edited(**lines: str) -> str:
    """The lines of ``SYSCTL`` with some values replaced; names with ``__`` for dots."""
    found = darwin.parse_sysctl(SYSCTL) | {name.replace("__", "."): value for name, value in lines.items()}
    return "".join(f"{name}: {value}\n" for name, value in found.items())


@pytest.mark.parametrize(
    ("name", "profile", "total", "usable", "performance", "isa"),
    [
        ("m1-8gb", "m1", 8 * GIB, 5_726_633_984, 4, set()),
        ("m3-max-40", "m3-max-40", 128 * GIB, 96 * GIB, 12, {"bf16", "i8mm"}),
        ("m2-ultra-76", "m2-ultra-76", 192 * GIB, 180 * GIB, 16, {"bf16", "i8mm"}),
    ],
)
def test_recorded_macs(name: str, profile: str, total: int, usable: int, performance: int, isa: set[str]) -> None:
    machine, warnings = load_machine(MACHINES / name)
    (device,) = machine.devices
    assert (device.vendor, device.profile, device.unusable) == ("apple", profile, None)
    assert (device.memory.total_bytes, device.memory.usable_bytes) == (total, usable)
    assert device.memory.free_bytes == min(usable, machine.host.memory.available_bytes or 0)
    assert device.unified_memory
    assert device.bandwidth is not None
    assert (device.bandwidth.method, device.bandwidth.low) == ("table", device.bandwidth.high)
    cpu = machine.host.cpu
    assert cpu.cores_performance == performance
    assert set(cpu.isa) == {"asimd", "asimdhp", "asimddp", "fphp"} | isa
    assert cpu.cores_granted == cpu.cores_logical == cpu.cores_physical
    assert warnings == ()


@pytest.mark.parametrize(("cores", "profile"), [(30, "m3-max-30"), (40, "m3-max-40"), (None, None), (48, None)])
def test_the_number_of_gpu_cores_selects_the_profile(cores: int | None, profile: str | None) -> None:
    (device,) = detect(mac(cores=cores)).machine.devices
    assert device.profile == profile
    assert device.bandwidth is not None
    expected = {"m3-max-30": (307.2e9, 307.2e9), "m3-max-40": (409.6e9, 409.6e9), None: (307.2e9, 409.6e9)}[profile]
    assert (device.bandwidth.value, device.bandwidth.high) == expected


def test_a_chip_with_fewer_cores_than_any_profile_has_less_arithmetic() -> None:
    text = edited(machdep__cpu__brand_string="Apple M1 Max")
    counts = [int(i.rpartition("-")[2]) for i in names() if i.startswith("m1-max-")]
    full = detect(mac(text, cores=min(counts))).machine.devices[0]
    less = detect(mac(text, cores=12)).machine.devices[0]
    assert full.profile == less.profile == f"m1-max-{min(counts)}"
    assert less.name == "Apple M1 Max (12)"
    assert full.fp16_tflops is not None
    assert less.fp16_tflops == pytest.approx(full.fp16_tflops * 12 / min(counts))
    assert less.bandwidth == full.bandwidth


def test_a_chip_that_no_profile_knows_is_there_without_a_bandwidth() -> None:
    (device,) = detect(mac(edited(machdep__cpu__brand_string="Apple M99 Ultra"))).machine.devices
    assert (device.profile, device.bandwidth, device.unusable) == (None, None, None)
    assert device.memory.total_bytes == 128 * GIB


def test_where_metal_does_not_answer_shares_of_other_macs_stand_and_it_is_said() -> None:
    machine = detect(mac()).machine
    (device,) = machine.devices
    assert device.memory.usable_bytes == 96 * GIB
    notes = [p for p in machine.provenance if p.what == "devices.apple.usable_bytes"]
    assert [p.source for p in notes] == ["shares measured on other Macs"]
    assert "Metal did not answer" in str(notes[0].note)


@pytest.mark.parametrize("name", ["iogpu.wired_limit_mb", "debug.iogpu.wired_limit"])
def test_the_wired_limit_raises_what_is_usable(name: str) -> None:
    text = edited(iogpu__wired_limit_mb="0") + f"{name}: 122880\n"
    if name.startswith("iogpu"):
        text = edited(iogpu__wired_limit_mb="122880")
    (device,) = detect(mac(text)).machine.devices
    assert device.memory.usable_bytes == 120 * GIB


def test_metal_is_believed_before_the_wired_limit() -> None:
    reply = {"name": "Apple M3 Max", "recommended_max_working_set_size": 100 * GIB}
    (device,) = detect(mac(edited(iogpu__wired_limit_mb="122880"), metal=reply)).machine.devices
    assert device.memory.usable_bytes == 100 * GIB


@pytest.mark.parametrize("value", [0, -1, 1 << 62, "many", None, 200 * GIB, True])
def test_an_absurd_working_set_is_not_planned_on(value: object) -> None:
    (device,) = detect(mac(metal={"recommended_max_working_set_size": value})).machine.devices
    assert device.memory.usable_bytes == 96 * GIB


def test_a_low_wired_limit_is_warned_of() -> None:
    probed = detect(mac(edited(iogpu__wired_limit_mb="16384")))
    assert probed.machine.devices[0].memory.usable_bytes == 16 * GIB
    assert [w.code for w in probed.warnings] == ["wired-limit-low"]
    assert "iogpu.wired_limit_mb" in probed.warnings[0].message


def test_rosetta_is_warned_of_and_its_gpu_not_planned_on() -> None:
    machine, warnings = load_machine(MACHINES / "rosetta-m2")
    (device,) = machine.devices
    assert machine.host.translated
    assert machine.host.arch == "x86_64"
    assert device.unusable is not None
    assert "Rosetta" in device.unusable
    assert {w.code for w in warnings} == {"rosetta", "device-unusable"}
    # What the translation offers, not what the chip could do.
    assert set(machine.host.cpu.isa) == {"ssse3", "sse4_2"}


@pytest.mark.parametrize(
    ("lines", "arch", "translated"),
    [
        ({"sysctl__proc_translated": "0"}, "arm64", False),
        ({"sysctl__proc_translated": "1"}, "arm64", True),
        ({"sysctl__proc_translated": "0"}, "x86_64", True),
        ({"machdep__cpu__brand_string": "VirtualApple @ 2.50GHz", "hw__optional__arm64": "0"}, "x86_64", True),
        ({"machdep__cpu__brand_string": "Intel(R) Core(TM) i9", "hw__optional__arm64": "0"}, "x86_64", False),
    ],
)
def test_how_a_translated_process_is_known(lines: dict[str, str], arch: str, translated: bool) -> None:
    assert detect(mac(edited(**lines), arch=arch)).machine.host.translated is translated


def test_an_intel_mac_has_no_device() -> None:
    text = "".join(
        (
            "hw.logicalcpu: 16\nhw.physicalcpu: 8\nhw.memsize: 34359738368\n",
            "machdep.cpu.brand_string: Intel(R) Core(TM) i9-9880H CPU @ 2.30GHz\n",
            "machdep.cpu.features: FPU SSE4.2 SSSE3 FMA AVX1.0 F16C\nmachdep.cpu.leaf7_features: AVX2 BMI2\n",
        )
    )
    machine, warnings = detect(mac(text, arch="x86_64", memory=32 * GIB))
    assert (machine.devices, warnings) == ((), ())
    assert set(machine.host.cpu.isa) == {"sse4_2", "ssse3", "avx", "f16c", "fma", "bmi2", "avx2"}
    assert machine.host.cpu.cores_performance is None
    assert any("not planned on" in str(p.note) for p in machine.provenance if p.what == "devices.apple")


def test_matrix_extensions_count_only_where_the_system_keeps_their_state() -> None:
    flags = {"hw__optional__arm__FEAT_SME": "1", "hw__optional__arm__FEAT_SME2": "1"}
    with_state = detect(mac(edited(**flags, hw__optional__arm__sme_max_svl_b="64"))).machine.host.cpu.isa
    without = detect(mac(edited(**flags, hw__optional__arm__sme_max_svl_b="0"))).machine.host.cpu.isa
    assert {"sme", "sme2"} <= set(with_state)
    assert not {"sme", "sme2"} & set(without)


def test_threads_are_the_fast_cores() -> None:
    machine = load_machine(MACHINES / "m3-max-40").machine
    assert (machine.host.cpu.cores_granted, threads(machine)) == (16.0, 12)


def test_free_memory_and_swap() -> None:
    text = (
        "Mach Virtual Memory Statistics: (page size of 16384 bytes)\n"
        "Pages free:  1000.\nPages inactive: 500.\nPages speculative: 20.\nPages wired down: 9.\n"
    )
    host = detect(mac(edited(vm__swapusage="total = 3072.00M  used = 1.00M  free = 1.5G"), vm_stat=text)).machine.host
    assert host.memory.available_bytes == 1520 * 16384
    assert host.swap is not None
    assert (host.swap.total_bytes, host.swap.free_bytes) == (3 * GIB, GIB + GIB // 2)


def test_more_free_memory_than_there_is_is_unknown() -> None:
    text = "page size of 16384 bytes\nPages free: 999999999.\nPages inactive: 1.\n"
    assert detect(mac(vm_stat=text)).machine.host.memory.available_bytes is None


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ('"gpu-core-count" = 40', 40),
        ('  |   "gpu-core-count" = 10\n  "x" = 1', 10),
        ('"gpu-core-count" = 0', None),
        ('"gpu-core-count" = 99999', None),
        ("", None),
        ('"gpu-core-count" = ', None),
        ('{"num_cores"=40}', None),
    ],
)
def test_gpu_cores(text: str, cores: int | None) -> None:
    assert gpu_cores({"stdout": text, "exit": 0}) == cores


def test_gpu_cores_of_a_failure() -> None:
    assert gpu_cores({"error": {"code": "deadline", "message": "no answer"}}) is None


@settings(deadline=None)
@given(st.text(max_size=400))
def test_readers_never_raise(text: str) -> None:
    found = darwin.parse_sysctl(text)
    assert all(isinstance(v, str) for v in found.values())
    assert all(v >= 0 for v in darwin.parse_vm_stat("page size of 16384 bytes\n" + text).values())
    assert (gpu_cores({"stdout": text}) or 1) >= 1
    darwin.swap({"vm.swapusage": text})


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(("sysctl", "ioreg", "metal", "vm_stat")),
        st.one_of(
            st.fixed_dictionaries({"stdout": st.text(max_size=120), "exit": st.integers(0, 2)}),
            st.dictionaries(st.text(max_size=8), st.one_of(st.integers(), st.text(max_size=8), st.none()), max_size=4),
        ),
    )
)
def test_whatever_a_mac_answers_there_is_a_machine(replies: dict[str, dict[str, Any]]) -> None:
    source = mac()
    source.replies |= replies
    machine = detect(source).machine
    assert machine.host.memory.total_bytes == 128 * GIB
    for device in machine.devices:
        assert device.memory.usable_bytes is None or 0 < device.memory.usable_bytes <= 128 * GIB


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.sampled_from(sorted(darwin.parse_sysctl(SYSCTL))), st.text(max_size=30)))
def test_absurd_values_of_sysctl_never_raise(values: dict[str, str]) -> None:
    cpu = darwin.read_cpu(darwin.parse_sysctl(SYSCTL) | values, Platform(system="Darwin", machine="arm64"), Notes())
    if cpu is not None:
        assert cpu.cores_logical >= 1
        assert msgspec.json.decode(cpu.dumps(), type=type(cpu)) == cpu


def test_the_helper_gives_figures_on_a_mac_and_the_reason_elsewhere() -> None:
    reply = ask.metal_reply()
    if sys.platform == "darwin":
        assert reply["recommended_max_working_set_size"] > 1 << 30
    else:
        assert reply["error"]["code"] == "not-installed"
