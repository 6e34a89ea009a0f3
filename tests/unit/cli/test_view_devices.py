"""How a device hangs on the machine, in a line: what is known, and nothing of what is not."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from advisor.cli.page import Page
from advisor.cli.views import machine
from advisor.cli.views.machine_devices import detail
from advisor.facts.machine import Device
from advisor.probes.record import load_machine

MACHINES = Path(__file__).resolve().parents[2] / "fixtures" / "machines"


def devices(name: str) -> tuple[Device, ...]:
    return load_machine(MACHINES / name).machine.devices


def page(name: str, monkeypatch: pytest.MonkeyPatch, *, columns: int = 160, verbose: bool = False) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    drawn = Page(io.StringIO())
    machine.machine(drawn, load_machine(MACHINES / name).machine, verbose=verbose)
    return drawn.finish()


@pytest.mark.parametrize(
    ("name", "number", "told"),
    [
        (
            "h100-sxm-pair-nvlink",
            0,
            [
                "driver 550.54.15, CUDA 12.4",
                "PCIe 5.0 x16",
                "18 NVLinks with 478 GB/s each way",
                "ECC on",
                "1 process with 20.0 GiB on it",
            ],
        ),
        ("a100-pair-one-mig", 0, ["MIG slice 3g.20gb with 42 multiprocessors", "ECC on"]),
        ("a100-mig-by-nvidia-smi", 0, ["MIG slice with 42 multiprocessors"]),
        ("wsl2-rtx", 0, ["7 processes on it", "a screen is attached"]),
        ("nvidia-two-different-cards", 1, ["PCIe 4.0 x8, only x4 now"]),
        ("jetson-agx-orin", 0, ["driver L4T 35.3.1"]),
        ("nouveau-desktop", 0, []),
    ],
)
def test_what_is_told_of_a_device(name: str, number: int, told: list[str]) -> None:
    words = detail(devices(name)[number], verbose=False)
    assert [w for w in told if w not in words] == []
    if not told:
        assert words == []


def test_addresses_and_uuids_are_told_on_request() -> None:
    (device,) = devices("rtx-4090-desktop")
    assert not any("GPU-" in w for w in detail(device, verbose=False))
    assert "GPU-00000001-0000-0000-0000-000000000000" in detail(device, verbose=True)
    (device,) = devices("nouveau-desktop")
    assert detail(device, verbose=True) == ["at 0000:01:00.0"]


@pytest.mark.parametrize("columns", [60, 160])
def test_the_page_has_the_line_of_each_device(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(page("h100-sxm-pair-nvlink", monkeypatch, columns=columns).split())
    assert text.count("18 NVLinks") == 2
    assert text.count("1 process with 20.0 GiB on it") == 1


def test_the_page_of_a_device_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(page("nvidia-hanging-driver", monkeypatch).split())
    assert "the NVIDIA driver does not answer within 3 s" in text
    text = page("wsl2-rtx", monkeypatch)
    assert "linux x86_64 (wsl2)" in text
