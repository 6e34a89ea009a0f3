"""Which profile a PCI device is: told by ids, revision, board, memory, cores and processor, and never guessed."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor import datafiles
from advisor.probes.catalog import bundled, names, pci_index
from advisor.probes.matching import Match, match_pci
from advisor.probes.pci import PciDevice, read_pci
from advisor.probes.profiles import HardwareProfile
from tests.unit.probes.fake import GIB, FakeSource

PROFILES = tuple(bundled(i) for i in names())
MAKERS = {"nvidia": "10de", "amd": "1002", "intel": "8086"}


def device(key: str, revision: int | None = None, board: tuple[int, int] | None = None) -> PciDevice:
    vendor, number = key.split(":")
    return PciDevice("0000:01:00.0", int(vendor, 16), int(number, 16), 3, revision, board)


def on_the_bus(profile: HardwareProfile) -> bool:
    return profile.vendor in MAKERS and "jetson" not in profile.id and not profile.host_only


@pytest.mark.parametrize("profile", [p for p in PROFILES if on_the_bus(p)], ids=lambda p: p.id)
def test_every_device_on_the_bus_has_ids_of_its_maker_and_their_source(profile: HardwareProfile) -> None:
    assert profile.pci_ids
    assert all(i.startswith(MAKERS[profile.vendor] + ":") for i in profile.pci_ids)
    assert profile.sources["pci_ids"]
    assert len(set(profile.pci_ids)) == len(profile.pci_ids)


def test_what_is_not_on_the_bus_has_none() -> None:
    assert not [p.id for p in PROFILES if not on_the_bus(p) and p.pci_ids]


def told_apart(a: HardwareProfile, b: HardwareProfile) -> bool:
    """By the size of the memory, the number of cores, or the processor around it."""
    sizes = [n for n in (a.memory_bytes, b.memory_bytes) if n is not None]
    if len(sizes) == 2 and not a.unified_memory and max(sizes) - min(sizes) > max(sizes) / 5:
        return True
    if a.cores and b.cores and a.cores != b.cores:
        return True
    return bool(a.cpus and b.cpus and not set(a.cpus) & set(b.cpus))


def test_no_id_is_of_two_profiles_that_nothing_tells_apart() -> None:
    by_pattern: dict[str, set[str]] = {}
    for key, entries in pci_index().items():
        for profile, qualifier in entries:
            revisions = qualifier[1:].split("+") if qualifier.startswith("@") else [qualifier]
            for one in revisions:
                by_pattern.setdefault(f"{key}|{one}", set()).add(profile)
    for pattern, ids in by_pattern.items():
        for a, b in itertools.combinations(sorted(ids), 2):
            assert told_apart(bundled(a), bundled(b)), f"{pattern}: {a} and {b}"


def test_the_index_names_profiles_that_are_there() -> None:
    assert {p for entries in pci_index().values() for p, _ in entries} <= set(names())
    # The probe of a device reads it; a plan for a named one does not.
    assert (datafiles.profiles_dir("hardware") / "pci.json").stat().st_size < 32_000


@pytest.mark.parametrize(
    ("key", "revision", "board", "known", "profile"),
    [
        ("10de:2684", 0xA1, None, {}, "rtx-4090"),
        ("10de:2805", 0xA1, None, {}, "rtx-4060-ti-16gb"),
        ("10de:2803", 0xA1, None, {}, "rtx-4060-ti-8gb"),
        ("10de:2504", 0xA1, None, {"memory_bytes": 12 * GIB}, "rtx-3060-12gb"),
        ("10de:2504", 0xA1, None, {"memory_bytes": 8 * GIB}, "rtx-3060-8gb"),
        ("10de:2504", 0xA1, None, {}, None),
        ("10de:24c9", 0xA1, None, {}, "rtx-3060-ti-gddr6x"),
        ("10de:25b6", 0xA1, (0x10DE, 0x14A9), {}, "a16"),
        ("10de:25b6", 0xA1, (0x10DE, 0x157E), {}, "a2"),
        ("10de:25b6", 0xA1, None, {}, None),
        ("10de:1e30", 0xA1, (0x10DE, 0x12BA), {}, "quadro-rtx-6000"),
        ("10de:1e30", 0xA1, (0x10DE, 0x129E), {}, "quadro-rtx-8000"),
        ("10de:1db5", 0xA1, None, {}, "v100"),
        ("10de:1db1", 0xA1, None, {}, "v100-16gb"),
        ("1002:744c", 0xC8, None, {}, "rx-7900-xtx"),
        ("1002:744c", 0xCC, None, {}, "rx-7900-xt"),
        ("1002:744c", 0xCE, None, {}, "rx-7900-gre"),
        # The mobile RX 7900M is not among the profiles.
        ("1002:744c", 0xCF, None, {}, None),
        ("1002:744c", None, None, {"memory_bytes": 25753026560}, "rx-7900-xtx"),
        ("1002:744c", None, None, {}, None),
        ("1002:744c", 0xC8, None, {"memory_bytes": 16 * GIB}, None),
        ("1002:66a1", 0x02, None, {"memory_bytes": 16 * GIB}, "mi50-16gb"),
        ("1002:66a1", 0x02, None, {"memory_bytes": 32 * GIB, "cores": 60}, "mi50"),
        ("1002:66a1", 0x02, None, {"memory_bytes": 32 * GIB, "cores": 64}, "mi60"),
        ("1002:66a1", 0x02, None, {"memory_bytes": 32 * GIB}, None),
        ("1002:66a1", 0x06, None, {}, "radeon-pro-vii"),
        ("1002:740c", 0x01, None, {"cores": 110}, "mi250x"),
        ("1002:740c", 0x01, None, {"cores": 104}, "mi250"),
        ("1002:74a1", 0x00, None, {}, "mi300x"),
        ("1002:1586", 0xC1, None, {}, "ryzen-ai-max-395"),
        ("1002:1586", 0xC2, None, {}, "ryzen-ai-max-390"),
        ("1002:7590", 0xC0, None, {"memory_bytes": 8 * GIB}, "rx-9060-xt-8gb"),
        ("8086:e20b", 0, None, {}, "arc-b580"),
        ("8086:56a0", 8, None, {"memory_bytes": 8 * GIB}, "arc-a770-8gb"),
        ("8086:64a0", 4, None, {"cpu": "Intel(R) Core(TM) Ultra 7 258V"}, "arc-140v"),
        ("8086:64a0", 4, None, {"cpu": "Intel(R) Core(TM) Ultra 5 226V"}, "arc-130v"),
        ("8086:64a0", 4, None, {"cpu": "Genuine Intel(R) 0000"}, None),
        ("8086:7d55", 8, None, {"cpu": "Intel(R) Core(TM) Ultra 7 155H"}, "arc-meteor-lake"),
        ("8086:a780", 4, None, {}, None),
        ("10de:0000", 0, None, {}, None),
    ],
)
def test_matching(
    key: str, revision: int | None, board: tuple[int, int] | None, known: dict[str, object], profile: str | None
) -> None:
    found = match_pci(device(key, revision, board), **known).profile  # type: ignore[arg-type]
    assert (found.id if found else None) == profile


def test_of_several_only_what_all_agree_on_is_told() -> None:
    match = match_pci(device("10de:2504", 0xA1))
    assert [p.id for p in match.profiles] == ["rtx-3060-12gb", "rtx-3060-8gb"]
    assert match.name == "NVIDIA GeForce RTX 3060 12 GB or NVIDIA GeForce RTX 3060 8 GB"
    assert match.bandwidth is not None
    assert (match.bandwidth.value, match.bandwidth.low, match.bandwidth.high) == (240 * 10**9, 240 * 10**9, 360 * 10**9)
    assert match.memory_bytes is None
    assert (match.arch, match.unified_memory, match.formats["fp8"]) == ("Ampere", False, "weight-only")
    twins = match_pci(device("8086:64a0", 4))
    assert twins.profile is None
    assert twins.fp16_tflops == 26.5
    assert twins.unified_memory is True


def test_nothing_is_told_of_no_profile() -> None:
    match = Match()
    assert (match.profile, match.name, match.arch, match.unified_memory, match.memory_bytes) == (None,) * 5
    assert (match.formats, match.bandwidth, match.fp16_tflops) == ({}, None, None)


def test_the_bandwidth_beside_memory_of_any_speed_is_a_range() -> None:
    rate = match_pci(device("1002:15bf", 0x06)).bandwidth
    assert rate is not None
    assert rate.method == "guess"
    assert rate.low < rate.value < rate.high == 120 * 10**9
    soldered = match_pci(device("1002:1586", 0xC1)).bandwidth
    assert soldered is not None
    assert (soldered.method, soldered.value) == ("table", 256 * 10**9)


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(sorted(pci_index())),
    st.none() | st.integers(0, 255),
    st.none() | st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF)),
    st.none() | st.integers(0, 1 << 45),
    st.none() | st.integers(0, 500),
    st.none() | st.text(max_size=40),
)
def test_more_knowledge_never_makes_more_candidates(
    key: str,
    revision: int | None,
    board: tuple[int, int] | None,
    size: int | None,
    cores: int | None,
    cpu: str | None,
) -> None:
    bare = {p.id for p in match_pci(device(key, revision, board)).profiles}
    found = match_pci(device(key, revision, board), memory_bytes=size, cores=cores, cpu=cpu)
    assert {p.id for p in found.profiles} <= bare <= {p for p, _ in pci_index()[key]}
    if found.bandwidth is not None:
        assert found.bandwidth.low <= found.bandwidth.value <= found.bandwidth.high


def test_the_bus_tells_revision_and_board() -> None:
    at = "/sys/bus/pci/devices/0000:03:00.0"
    files = {"vendor": "0x1002", "device": "0x744c", "class": "0x030000", "revision": "0xc8"}
    files |= {"subsystem_vendor": "0x1da2", "subsystem_device": "0xe471"}
    source = FakeSource(
        {f"{at}/{k}": v + "\n" for k, v in files.items()}, names={"/sys/bus/pci/devices": ("0000:03:00.0",)}
    )
    (found,) = read_pci(source)
    assert (found.key, found.revision, found.subsystem) == ("1002:744c", 0xC8, (0x1DA2, 0xE471))
    source.files.pop(f"{at}/subsystem_device")
    source.files[f"{at}/revision"] = "c8"
    (found,) = read_pci(source)
    assert (found.revision, found.subsystem) == (None, None)
