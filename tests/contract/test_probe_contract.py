"""What every vendor's probe keeps to, on every recorded machine, whole or damaged.

It never raises; a device has sane figures or none, never zero for unknown; one that cannot be used says why; where
figures come from is noted; recording and replaying changes nothing; and there is always an answer to what to run.
"""

from __future__ import annotations

import functools
import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from advisor.cli.main import main
from advisor.errors import AdvisorError
from advisor.facts.base import loads
from advisor.facts.machine import Device, Machine
from advisor.facts.quantity import Quantity
from advisor.probes.bundle import BundleSource
from advisor.probes.detect import Probed, detect
from advisor.probes.pci import read_pci
from advisor.probes.questions import QUESTIONS, Files
from advisor.probes.record import load_machine, record
from advisor.probes.sanity import BOUNDS, Notes, sane_machine
from advisor.probes.source import Platform
from advisor.probes.vendors import NAMES, probe_of
from advisor.probes.vendors.base import Look

MACHINES = Path(__file__).resolve().parents[1] / "fixtures" / "machines"
BUNDLES = sorted(p.name for p in MACHINES.iterdir() if p.is_dir())
# What is read grows with devices, CPUs and groups; it never runs away.
MOST_READS = 600


class Replay:
    """A recorded machine in memory, some of which may be changed; counts what is asked of it."""

    def __init__(self, name: str) -> None:
        files, bundle = recorded(name)
        self.files = dict(files)
        self.listed = {k: v for k, v in bundle.names.items() if v is not None}
        self.there = set(bundle.present)
        self.links = dict(bundle.links)
        self.replies = dict(bundle.replies)
        self.cpus, self.words = bundle.affinity, bundle.platform
        self.environment = dict(bundle.environment)
        self.asked: Counter[str] = Counter()
        self.questions: Counter[str] = Counter()

    def text(self, path: str, /) -> str | None:
        self.asked["text"] += 1
        return self.files.get(path)

    def names(self, path: str, /) -> tuple[str, ...] | None:
        self.asked["names"] += 1
        return self.listed.get(path)

    def exists(self, path: str, /) -> bool:
        self.asked["exists"] += 1
        return path in self.there or path in self.files

    def affinity(self) -> tuple[int, ...] | None:
        return self.cpus

    def platform(self) -> Platform:
        return self.words

    def link(self, path: str, /) -> str | None:
        self.asked["link"] += 1
        return self.links.get(path)

    def ask(self, question: str, deadline_s: float, /) -> dict[str, Any]:
        self.questions[question] += 1
        assert deadline_s > 0
        return self.replies.get(question) or {"error": {"code": "no-answer", "message": "none"}}

    def probe(self) -> Probed:
        return detect(self, environment=self.environment)


@functools.cache
def recorded(name: str) -> tuple[dict[str, str], Any]:
    """The files of a recorded machine by path, and its ``bundle.json``."""
    root = MACHINES / name / "files"
    files = {f"/{p.relative_to(root)}": p.read_bytes().decode() for p in sorted(root.rglob("*")) if p.is_file()}
    return files, BundleSource(MACHINES / name).bundle


def quantities(device: Device) -> Iterator[Quantity]:
    found = [device.bandwidth, device.nvlink.bandwidth if device.nvlink is not None else None]
    return (q for q in found if q is not None)


