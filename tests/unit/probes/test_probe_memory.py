"""The size of memory: from what is there, never absurd, never zero for unknown."""

from __future__ import annotations

import pytest

from advisor.errors import AdvisorError
from advisor.facts.machine import HostMemory
from advisor.probes.memory import meminfo, read_memory
from advisor.probes.sanity import Notes
from advisor.probes.source import Platform
from tests.unit.probes.fake import GIB, FakeSource


def read(text: str, platform: Platform | None = None) -> tuple[HostMemory, Notes]:
    notes = Notes()
    source = FakeSource({"/proc/meminfo": text}, platform=platform)
    return read_memory(source, source.platform(), notes), notes


def test_kb_are_1024_bytes() -> None:
    assert meminfo("MemTotal:       24684096 kB\nHugePages_Total:       3\nbad line\nX: -1 kB\n") == {
        "MemTotal": 24684096 * 1024,
        "HugePages_Total": 3 * 1024,
    }


def test_old_kernels_without_mem_available() -> None:
    memory, notes = read("MemTotal: 1000000 kB\nMemFree: 100000 kB\nBuffers: 10000 kB\nCached: 200000 kB\n")
    assert memory.available_bytes == 310000 * 1024
    assert any("MemAvailable is missing" in (n.note or "") for n in notes.entries)


def test_more_available_than_there_is_cannot_be() -> None:
    memory, notes = read("MemTotal: 1000000 kB\nMemAvailable: 2000000 kB\n")
    assert memory.available_bytes is None
    assert any((n.note or "").startswith("invalid") for n in notes.entries)


@pytest.mark.parametrize("total", ["0", "9007199254740992", "999999999999999999"])
def test_an_absurd_total_is_not_planned_on(total: str) -> None:
    memory, notes = read(f"MemTotal: {total} kB\n")
    assert memory.total_bytes == 8 * GIB
    assert any("invalid" in (n.note or "") for n in notes.entries)


def test_nothing_known_at_all_is_an_error_that_says_so() -> None:
    with pytest.raises(AdvisorError) as caught:
        read("", Platform(system="Linux", machine="x86_64"))
    assert caught.value.code == "probe-failed"


def test_zero_available_is_zero() -> None:
    assert read("MemTotal: 1000000 kB\nMemAvailable: 0 kB\n")[0].available_bytes == 0
