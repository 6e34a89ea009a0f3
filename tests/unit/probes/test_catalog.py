"""The devices known by name: found under every usual spelling, each with sane numbers and their sources."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor import datafiles
from advisor.errors import AdvisorError
from advisor.probes import catalog
from advisor.probes.catalog import build_index, find, match_driver_name, names, summaries
from advisor.probes.profiles import check, load, normal

FOLDER = datafiles.profiles_dir("hardware")
PATHS = sorted(FOLDER.glob("*.yaml"))
GIB = 1 << 30


def test_the_index_is_up_to_date() -> None:
    same = (FOLDER / catalog.INDEX).read_bytes() == build_index(FOLDER)
    same = same and (FOLDER / catalog.PCI_INDEX).read_bytes() == catalog.build_pci_index(FOLDER)
    assert same, "the index of hardware profiles is stale: run  python -m advisor.probes.catalog"


def test_there_are_as_many_devices_as_were_reviewed() -> None:
    assert len(PATHS) >= 252
    assert names() == tuple(sorted(p.stem for p in PATHS))
    assert [s.id for s in summaries()] == list(names())


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_a_profile_is_sane_and_says_where_its_numbers_come_from(path: Path) -> None:
    profile = load(path)
    assert check(profile, path.stem) == ()
    assert len(profile.source) > 10
    assert profile.bandwidth is not None
    assert set(profile.formats) == {"bf16", "fp8", "fp4", "int8"}
    assert (profile.compute_capability is not None) == (profile.vendor == "nvidia")
    assert profile.unified_memory or profile.memory_bytes is not None
    assert not profile.host_only or not profile.pci_ids
    # A discrete card fills its memory in a tenth of a second or less; slower or faster by far is a slip of units.
    if profile.memory_bytes:
        assert 4 < profile.bandwidth_bytes_per_s / profile.memory_bytes * GIB / 1e9 * 10 < 1000  # type: ignore[operator]
    if profile.unified_memory:
        assert profile.host is not None
    # A card's bandwidth is the width of its bus times the rate of a line; data-centre memory is not always documented.
    if profile.vendor != "apple" and (profile.bandwidth_bytes_per_s or 0) < 3 * 10**12:
        assert profile.memory_bus_bits
        assert profile.memory_gbps
    assert (profile.memory_bus_bits is None) == (profile.memory_gbps is None)
    known = set(profile.__struct_fields__)
    assert set(profile.sources) <= known
    for text in (profile.source, *profile.sources.values(), *profile.notes):
        assert "verify" not in text


@pytest.mark.parametrize(
    ("name", "profile"),
    [
        ("rtx-4090", "rtx-4090"),
        ("RTX 4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 3090", "rtx-3090"),
        ("nvidia geforce rtx 3090", "rtx-3090"),
        ("rtx-3060", "rtx-3060-12gb"),
        ("a100-80gb", "a100-80gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("h100", "h100"),
        ("h200", "h200"),
        ("Tesla T4", "t4"),
        ("v100", "v100"),
        ("l40s", "l40s"),
        ("gb10", "gb10"),
        ("DGX Spark", "gb10"),
        ("rx-7900-xtx", "rx-7900-xtx"),
        ("AMD Radeon RX 7900 XTX", "rx-7900-xtx"),
        ("MI300X", "mi300x"),
        ("ryzen-ai-max-395", "ryzen-ai-max-395"),
        ("AMD Ryzen AI Max+ 395", "ryzen-ai-max-395"),
        ("arc-b580", "arc-b580"),
        ("jetson-agx-orin", "jetson-agx-orin"),
        ("m1", "m1"),
        ("m3-max-40", "m3-max-40"),
        ("Apple M2 Ultra (76)", "m2-ultra-76"),
        ("m2-ultra", "m2-ultra-76"),
        ("Raspberry Pi 5", "raspberry-pi-5-8gb"),
        ("Raspberry Pi 5 16 GB", "raspberry-pi-5-16gb"),
        ("raspberry-pi-4", "raspberry-pi-4-8gb"),
        ("rk3588", "orange-pi-5-16gb"),
        ("steam deck", "steam-deck-lcd"),
        ("Intel N100", "n100-16gb"),
        ("mac-mini-m4", "m4"),
    ],
)
def test_usual_names(name: str, profile: str) -> None:
    assert find(name).id == profile


@pytest.mark.parametrize(
    ("name", "near"),
    [("rtx-4091", '"rtx-4090"'), ("m3-max", '"m3-max-30" or "m3-max-40"'), ("rx 7900 xtz", '"rx-7900-xtx"')],
)
def test_near_misses(name: str, near: str) -> None:
    with pytest.raises(AdvisorError) as caught:
        find(name)
    assert caught.value.code == "hardware-not-found"
    assert near in caught.value.message


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_name_is_found_or_refused(name: str) -> None:
    try:
        assert find(name).id in names()
    except AdvisorError as e:
        assert e.code == "hardware-not-found"
        assert "\x1b" not in e.message


@settings(deadline=None)
@given(st.text(max_size=60))
def test_normal_names_stay_as_they_are(name: str) -> None:
    assert normal(normal(name)) == normal(name)


def test_driver_names_match_whole() -> None:
    assert match_driver_name("NVIDIA H100 80GB HBM3").id == "h100"  # type: ignore[union-attr]
    assert match_driver_name("NVIDIA GeForce RTX 4090").id == "rtx-4090"  # type: ignore[union-attr]
    assert match_driver_name("NVIDIA GeForce RTX 4090 D").id == "rtx-4090-d"  # type: ignore[union-attr]
    assert match_driver_name("NVIDIA GeForce RTX 4090 X") is None
    assert match_driver_name("rtx-4090") is None
    assert match_driver_name("GeForce GTX 1080 Ti").id == "gtx-1080-ti"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "size", "profile"),
    [
        ("NVIDIA GeForce RTX 4060 Ti", 8188 << 20, "rtx-4060-ti-8gb"),
        ("NVIDIA GeForce RTX 4060 Ti", 16380 << 20, "rtx-4060-ti-16gb"),
        ("NVIDIA GeForce RTX 4060 Ti", 12 * GIB, None),
        ("NVIDIA GeForce RTX 4060 Ti", None, None),
        ("NVIDIA GeForce RTX 3060", 12288 << 20, "rtx-3060-12gb"),
        ("NVIDIA GeForce RTX 3060", 8192 << 20, "rtx-3060-8gb"),
        ("NVIDIA GeForce RTX 3080", 12288 << 20, "rtx-3080-12gb"),
        ("NVIDIA GeForce RTX 3050", 6144 << 20, "rtx-3050-6gb"),
        ("NVIDIA GeForce RTX 2060", 12288 << 20, "rtx-2060-12gb"),
        ("NVIDIA GeForce RTX 4090", None, "rtx-4090"),
    ],
)
def test_one_name_of_several_sizes(name: str, size: int | None, profile: str | None) -> None:
    found = match_driver_name(name, size)
    assert (found.id if found else None) == profile


def test_a_name_of_several_sizes_is_not_taken_for_one_of_them() -> None:
    with pytest.raises(AdvisorError) as caught:
        find("RTX 4060 Ti")
    assert '"rtx-4060-ti-16gb" or "rtx-4060-ti-8gb"' in caught.value.message
    assert find("rtx-3060").id == "rtx-3060-12gb"


def test_one_die_of_two_is_one_device() -> None:
    assert find("mi250x").memory_bytes == 64 * GIB
    assert find("AMD Instinct MI250X").id == "mi250x"


def test_numbers_that_the_data_base_rounds() -> None:
    assert find("rtx-4090").bandwidth_bytes_per_s == 1008 * 10**9
    assert find("rtx-5090").bandwidth_bytes_per_s == 1792 * 10**9
    assert find("rtx-4090").memory_bytes == 24 * GIB
    assert find("m2-ultra-76").usable_bytes == 144 * GIB


def test_finding_one_profile_reads_one_profile() -> None:
    code = (
        "from pathlib import Path\n"
        "opened = []\n"
        "real = Path.open\n"
        "Path.open = lambda self, *a, **k: (opened.append(self.name), real(self, *a, **k))[1]\n"
        "from advisor.probes.catalog import find\n"
        "assert find('NVIDIA GeForce RTX 4090').id == 'rtx-4090'\n"
        "assert [n for n in opened if n.endswith('.yaml')] == ['rtx-4090.yaml'], opened\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=FOLDER.parents[1])


def own(folder: Path, file: str = "mine", /, **changes: object) -> Path:
    """Write the profile of a card of the user's own: an RTX 4090 with ``changes``, its source in one line."""
    text = "".join(f"{line}\n" for line in (FOLDER / "rtx-4090.yaml").read_text().split("\nsource:")[0].splitlines())
    text = text.replace("id: rtx-4090\n", f"id: {file}\n") + "source: a data sheet\n"
    for key, value in changes.items():
        lines = [line for line in text.splitlines() if not line.startswith(f"{key}:")]
        text = "\n".join([*lines, f"{key}: {value}"]) + "\n"
    (folder / f"{file}.yaml").write_text(text)
    return folder