def check_device(device: Device) -> None:
    memory = device.memory
    for size, kind in (
        (memory.total_bytes, "memory"),
        (memory.usable_bytes, "memory"),
        (memory.free_bytes, "free memory"),
    ):
        if size is not None:
            assert type(size) is int
            assert BOUNDS[kind].low <= size <= BOUNDS[kind].high
    if memory.total_bytes is not None:
        assert (memory.usable_bytes or 0) <= memory.total_bytes
        assert (memory.free_bytes or 0) <= memory.total_bytes
    for rate in quantities(device):
        assert rate.unit == "bytes/s"
        assert 0 < rate.low <= rate.value <= rate.high < math.inf
        assert rate.source
        assert rate.method
    for figure in (device.compute_capability, device.fp16_tflops):
        assert figure is None or 0 < figure < math.inf
    link = device.link
    if link is not None:
        ends = (link.pcie_gen, link.pcie_width, link.pcie_gen_now, link.pcie_width_now)
        assert any(end is not None for end in ends)
        assert all(end is None or 1 <= end <= 32 for end in ends)
    assert device.processes is None or device.processes.count >= 0
    assert device.unusable is None or len(device.unusable) > 5
    if device.name.endswith("(by PCI id)"):
        # A table has its figures: nothing is promised of it, neither memory nor use.
        assert (device.unusable is None, memory.usable_bytes, memory.free_bytes) == (False, None, None)
    assert device.name.strip()
    for text in (device.name, device.unusable, device.driver, device.cuda, device.uuid, device.pci):
        assert text is None or (text and text.isprintable())


def check(machine: Machine) -> None:
    for device in machine.devices:
        check_device(device)
        # Each vendor notes what it asked, or each device what was read of it.
        assert any(
            p.what.startswith((f"devices.{device.vendor}", device.name)) or device.name in p.what
            for p in machine.provenance
        ), f"nothing says where {device.name} comes from"
    assert [d.id for d in machine.devices] == [f"gpu{n}" for n in range(len(machine.devices))]
    usable = [d.unusable is None for d in machine.devices]
    assert usable == sorted(usable, reverse=True)
    addresses = [d.pci for d in machine.devices if d.pci is not None and d.mig is None]
    assert len(addresses) == len(set(addresses))
    assert loads(Machine, machine.dumps()) == machine
    assert sane_machine(machine, Notes(machine.provenance)) == machine


@pytest.mark.parametrize("name", BUNDLES)
def test_every_device_is_sane_and_says_where_it_comes_from(name: str) -> None:
    check(load_machine(MACHINES / name).machine)


@pytest.mark.parametrize("vendor", NAMES)
@pytest.mark.parametrize("name", BUNDLES)
def test_every_probe_reads_every_machine(name: str, vendor: str) -> None:
    """Also a machine that has nothing of it: then there are no devices, or such as say why they cannot be used."""
    source = Replay(name)
    look = Look(source, read_pci(source), source.probe().machine.host, Notes(), 3.0, source.environment)
    present = probe_of(vendor).present(look)
    devices = probe_of(vendor).read(look)
    assert all(d.vendor == vendor for d in devices)
    for device in devices:
        check_device(device)
    if not present:
        assert not [d for d in devices if d.unusable is None]


@pytest.mark.parametrize("name", BUNDLES)
def test_nothing_is_asked_twice_and_little_is_read(name: str) -> None:
    source = Replay(name)
    source.probe()
    # Each of these starts a process.
    started = [q for q in source.questions if not isinstance(QUESTIONS[q], Files)]
    assert [source.questions[q] for q in started] == [1] * len(started)
    assert source.asked.total() <= MOST_READS
    if not source.probe().machine.devices and source.words.system == "Linux":
        assert set(started) <= {"cpuinfo", "vulkaninfo"}


@pytest.mark.parametrize("name", BUNDLES)
def test_recording_and_replaying_changes_nothing(name: str, tmp_path: Path) -> None:
    source = Replay(name)
    told = record(tmp_path / "b", source=source, environment=source.environment)
    assert load_machine(tmp_path / "b") == told == load_machine(MACHINES / name)


