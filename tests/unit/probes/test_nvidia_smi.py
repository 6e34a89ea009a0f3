"""``nvidia-smi -q -x``: read as far as it can be trusted, asked when the library cannot be."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.probes.detect import Probed, detect
from advisor.probes.record import load_machine, record
from advisor.probes.vendors.nvidia_smi import kept, library_version, parse
from tests.unit.probes.fake import FakeSource

MIB = 1 << 20
HEAD = '<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">\n'
NO_BINDING = {"error": {"code": "not-installed", "message": "no pynvml"}}


def log(*gpus: str, head: str = HEAD) -> str:
    return (
        f"{head}<nvidia_smi_log>\n<timestamp>Tue Jan  2 2024</timestamp>\n<driver_version>550.54.14</driver_version>\n"
        f"<cuda_version>12.4</cuda_version>\n{''.join(gpus)}</nvidia_smi_log>\n"
    )


def gpu(
    name: str = "NVIDIA GeForce RTX 3090", *, total: str = "24576 MiB", extra: str = "", address: str = "01"
) -> str:
    return f"""<gpu id="00000000:{address}:00.0">
 <product_name>{name}</product_name>
 <display_active>Enabled</display_active>
 <mig_mode><current_mig>N/A</current_mig></mig_mode>
 <mig_devices>None</mig_devices>
 <serial>1234567890123</serial>
 <uuid>GPU-8932f937-d72c-4106-c12f-20bd9faed9f6</uuid>
 <pci><pci_bus_id>00000000:{address}:00.0</pci_bus_id><pci_gpu_link_info>
  <pcie_gen><max_link_gen>4</max_link_gen><current_link_gen>1</current_link_gen></pcie_gen>
  <link_widths><max_link_width>16x</max_link_width><current_link_width>8x</current_link_width></link_widths>
 </pci_gpu_link_info></pci>
 <fb_memory_usage><total>{total}</total><reserved>389 MiB</reserved><used>1000 MiB</used><free>23187 MiB</free>
 </fb_memory_usage>
 <compute_mode>Default</compute_mode>
 <ecc_mode><current_ecc>N/A</current_ecc></ecc_mode>
 <max_clocks><mem_clock>9751 MHz</mem_clock></max_clocks>
 {extra}
