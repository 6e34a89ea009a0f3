"""Which variant of an environment each recorded machine takes."""

from __future__ import annotations

import msgspec
import pytest

from advisor.backends.pins import names, variants
from advisor.backends.variants import best, choose, variant_for
from advisor.facts.machine import Machine
from advisor.probes.record import load_machine
from tests.unit.probes.fake import MACHINES

EXPECTED = {
    "a100-mig-by-nvidia-smi": "cpu",
    "a100-pair-one-mig": "cpu",
    "amd-no-kfd-access": "cpu",
    "arc-b580-desktop": "cpu",
    "docker-cgroup-v2-no-gpu": "cpu",
    "firecracker-cgroup-v1": "cpu",
    "gb10-unified": "cuda",
    "h100-sxm-pair-nvlink": "cpu",
    "jetson-agx-orin": "cpu",
    "m3-max-40": "cpu",
    "mi300x-server": "rocm",
    "mixed-vendors": "cpu",
    "nouveau-desktop": "cpu",
    "nvidia-driver-library-mismatch": "cpu",
    "rosetta-m2": "cpu",
    "rtx-4090-desktop": "cpu",
    "rx-7900-xtx-desktop": "rocm",
    "strix-halo": "rocm",
    "wsl2-rtx": "cpu",
}


def machine(name: str) -> Machine:
    return load_machine(MACHINES / name).machine


def changed(name: str, **changes: object) -> Machine:
    m = machine(name)
    return msgspec.structs.replace(m, devices=tuple(msgspec.structs.replace(d, **changes) for d in m.devices))


@pytest.mark.parametrize(("name", "variant"), EXPECTED.items())
def test_recorded_machines(name: str, variant: str) -> None:
    assert variant_for(machine(name)) == variant


@pytest.mark.parametrize("name", sorted(p.name for p in MACHINES.iterdir() if p.is_dir()))
def test_a_usable_card_is_passed_over_with_a_reason_only(name: str) -> None:
    m = machine(name)
    choice = choose(m)
    cards = [d for d in m.devices if d.unusable is None and d.vendor in ("nvidia", "amd")]
    if choice.variant == "cpu":
        assert bool(choice.why) == bool(cards and m.host.os == "linux")
    else:
        assert cards


def test_an_old_driver_is_named_with_what_it_runs() -> None:
    (why,) = choose(machine("rtx-4090-desktop")).why
    assert "550.144.03" in why
    assert "12.4" in why
    assert "580" in why


@pytest.mark.parametrize(
    ("changes", "variant"),
    [
        ({"cuda": "13.0", "driver": "580.65.06"}, "cuda"),
        ({"cuda": "13.2", "driver": "535.183.01"}, "cuda"),  # a forward compatibility package
        ({"cuda": "12.9", "driver": "999.0"}, "cpu"),
        ({"cuda": None, "driver": "580.65.06"}, "cuda"),
        ({"cuda": None, "driver": "575.57"}, "cpu"),
        ({"cuda": None, "driver": None}, "cpu"),
        ({"cuda": "13.0", "compute_capability": 7.0}, "cpu"),
        ({"cuda": "13.0", "compute_capability": 7.5}, "cuda"),
        ({"cuda": "13.0", "unusable": "no device file"}, "cpu"),
    ],
)
def test_drivers_and_cards(changes: dict[str, object], variant: str) -> None:
    choice = choose(changed("rtx-4090-desktop", **changes))
    assert choice.variant == variant
    assert bool(choice.why) == (variant == "cpu" and "unusable" not in changes)


@pytest.mark.parametrize(
    ("changes", "variant"),
    [({}, "rocm"), ({"apis": ("vulkan",)}, "cpu"), ({"arch": "gfx1036"}, "cpu"), ({"apis": None}, "rocm")],
)
def test_rocm_needs_access_and_a_known_architecture(changes: dict[str, object], variant: str) -> None:
    assert variant_for(changed("rx-7900-xtx-desktop", **changes)) == variant


def test_an_environment_gets_a_variant_only_where_it_has_one() -> None:
    m = machine("gb10-unified")
    assert {best(n, m) for n in names() if variants(n)} == {"cuda"}
    assert {best(n, m) for n in names() if not variants(n)} == {None}
