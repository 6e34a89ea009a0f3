"""Machines that are named rather than probed."""

from __future__ import annotations

import pytest

from advisor.errors import AdvisorError
from advisor.facts.machine import Machine
from advisor.probes.catalog import bundled, machine_from, names
from advisor.probes.named import given
from advisor.probes.record import load_machine
from advisor.probes.sanity import Notes, sane_machine
from tests.unit.probes.fake import GIB, MACHINES

SERVER = load_machine(MACHINES / "cgroup-v2-limit").machine
DESKTOP = load_machine(MACHINES / "rtx-4090-desktop").machine


def make(
    *hardware: str,
    memory: int | None = None,
    vram: int | None = None,
    bandwidth: int | None = None,
    base: Machine = SERVER,
) -> Machine:
    return machine_from(hardware, memory=memory, vram=vram, bandwidth=bandwidth, base=base)


def code(*hardware: str, **sizes: int) -> str:
    with pytest.raises(AdvisorError) as caught:
        make(*hardware, **sizes)  # type: ignore[arg-type]
    assert caught.value.hint
    return caught.value.code


def test_nothing_named_is_this_machine() -> None:
    assert make() is SERVER
    assert make("this") is SERVER


def test_cpu_is_this_host_without_devices() -> None:
    machine = make("cpu", base=DESKTOP)
    assert machine.devices == ()
    assert machine.host == DESKTOP.host
    assert machine.named == "cpu"


def test_cpu_with_a_size() -> None:
    machine = make("cpu", memory=16 * GIB, bandwidth=50 * 10**9, base=DESKTOP)
    assert machine.host.memory.total_bytes == 16 * GIB
    assert machine.host.memory.limit_bytes is None
    assert machine.host.memory.available_bytes is None
    assert machine.host.bandwidth is not None
    assert machine.host.bandwidth.value == 50 * 10**9
    assert machine.named == "cpu with memory 16 GiB, bandwidth 50 GB/s"


def test_a_card_by_name_sits_in_this_host_and_says_so() -> None:
    machine = make("rtx-4090")
    (device,) = machine.devices
    assert (device.id, device.profile, device.vendor) == ("gpu0", "rtx-4090", "nvidia")
    assert device.memory.total_bytes == 24 * GIB
    assert device.memory.usable_bytes == 24564 << 20
    assert device.memory.free_bytes is None
    assert machine.host == SERVER.host
    assert any(p.what == "host" and "--memory" in (p.note or "") for p in machine.provenance)
    assert machine.named == "rtx-4090"
    assert machine.runtimes == ()


def test_host_memory_of_a_named_machine() -> None:
    machine = make("rtx-4090", memory=128 * GIB)
    assert machine.host.memory.total_bytes == 128 * GIB
    assert machine.devices[0].memory.total_bytes == 24 * GIB


def test_counts_and_mixtures() -> None:
    machine = make("rtx-3090:2", "NVIDIA GeForce RTX 4090")
    assert [(d.id, d.profile) for d in machine.devices] == [
        ("gpu0", "rtx-3090"),
        ("gpu1", "rtx-3090"),
        ("gpu2", "rtx-4090"),
    ]
    assert machine.named == "rtx-3090:2 + NVIDIA GeForce RTX 4090"


def test_this_machine_and_one_more_card() -> None:
    machine = make("this", "rtx-3090", base=DESKTOP)
    assert [d.profile for d in machine.devices] == ["rtx-4090", "rtx-3090"]
    assert [d.id for d in machine.devices] == ["gpu0", "gpu1"]
    assert machine.host == DESKTOP.host


def test_unified_memory_is_the_one_memory() -> None:
    machine = make("m2-ultra-76")
    (device,) = machine.devices
    host = machine.host
    assert (host.os, host.arch, host.cpu.name) == ("darwin", "arm64", "Apple M2 Ultra")
    assert device.unified_memory
    assert device.memory.total_bytes == host.memory.total_bytes == 192 * GIB
    assert device.memory.usable_bytes == 144 * GIB
    assert host.memory.limit_bytes is None
    assert host.bandwidth is not None
    assert host.bandwidth.method == "guess"
    assert host.bandwidth.high <= device.bandwidth.value  # type: ignore[union-attr]


def test_unified_memory_of_another_size() -> None:
    machine = make("m2-ultra-76", memory=64 * GIB)
    assert machine.host.memory.total_bytes == machine.devices[0].memory.total_bytes == 64 * GIB
    assert machine.devices[0].memory.usable_bytes == 48 * GIB
    small = make("m1", memory=8 * GIB).devices[0].memory
    assert small.total_bytes == 8 * GIB
    assert small.usable_bytes == int(8 * GIB * 0.66)


def test_vram_of_a_unified_device_is_what_it_may_take() -> None:
    (device,) = make("m2-ultra-76", vram=180 * GIB).devices
    assert (device.memory.total_bytes, device.memory.usable_bytes) == (192 * GIB, 180 * GIB)
    assert code("m2-ultra-76", vram=193 * GIB) == "contradictory-options"


def test_integrated_graphics_without_a_size_of_its_own_takes_the_hosts() -> None:
    machine = make("radeon-890m")
    assert machine.devices[0].memory.total_bytes == SERVER.host.memory.total_bytes
    assert machine.host.cpu.name == "AMD Ryzen AI 9 HX 370"


