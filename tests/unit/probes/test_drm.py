"""What the kernel says of graphics devices: links, drivers, and who may open their files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.facts.machine import Link
from advisor.probes import drm
from advisor.probes.pci import PciDevice
from advisor.probes.questions import QUESTIONS, Files, _files
from advisor.probes.source import LiveSource
from tests.unit.probes.fake import FakeSource

AT = "/sys/bus/pci/devices/0000:03:00.0"
DEVICE = PciDevice("0000:03:00.0", 0x1002, 0x744C, 3)


@pytest.mark.parametrize(
    ("text", "link"),
    [
        ("0: 2.5GT/s, x1 310Mhz \n1: 16.0GT/s, x16 1075Mhz *\n", (4, 16, 4, 16)),
        ("0: 2.5GT/s, x16 500Mhz *\n1: 8.0GT/s, x16 619Mhz \n", (3, 16, 1, 16)),
        ("0: 32.0GT/s, x16 \n", (5, 16, None, None)),
        ("0: 16.0GT/s, x4 619Mhz *", (4, 4, 4, 4)),
        ("", None),
        ("0: 7.0GT/s, x16 *", None),
        ("0: 16.0GT/s, x99 *", None),
        ("٠: 16.0GT/s, x16 *", None),
    ],
)
def test_levels_of_the_link(text: str, link: tuple[int | None, ...] | None) -> None:
    found = drm.levels(text)
    assert (found and (found.pcie_gen, found.pcie_width, found.pcie_gen_now, found.pcie_width_now)) == link


@pytest.mark.parametrize(
    ("speed", "width", "link"),
    [
        ("32.0 GT/s PCIe", "16", Link(pcie_gen=5, pcie_width=16, pcie_gen_now=1, pcie_width_now=8)),
        ("8 GT/s", "8", Link(pcie_gen=3, pcie_width=8, pcie_gen_now=1, pcie_width_now=8)),
        ("Unknown", "16", None),
        ("16.0 GT/s PCIe", "0", None),
        ("16.0 GT/s PCIe", "255", None),
    ],
)
def test_the_link_of_the_device(speed: str, width: str, link: Link | None) -> None:
    files = {f"{AT}/max_link_speed": speed, f"{AT}/max_link_width": width}
    files |= {f"{AT}/current_link_speed": "2.5 GT/s PCIe", f"{AT}/current_link_width": "8"}
    assert drm.link(FakeSource(files), DEVICE) == link


@settings(deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_a_link_or_none(text: str) -> None:
    for found in (drm.levels(text), drm.link(FakeSource({f"{AT}/max_link_speed": text}), DEVICE)):
        assert found is None or (1 <= (found.pcie_gen or 0) <= 9 and 1 <= (found.pcie_width or 0) <= 32)


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ("amdgpu", None),
        (None, "no driver holds it"),
        ("vfio-pci", "virtual machine"),
        ("radeon", "radeon holds it, which cannot compute; amdgpu is needed"),
    ],
)
def test_who_drives_it(held: str | None, words: str | None) -> None:
    found = drm.not_driven(held, ("amdgpu",))
    assert (found is None) if words is None else words in (found or "")


def test_names_of_device_files() -> None:
    source = FakeSource(names={f"{AT}/drm": ("card1", "card1-DP-1", "controlD64", "renderD128", "version")})
    assert drm.nodes(source, DEVICE) == drm.Nodes("card1", "renderD128")
    assert drm.nodes(FakeSource(), DEVICE) == drm.Nodes(None, None)


def test_this_process_is_asked_without_opening(tmp_path: Path) -> None:
    mine, closed = tmp_path / "dri" / "renderD128", tmp_path / "kfd"
    mine.parent.mkdir()
    mine.write_text("x")
    closed.write_text("x")
    closed.chmod(0o000)
    (tmp_path / "dri" / "by-path").mkdir()
    found = _files(Files((str(closed), str(mine.parent), str(tmp_path / "absent"))))["files"]
    assert set(found) == {str(mine), str(closed)}
    assert found[str(mine)]["open"] is True
    assert found[str(closed)]["open"] is (os.geteuid() == 0)
    assert found[str(mine)]["group"] in (None, "render", "video", "kvm")


def test_the_live_source_answers_at_once() -> None:
    assert isinstance(QUESTIONS["device-files"], Files)
    reply = LiveSource().ask("device-files", 0.0)
    assert all(path.startswith(("/dev/kfd", "/dev/dri/")) for path in reply["files"])
