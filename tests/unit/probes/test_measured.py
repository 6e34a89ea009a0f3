"""Measurements travel with a recording and lie over what was probed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from advisor.errors import AdvisorError
from advisor.facts.machine import Storage
from advisor.facts.quantity import Quantity, exact
from advisor.probes.bundle import BundleSource
from advisor.probes.measured import DeviceCopy, Measurements, apply
from advisor.probes.record import load_machine, record
from tests.unit.probes.fake import GIB, MACHINES

RATE = Quantity(value=40 * 10**9, low=30 * 10**9, high=41 * 10**9, unit="bytes/s", method="measured", source="memchr")
DISK = Quantity(value=10**9, low=9 * 10**8, high=11 * 10**8, unit="bytes/s", method="measured", source="O_DIRECT")
STORE = Storage(kind="local", filesystem="ext4", total_bytes=100 * GIB, free_bytes=50 * GIB, read=DISK)
COPY = Quantity(value=9 * 10**11, low=8 * 10**11, high=9 * 10**11, unit="bytes/s", method="measured", source="copy")
DESKTOP = MACHINES / "rtx-4090-desktop"


def known(**changes: object) -> Measurements:
    """Everything measured on the desktop."""
    copies = (DeviceCopy(device="gpu0", name="NVIDIA GeForce RTX 4090", quantity=COPY),)
    made = Measurements(measured_at="2026-01-02T03:04:05+00:00", bandwidth=RATE, store=STORE, devices=copies)
    return msgspec.structs.replace(made, **changes)


def test_a_recording_replays_with_its_measurements(tmp_path: Path) -> None:
    made = record(tmp_path / "b", source=BundleSource(DESKTOP), measurements=known())
    host, (device,) = made.machine.host, made.machine.devices
    assert (host.bandwidth, host.store, device.bandwidth) == (RATE, STORE, COPY)
    assert load_machine(tmp_path / "b") == made
    assert BundleSource(tmp_path / "b").bundle.measurements == known()


def test_a_recording_of_a_recording_keeps_them(tmp_path: Path) -> None:
    first = record(tmp_path / "1", source=BundleSource(DESKTOP), measurements=known())
    assert record(tmp_path / "2", source=BundleSource(tmp_path / "1")) == first == load_machine(tmp_path / "2")


def test_without_measurements_nothing_changes() -> None:
    machine = load_machine(DESKTOP).machine
    assert apply(machine, None) == machine
    assert apply(machine, Measurements()) == machine


def test_figures_of_another_device_are_left_out() -> None:
    machine = load_machine(DESKTOP).machine
    for other in (DeviceCopy(device="gpu1", name=machine.devices[0].name, quantity=COPY),
                  DeviceCopy(device="gpu0", name="NVIDIA L4", quantity=COPY)):  # fmt: skip
        assert apply(machine, Measurements(devices=(other,))).devices == machine.devices


def test_what_is_given_is_not_replaced() -> None:
    machine = load_machine(DESKTOP).machine
    given = exact(10**10, "bytes/s", "--bandwidth")
    machine = msgspec.structs.replace(machine, host=msgspec.structs.replace(machine.host, bandwidth=given))
    assert apply(machine, known()).host.bandwidth == given


def test_that_the_table_was_replaced_is_said() -> None:
    machine = apply(load_machine(DESKTOP).machine, known())
    (note,) = [p for p in machine.provenance if p.source == "device copy"]
    assert (note.what, note.note) == ("gpu0.bandwidth", "the table has 1008000000000")


@pytest.mark.parametrize("absurd", [-1, 0, 1 << 62])
def test_absurd_measurements_of_a_file_are_unknown(tmp_path: Path, absurd: int) -> None:
    bad = msgspec.structs.replace(RATE, value=absurd)
    slow = msgspec.structs.replace(STORE, read=msgspec.structs.replace(DISK, value=absurd), free_bytes=-5)
    record(tmp_path / "b", source=BundleSource(DESKTOP), measurements=known(bandwidth=bad, store=slow))
    machine, warnings = load_machine(tmp_path / "b")
    assert machine.host.bandwidth is None
    assert machine.host.store is not None
    assert (machine.host.store.read, machine.host.store.free_bytes) == (None, None)
    assert "probe-invalid-value" in {w.code for w in warnings}


def test_a_store_in_memory_is_warned_of(tmp_path: Path) -> None:
    tmpfs = Storage(kind="memory", filesystem="tmpfs", total_bytes=8 * GIB, free_bytes=8 * GIB)
    made = record(tmp_path / "b", source=BundleSource(DESKTOP), measurements=known(store=tmpfs))
    assert "store-in-memory" in {w.code for w in made.warnings}
    assert load_machine(tmp_path / "b").warnings == made.warnings


def test_measurements_of_another_shape_are_refused(tmp_path: Path) -> None:
    record(tmp_path / "b", source=BundleSource(DESKTOP), measurements=known())
    path = tmp_path / "b" / "bundle.json"
    path.write_text(path.read_text().replace('"measured_at"', '"measured"'))
    with pytest.raises(AdvisorError) as caught:
        load_machine(tmp_path / "b")
    assert caught.value.code == "bad-machine-file"