</gpu>
"""


PROCESSES = """<processes>
 <process_info><pid>4711</pid><type>C</type><process_name>/home/alice/secret</process_name>
 <used_memory>1000 MiB</used_memory></process_info>
 <process_info><pid>4712</pid><type>G</type><process_name>/usr/bin/X</process_name><used_memory>24 MiB</used_memory>
 </process_info></processes>"""


def probe(stdout: object, nvml: dict[str, Any] | None = None, **environment: str) -> Probed:
    source = FakeSource(
        present=("/dev/nvidiactl",), replies={"nvml": nvml or NO_BINDING, "nvidia-smi": {"stdout": stdout, "exit": 0}}
    )
    return detect(source, environment=environment)


def test_the_same_facts_as_by_the_library() -> None:
    (device,) = probe(log(gpu(extra=PROCESSES))).machine.devices
    assert (device.name, device.profile, device.unusable) == ("NVIDIA GeForce RTX 3090", "rtx-3090", None)
    memory = device.memory
    assert (memory.total_bytes, memory.usable_bytes, memory.free_bytes) == (24576 * MIB, 24187 * MIB, 23187 * MIB)
    assert device.compute_capability == 8.6
    assert (device.driver, device.cuda, device.pci) == ("550.54.14", "12.4", "0000:01:00.0")
    assert (device.ecc, device.display) == (None, True)
    assert device.link is not None
    assert (device.link.pcie_gen, device.link.pcie_gen_now) == (4, 1)
    assert (device.link.pcie_width, device.link.pcie_width_now) == (16, 8)
    assert device.processes is not None
    assert (device.processes.count, device.processes.used_bytes) == (2, 1024 * MIB)


def test_why_the_library_was_not_asked_is_noted() -> None:
    machine = probe(log(gpu())).machine
    assert any(p.source == "NVML" and "nvidia-smi is asked instead" in (p.note or "") for p in machine.provenance)


def test_the_selection_counts_here_too() -> None:
    devices = probe(log(gpu(), gpu(address="02")), CUDA_VISIBLE_DEVICES="1").machine.devices
    assert [(d.pci, d.unusable) for d in devices] == [
        ("0000:02:00.0", None),
        ("0000:01:00.0", "hidden by CUDA_VISIBLE_DEVICES"),
    ]


@pytest.mark.parametrize("total", ["N/A", "[N/A]", "Not Supported", "", "24,0 GiB", "24576", "-5 MiB", "24 576 MiB"])
def test_what_is_no_number_is_unknown(total: str) -> None:
    (device,) = probe(log(gpu(total=total))).machine.devices
    assert device.memory.total_bytes is None
    assert device.memory.usable_bytes is None


@pytest.mark.parametrize("total", ["0 MiB", "999999999999 MiB"])
def test_absurd_numbers_are_unknown_and_noted(total: str) -> None:
    probed = probe(log(gpu(total=total)))
    assert probed.machine.devices[0].memory.total_bytes is None
    assert "probe-invalid-value" in {w.code for w in probed.warnings}


def test_memory_of_processes_that_is_not_told_is_unknown() -> None:
    extra = "<processes><process_info><used_memory>N/A</used_memory></process_info></processes>"
    (device,) = probe(log(gpu(extra=extra))).machine.devices
    assert device.processes is not None
    assert (device.processes.count, device.processes.used_bytes) == (1, None)
    (device,) = probe(log(gpu(extra="<processes>N/A</processes>"))).machine.devices
    assert device.processes is None


@pytest.mark.parametrize(
    ("mode", "words"), [("Prohibited", "prohibits"), ("Exclusive_Process", "exclusive"), ("Default", None)]
)
def test_compute_modes(mode: str, words: str | None) -> None:
    text = log(gpu(extra=PROCESSES)).replace(">Default<", f">{mode}<")
    (device,) = probe(text).machine.devices
    assert (device.unusable is None) if words is None else (words in (device.unusable or ""))


@pytest.mark.parametrize(
    "stdout",
    [
        None,
        7,
        "",
        "Failed to initialize NVML: Unknown Error",
        log(gpu())[:300],
        log(),
        "<html></html>",
        log(gpu(), head="<!DOCTYPE nvidia_smi_log [<!ENTITY a 'b'>]>"),
        log(gpu(), head='<!DOCTYPE nvidia_smi_log SYSTEM "x" [<!ENTITY a SYSTEM "file:///etc/passwd">]>'),
        log(gpu()).replace("24576 MiB", "&a;"),
        HEAD + log(gpu()),
        "<" * 100_000,
        "<a>" * 100_000,
        log("<![CDATA[x]]>"),
        "\ufffd" * 1000,
    ],
)
def test_what_is_no_log_leaves_the_device_with_the_reason(stdout: object) -> None:
    assert parse(stdout) is None
    (device,) = probe(stdout).machine.devices
    assert "nvidia-ml-py is not installed" in (device.unusable or "")


def test_one_line_more_or_less_changes_nothing() -> None:
    text = log(gpu(extra="<new_element><total>1 MiB</total></new_element>"))
    assert parse(text) == parse(log(gpu())) == parse(log(gpu(), head=""))


@pytest.mark.parametrize("code", ["deadline", "DRIVER_NOT_LOADED", "NO_PERMISSION"])
def test_a_driver_that_hangs_or_is_not_there_is_not_asked_twice(code: str) -> None:
    source = FakeSource(present=("/dev/nvidiactl",), replies={"nvml": {"error": {"code": code, "message": ""}}})
    (device,) = detect(source).machine.devices
    assert device.unusable
    assert source.asked == 1


class SlowSource(FakeSource):
    """Fails late, and writes down how long each question may take."""

    def __init__(self, seconds: float) -> None:
        super().__init__(present=("/dev/nvidiactl",))
        self.seconds, self.deadlines = seconds, []  # type: tuple[float, list[float]]

    def ask(self, question: str, deadline_s: float, /) -> dict[str, Any]:
        self.deadlines.append(deadline_s)
        time.sleep(self.seconds)
        return {"error": {"code": "no-answer", "message": ""}}


def test_both_ways_to_the_driver_share_one_deadline() -> None:
    source = SlowSource(0.05)
    detect(source, deadline_s=3.0)
    assert len(source.deadlines) == 2
    assert source.deadlines[0] == 3.0
    assert source.deadlines[1] <= 2.95
    source = SlowSource(0.05)
    detect(source, deadline_s=0.01)
    assert len(source.deadlines) == 1


def test_nobody_is_named_in_a_recording(tmp_path: Path) -> None:
    text = log(gpu(extra=PROCESSES))
    source = FakeSource(present=("/dev/nvidiactl",), replies={"nvml": NO_BINDING, "nvidia-smi": {"stdout": text}})
    probed = record(tmp_path / "b", source=source)
    assert load_machine(tmp_path / "b") == probed
    told = (tmp_path / "b" / "bundle.json").read_text()
    for word in ("alice", "secret", "4711", "1234567890123", "8932f937", "timestamp"):
        assert word not in told
    assert probed.machine.devices[0].uuid == "GPU-00000001-0000-0000-0000-000000000000"


@pytest.mark.parametrize("visible", ["GPU-8932f9", "0", "none"])
def test_a_recording_keeps_a_selection_by_the_start_of_a_uuid(tmp_path: Path, visible: str) -> None:
    source = FakeSource(present=("/dev/nvidiactl",), replies={"nvml": NO_BINDING, "nvidia-smi": {"stdout": log(gpu())}})
    probed = record(tmp_path / "b", source=source, environment={"CUDA_VISIBLE_DEVICES": visible})
    assert load_machine(tmp_path / "b") == probed
    assert (probed.machine.devices[0].unusable is None) == (visible != "none")


def test_what_is_kept_says_the_same() -> None:
    text = log(gpu(extra=PROCESSES), gpu("Tesla T4"))
    assert parse(kept(text)) == parse(text)
    assert kept(kept(text)) == kept(text)
    failed = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 570.124\nhost alice\n"
    assert kept(failed) == "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 570.124"
    assert library_version(kept(failed)) == "570.124"


@settings(deadline=None)
@given(st.data())
def test_a_damaged_log_is_read_or_refused(data: st.DataObject) -> None:
    text = log(gpu(extra=PROCESSES))
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 60)))
    piece = data.draw(st.sampled_from(["", "N/A", "9" * 30, "<gpu>", "</gpu>", "&amp;", "&x;", "<!", "\x00", "٤ MiB"]))
    damaged = text[:start] + piece + text[end:]
    reply = parse(damaged)
    assert parse(kept(damaged)) == reply
    for device in probe(damaged).machine.devices:
        assert device.memory.total_bytes is None or device.memory.total_bytes >= MIB