def test_profiles_of_the_user_come_first(tmp_path: Path) -> None:
    own(tmp_path, "rtx-4090", memory_bytes=48 * GIB)
    own(tmp_path, "my-card", name="Shop Special", aliases="[Shop Card]")
    assert find("RTX 4090", overlay=tmp_path).memory_bytes == 48 * GIB
    assert find("shop card", overlay=tmp_path).id == "my-card"
    assert find("t4", overlay=tmp_path).id == "t4"
    assert "my-card" in names(tmp_path)
    assert {s.id: s.memory_bytes for s in summaries(tmp_path)}["rtx-4090"] == 48 * GIB
    assert find("rtx-4090").memory_bytes == 24 * GIB


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"memory_bytes": 1 << 62}, "memory_bytes"),
        ({"bandwidth_bytes_per_s": -1}, "bandwidth_bytes_per_s"),
        ({"bandwidth_bytes_per_s": "1008GB"}, "bandwidth_bytes_per_s"),
        ({"usable_bytes": 48 * GIB}, "more than memory_bytes"),
        ({"ram": 3}, "ram"),
        ({"vendor": "acme"}, "vendor"),
        ({"formats": "{fp8: yes}"}, "formats"),
        ({"name": "!!python/object/apply:os.system [id]"}, "tag"),
        ({"source": "''"}, "source"),
        ({"notes": "[" * 200}, "brackets"),
        ({"pci_ids": "['10DE:2684']"}, "pci_ids"),
        ({"pci_ids": "['10de:2684@c']"}, "pci_ids"),
        ({"memory_gbps": 14}, "384 bits at 14.0 Gbit/s"),
        ({"host_only": "true"}, "host_only: needs host"),
        ({"name": "\tx: ["}, ""),
    ],
)
def test_a_bad_profile_is_named_with_its_key(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    own(tmp_path, **changes)
    with pytest.raises(AdvisorError) as caught:
        load(tmp_path / "mine.yaml")
    assert caught.value.code == "bad-profile"
    assert "mine.yaml" in caught.value.message
    assert words in caught.value.message + " ".join(caught.value.context)


def test_a_key_that_is_there_twice_and_a_file_that_is_too_long(tmp_path: Path) -> None:
    own(tmp_path)
    path = tmp_path / "mine.yaml"
    text = path.read_text()
    path.write_text(text + "vendor: amd\n")
    with pytest.raises(AdvisorError, match="vendor is there twice"):
        load(path)
    path.write_text(text + "#" * 100_000)
    with pytest.raises(AdvisorError, match="larger than"):
        load(path)


def test_a_name_used_twice_stops_the_index(tmp_path: Path) -> None:
    own(tmp_path, "a-card")
    own(tmp_path, "b-card")
    with pytest.raises(AdvisorError, match="is used by a-card and by b-card"):
        build_index(tmp_path)


def test_a_computer_named_by_its_chip_is_told_the_chip() -> None:
    for name, near in (("MacBook Air M2", "m2"), ("MacBook Pro M3 Max 40", "m3-max-40"), ("my PC with a T4", "t4")):
        with pytest.raises(AdvisorError) as caught:
            catalog.find(name)
        assert "Did you mean" in caught.value.message and near in caught.value.message
    with pytest.raises(AdvisorError) as caught:
        catalog.find("my old netbook")
    assert "--hardware cpu --memory" in caught.value.context[0] and "--vram" in caught.value.context[0]
