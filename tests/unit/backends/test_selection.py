"""A server sees the devices of its plan."""

from __future__ import annotations

from pathlib import Path

from advisor.backends.selection import environment
from advisor.probes.record import load_machine

MACHINES = Path(__file__).resolve().parents[2] / "fixtures" / "machines"


def test_one_slice_is_shown_by_its_uuid() -> None:
    devices = load_machine(MACHINES / "a100-pair-one-mig").machine.devices
    slices = [d for d in devices if d.mig is not None]
    whole = [d for d in devices if d.mig is None and d.unusable is None]
    assert slices
    assert whole
    for device in (slices[0], whole[0]):
        assert environment(devices, (device.id,)) == {"CUDA_VISIBLE_DEVICES": device.uuid}


def test_all_of_a_vendor_need_no_selection() -> None:
    devices = load_machine(MACHINES / "h100-sxm-pair-nvlink").machine.devices
    assert environment(devices, tuple(d.id for d in devices)) == {}
    second = devices[1]
    assert environment(devices, ("host", second.id)) == {"CUDA_VISIBLE_DEVICES": second.uuid}


def test_a_plan_for_the_cpu_selects_nothing() -> None:
    devices = load_machine(MACHINES / "h100-sxm-pair-nvlink").machine.devices
    assert environment(devices, ("host",)) == {}
    assert environment((), ("host",)) == {}