def test_sizes_alone_describe_a_discrete_device() -> None:
    machine = make(vram=24 * GIB, bandwidth=1008 * 10**9)
    (device,) = machine.devices
    assert device.memory.total_bytes == device.memory.usable_bytes == 24 * GIB
    assert device.bandwidth is not None
    assert (device.bandwidth.value, device.bandwidth.source) == (1008 * 10**9, "given by you (--bandwidth)")
    assert (device.vendor, device.compute_capability, device.profile) == ("nvidia", None, None)
    assert machine.host.bandwidth is None
    assert machine.named == "this machine with vram 24 GiB, bandwidth 1008 GB/s"


def test_sizes_change_the_devices_of_this_machine() -> None:
    (device,) = make(vram=12 * GIB, base=DESKTOP).devices
    assert (device.profile, device.memory.total_bytes, device.memory.free_bytes) == ("rtx-4090", 12 * GIB, None)


def test_bandwidth_without_a_device_is_the_hosts() -> None:
    machine = make(bandwidth=40 * 10**9)
    assert machine.host.bandwidth is not None
    assert machine.host.bandwidth.value == 40 * 10**9
    assert machine.devices == ()


@pytest.mark.parametrize("word", ["rtx-3090:0", "rtx-3090:65", "rtx-3090:-1", "rtx-3090:two", "rtx-3090:", "cpu:99999"])
def test_counts_that_make_no_sense(word: str) -> None:
    assert code(word) == "bad-option"


def test_contradictions() -> None:
    assert code("cpu", "rtx-4090") == "contradictory-options"
    assert code("cpu", vram=GIB) == "contradictory-options"
    assert code("m2-ultra-76:2") == "contradictory-options"
    assert code("this", "m2-ultra-76") == "contradictory-options"
    assert code("no-such-card") == "hardware-not-found"


@pytest.mark.parametrize(
    "sizes", [{"memory": 1 << 62}, {"memory": 0}, {"vram": -1}, {"bandwidth": 3}, {"bandwidth": 1 << 62}]
)
def test_sizes_out_of_bounds(sizes: dict[str, int]) -> None:
    assert code("rtx-4090", **sizes) == "bad-option"


@pytest.mark.parametrize("name", names())
def test_every_profile_makes_a_sane_machine(name: str) -> None:
    machine = make(name, base=DESKTOP)
    assert sane_machine(machine, Notes(machine.provenance)) == machine
    assert machine == make(name, base=DESKTOP)
    if bundled(name).host_only:
        assert machine.devices == ()
        assert machine.host.memory.total_bytes == bundled(name).memory_bytes
        return
    (device,) = machine.devices
    assert device.memory.total_bytes is not None
    assert device.memory.usable_bytes is None or device.memory.usable_bytes <= device.memory.total_bytes


def test_what_was_named_says_so() -> None:
    machine = make(vram=24 * GIB, bandwidth=1008 * 10**9, memory=64 * GIB)
    assert given(machine) == (
        "host.memory: 64.0 GiB, all of it free, given by you (--memory)",
        "gpu0: no device is named, so it is taken to be a discrete NVIDIA one",
        "gpu0.memory: 24.0 GiB, given by you (--vram)",
        "gpu0.bandwidth: 1008 GB/s, given by you (--bandwidth)",
    )
    assert given(make("rtx-4090")) == ()
    assert given(SERVER) == ()
    unified = make("m2-ultra-76", memory=192 * GIB, bandwidth=700 * 10**9)
    assert given(unified)[0] == "host.memory: 192 GiB, the one memory, given by you (--memory)"
    assert unified.devices[0].memory.total_bytes == unified.host.memory.total_bytes == 192 * GIB


@pytest.mark.parametrize("word", ["2x rtx-4090", "2 x rtx-4090", "rtx-4090 x2", "rtx-4090 x 2", "2*rtx-4090"])
def test_a_count_that_is_written_otherwise_is_told_how(word: str) -> None:
    with pytest.raises(AdvisorError) as caught:
        make(word)
    assert caught.value.code == "bad-option"
    assert caught.value.hint == "advisor recommend --hardware rtx-4090:2"


def test_a_small_computer_is_its_host_and_its_memory() -> None:
    machine = make("raspberry-pi-5", base=DESKTOP)
    assert (machine.devices, machine.host.arch, machine.host.cpu.cores_logical) == ((), "aarch64", 4)
    assert machine.host.memory.total_bytes == 8 * GIB
    read = machine.host.bandwidth
    assert read is not None and read.method == "guess"
    assert read.value < read.high <= 17_068_000_000 == bundled("raspberry-pi-5-8gb").bandwidth_bytes_per_s
    assert make("raspberry-pi-5", memory=4 * GIB).host.memory.total_bytes == 4 * GIB
    named = make("raspberry-pi-5", bandwidth=9 * 10**9).host.bandwidth
    assert named is not None and named.value == 9 * 10**9
    assert code("raspberry-pi-5", vram=4 * GIB) == "contradictory-options"
    assert code("raspberry-pi-5:2") == code("raspberry-pi-5", "n100") == "contradictory-options"


@pytest.mark.parametrize("word", ["cpu:2", "this:2"])
def test_a_machine_takes_no_count(word: str) -> None:
    assert code(word) == "bad-option"
    assert code("cpu:0") == "bad-option"


@pytest.mark.parametrize("whole", ["m2-ultra-76", "gb10", "raspberry-pi-5"])
def test_a_whole_machine_takes_no_card(whole: str) -> None:
    assert code(whole, "rtx-4090") == "contradictory-options"
    assert code("rtx-4090", whole) == "contradictory-options"


def test_a_card_stands_beside_integrated_graphics() -> None:
    assert [d.profile for d in make("ryzen-ai-max-395", "rtx-4090").devices] == ["ryzen-ai-max-395", "rtx-4090"]
