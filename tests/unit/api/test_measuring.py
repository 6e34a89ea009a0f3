"""``probe --measure`` through the facade: kept for the boot, recorded, replayed; and two machines named at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from advisor import api
from advisor.api import measuring
from advisor.api.context import load_settings
from advisor.errors import AdvisorError
from advisor.facts.machine import Storage
from advisor.facts.quantity import exact
from advisor.facts.words import EXIT_USAGE
from advisor.probes import bandwidth, disk
from advisor.probes.bundle import BundleSource
from advisor.probes.measured import Measurements
from advisor.probes.record import record
from tests.unit.probes.fake import MACHINES


@pytest.fixture(autouse=True)
def little_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small working sets: what they show is not the machine's, but it is measured the same way."""
    memory, store = bandwidth.measure, disk.measure

    def quick_memory(**options: object) -> object:
        return memory(working_set_bytes=8 << 20, repeats=2, **options)  # type: ignore[arg-type]

    def quick_disk(folder: Path, **options: object) -> object:
        return store(folder, file_bytes=8 << 20, repeats=2, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(bandwidth, "measure", quick_memory)
    monkeypatch.setattr(disk, "measure", quick_disk)


def test_what_was_measured_is_recorded_and_replayed(tmp_path: Path) -> None:
    before = api.probe().machine.host
    assert before.bandwidth is None
    assert before.store is not None
    assert before.store.read is None
    made = api.probe(measure=True, record=tmp_path / "b").machine.host
    assert made.bandwidth is not None
    assert made.bandwidth.method == "measured"
    assert made.store is not None
    assert made.store.read is not None or made.store.kind == "memory"
    replayed = api.probe(machine=tmp_path / "b").machine.host
    assert replayed.bandwidth == made.bandwidth
    assert replayed.store is not None
    assert replayed.store.read == made.store.read
    later = api.probe(record=tmp_path / "later").machine.host
    assert later.bandwidth == made.bandwidth
    assert api.probe(machine=tmp_path / "later").machine.host.bandwidth == made.bandwidth


def test_a_disk_that_cannot_be_measured_leaves_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> object:
        raise AdvisorError("disk-full", "There is no space.")

    monkeypatch.setattr(disk, "measure", fails)
    report = api.probe(measure=True)
    assert report.machine.host.bandwidth is not None
    if report.machine.host.store is not None and report.machine.host.store.kind != "memory":
        assert "disk-not-measured" in {w.code for w in report.warnings}


def test_devices_without_an_environment_keep_the_table() -> None:
    machine = api.probe(machine=MACHINES / "rtx-4090-desktop").machine
    warnings = measuring.measure(machine, load_settings(None))
    (found,) = [w for w in warnings if w.code == "device-not-measured"]
    assert "gpu0" in found.message
    assert "no managed environment has torch" in found.message
    assert found.message.endswith("the table stands.")


def test_the_measured_disk_of_a_recording_predicts_the_start(tmp_path: Path) -> None:
    slow = exact(10**7, "bytes/s", "O_DIRECT", "measured")
    store = Storage(kind="local", filesystem="ext4", total_bytes=None, free_bytes=None, read=slow)
    record(tmp_path / "b", source=BundleSource(MACHINES / "rtx-4090-desktop"), measurements=Measurements(store=store))
    plans = [api.recommend("8B", machine=m).plans[0] for m in (MACHINES / "rtx-4090-desktop", tmp_path / "b")]
    unknown, known = (p.time.start for p in plans)
    assert unknown is not None
    assert known is not None
    assert "unknown disk" in unknown.source
    assert "measured speed" in known.source
    assert known.value > 300 > unknown.value


def test_a_recorded_machine_and_a_named_one_contradict() -> None:
    with pytest.raises(AdvisorError) as caught:
        api.recommend("8B", machine=MACHINES / "rtx-4090-desktop", hardware=("rtx-3090:2",))
    assert (caught.value.code, caught.value.exit_code) == ("contradictory-options", EXIT_USAGE)


@pytest.mark.parametrize("hardware", [(), ("this",)])
def test_sizes_of_a_recorded_machine_can_be_changed(hardware: tuple[str, ...]) -> None:
    report = api.recommend("8B", machine=MACHINES / "rtx-4090-desktop", hardware=hardware, vram=12 << 30)
    assert report.machine.devices[0].memory.usable_bytes == 12 << 30