@pytest.mark.parametrize("name", BUNDLES)
def test_there_is_an_answer_on_every_machine(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    code = main(["recommend", "8B", "--machine", str(MACHINES / name), "--json"])
    document = json.loads(capfd.readouterr().out)
    assert code in (0, 3)
    assert (code == 0) == bool(document["data"]["plans"])
    unusable = {d["id"] for d in document["data"]["machine"]["devices"] if d["unusable"] is not None}
    for plan in document["data"]["plans"]:
        assert not unusable & set(plan["devices"])
        slices = [d for d in document["data"]["machine"]["devices"] if d.get("mig") and d["id"] in plan["devices"]]
        assert not slices or len([key for key in plan["devices"] if key != "host"]) == 1
    warned = [w["message"] for w in document["warnings"] if w["code"] == "device-unusable"]
    assert len(warned) == len(set(warned)) <= len(unusable)
    for device in load_machine(MACHINES / name).machine.devices:
        # What only drives a screen beside a real device is no loss, and not warned of.
        if device.unusable is not None and not device.for_screens:
            assert any(device.id in message for message in warned)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nvidia-hanging-driver", "does not answer within 3 s"),
        ("nvidia-driver-library-mismatch", "restart the machine"),
        ("nvidia-container-without-access", "--gpus all"),
        ("nouveau-desktop", "nouveau"),
    ],
)
def test_a_device_that_cannot_be_used_never_costs_the_plan(
    name: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    code = main(["recommend", "8B", "--machine", str(MACHINES / name), "--json"])
    document = json.loads(capfd.readouterr().out)
    assert code == 0
    assert document["data"]["plans"][0]["devices"] == ["host"]
    assert any(w["code"] == "device-unusable" and words in w["message"] for w in document["warnings"])
    assert main(["recommend", "8B", "--machine", str(MACHINES / name)]) == 0
    shown = capfd.readouterr()
    assert words.split()[0] in shown.out + shown.err


def test_memory_that_others_hold_is_not_planned_with(capfd: pytest.CaptureFixture[str]) -> None:
    """20 GiB of the 24 GiB card are taken: the plan keeps to the rest and says so."""
    code = main(["recommend", "8B", "--machine", str(MACHINES / "nvidia-two-different-cards"), "--json"])
    document = json.loads(capfd.readouterr().out)
    assert code == 0
    (gpu, *_) = document["data"]["machine"]["devices"]
    assert gpu["memory"]["free_bytes"] < 4 << 30 < gpu["memory"]["usable_bytes"]
    for plan in document["data"]["plans"]:
        used = plan["memory"]["by_device"].get("gpu0")
        assert used is None or used["value"] <= gpu["memory"]["free_bytes"]
        if "gpu0" in plan["devices"]:
            assert any("are free now" in a for a in plan["assumptions"])
    warned = [w["message"] for w in document["warnings"] if w["code"] == "memory-in-use"]
    assert len(warned) == 1
    assert "1 other process" in warned[0]


def test_the_device_with_more_free_memory_is_the_larger_one(capfd: pytest.CaptureFixture[str]) -> None:
    """Of two equal devices one is half taken: what needs one device is put on the other."""
    code = main(["recommend", "32B", "--machine", str(MACHINES / "h100-sxm-pair-nvlink"), "--json"])
    document = json.loads(capfd.readouterr().out)
    assert code == 0
    single = [p["devices"] for p in document["data"]["plans"] if len(p["devices"]) == 1]
    assert single
    assert ["gpu0"] not in single


# ------------------------------------------------------------------------------------- damage


def damage(source: Replay, data: st.DataObject) -> None:
    """Take away or cut off one thing that the machine says."""
    kinds = [k for k in ("files", "listed", "there", "links", "replies") if getattr(source, k)]
    if not kinds:
        return
    kind = data.draw(st.sampled_from(kinds))
    held = getattr(source, kind)
    key = data.draw(st.sampled_from(sorted(held)))
    if kind == "there":
        held.discard(key)
    elif data.draw(st.booleans()):
        del held[key]
    elif kind in ("files", "listed"):
        held[key] = held[key][: data.draw(st.integers(0, len(held[key])))]
    elif kind == "links":
        held[key] = data.draw(st.sampled_from(["", "nouveau", "\x1b[2J", "x" * 300]))
    else:
        held[key] = cut(held[key], data)


def cut(value: Any, data: st.DataObject) -> Any:
    """The value with one of its parts gone, or replaced by something else."""
    if isinstance(value, dict) and value and data.draw(st.integers(0, 3)):
        key = data.draw(st.sampled_from(sorted(value)))
        return value | {key: cut(value[key], data)}
    if isinstance(value, list) and value and data.draw(st.integers(0, 3)):
        at = data.draw(st.integers(0, len(value) - 1))
        return [*value[:at], cut(value[at], data), *value[at + 1 :]]
    if isinstance(value, str) and value:
        return value[: data.draw(st.integers(0, len(value) - 1))]
    strange = [None, "", -1, 0, 1 << 63, 1.5, True, [], {}, {"error": "NOT_SUPPORTED"}, [None], "\x00"]
    found = data.draw(st.sampled_from(strange))
    return {} if isinstance(value, dict) and not isinstance(found, dict) else found


@pytest.mark.parametrize("name", BUNDLES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_damaged_machine_is_read_as_far_as_it_goes(name: str, data: st.DataObject) -> None:
    source = Replay(name)
    for _ in range(data.draw(st.integers(1, 3))):
        damage(source, data)
    try:
        machine = source.probe().machine
    except AdvisorError as e:
        assert e.code == "probe-failed"
        return
    check(machine)
    assert source.probe().machine == machine


@pytest.mark.parametrize("name", BUNDLES)
def test_each_file_missing_or_empty_or_binary(name: str) -> None:
    for path in recorded(name)[0]:
        for text in (None, "", "\x00\ufffd" * 50, "9" * 4000):
            source = Replay(name)
            if text is None:
                del source.files[path]
            else:
                source.files[path] = text
            check(source.probe().machine)


# ------------------------------------------------------------------------------ several makers


def merged(*names: str) -> Replay:
    """One machine with the devices of several; the first is the host."""
    whole = Replay(names[0])
    for name in names[1:]:
        more = Replay(name)
        for path, text in more.files.items():
            if path.startswith("/sys/bus/pci/") or not path.startswith(("/proc/", "/sys/")):
                whole.files.setdefault(path, text)
        for path, listed in more.listed.items():
            whole.listed[path] = tuple(sorted({*whole.listed.get(path, ()), *listed}))
        whole.there |= more.there
        whole.links = more.links | whole.links
        whole.replies = more.replies | whole.replies
    return whole


def vendors_of(name: str) -> set[str]:
    return {d.vendor for d in load_machine(MACHINES / name).machine.devices}


def on_linux(name: str) -> bool:
    return load_machine(MACHINES / name).machine.host.os == "linux"


OTHERS = [n for n in BUNDLES if on_linux(n) and vendors_of(n) - {"nvidia"}]


@pytest.mark.parametrize("other", OTHERS)
def test_several_makers_are_numbered_in_a_fixed_order(other: str) -> None:
    source = merged("rtx-4090-desktop", other)
    first = source.probe().machine
    check(first)
    assert {d.vendor for d in first.devices} >= {"nvidia"} | vendors_of(other)
    usable = [d.vendor for d in first.devices if d.unusable is None]
    assert usable == sorted(usable, key=NAMES.index)
    for _ in range(5):
        assert source.probe().machine == first


def test_the_maker_that_fails_costs_the_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import advisor.probes.vendors.amd as amd

    class Broken:
        name = "amd"

        def present(self, look: Look, /) -> bool:
            return True

        def read(self, look: Look, /) -> tuple[Device, ...]:
            raise ZeroDivisionError("nobody thought of this")

    monkeypatch.setattr(amd, "PROBE", Broken())
    probe_of.cache_clear()
    try:
        machine = Replay("rtx-4090-desktop").probe().machine
    finally:
        probe_of.cache_clear()
    assert [(d.vendor, d.unusable is None) for d in machine.devices] == [("nvidia", True), ("amd", False)]
    assert "ZeroDivisionError" in (machine.devices[1].unusable or "")


def test_fields_may_be_added_but_old_documents_still_load() -> None:
    """A document of a version that knew fewer fields."""
    document = load_machine(MACHINES / "rtx-4090-desktop").machine.to_json()
    for key in ("cuda", "uuid", "pci", "ecc", "display", "processes", "nvlink", "mig"):
        for device in document["devices"]:
            device.pop(key, None)
    found = loads(Machine, msgspec.json.encode(document))
    assert found.devices[0].mig is None
