"""The shape of one hardware profile, how it is read, and what makes it unusable.

Sizes of memory on data sheets are taken as GiB: a "24 GB" card has 24 * 2^30 bytes of memory chips; ``usable_bytes``
is what the driver shows, where that is known. Bandwidths are decimal.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import msgspec

from advisor import datafiles
from advisor.errors import AdvisorError
from advisor.facts.base import Shape, from_json
from advisor.facts.quantity import Quantity, exact
from advisor.facts.text import clean
from advisor.facts.words import Vendor
from advisor.probes.sanity import within

MAX_PROFILE_BYTES: Final = 1 << 16
_MAKERS: Final = re.compile(r"^(nvidia|amd|intel|apple)-")
# A PCI device by vendor and device, ``10de:2684``; with the revisions that it has (``1002:744c@c8``, several joined by
# plus signs) or the subsystem (``10de:25b6/10de:14a9``) where one device id is of several products.
PCI_ID: Final = re.compile(r"([0-9a-f]{4}:[0-9a-f]{4})(?:@([0-9a-f]{2}(?:\+[0-9a-f]{2})*)|/([0-9a-f]{4}:[0-9a-f]{4}))?")
# Makers round: 8192 bits at 6 Gbit/s are sold as 6 TB/s.
_RATE_SLACK: Final = 0.03
_LINES: Final = re.compile(r"^(geforce|tesla|quadro|radeon|instinct)-")


class PcieLink(Shape, frozen=True, kw_only=True):
    """The widest link that the device can have."""

    gen: int
    width: int


class HostPart(Shape, frozen=True, kw_only=True):
    """The host that a device with unified memory comes with; counts are ``None`` where not known.

    ``bandwidth_bytes_per_s``: what all its cores together read and write, where that was measured.
    """

    os: str
    arch: str
    cpu: str
    isa: tuple[str, ...] = ()
    cores_physical: int | None = None
    cores_logical: int | None = None
    bandwidth_bytes_per_s: int | None = None


class HardwareProfile(Shape, frozen=True, kw_only=True):
    """What is known of one device by name.

    ``memory_bytes``: the chips on it (``None``: it has none of its own). ``usable_bytes``: what the driver offers.
    ``fp16_tflops``: dense, FP32 accumulate. ``driver_names``: exactly as the driver reports it. ``source`` covers every
    number that ``sources`` does not name. ``memory_gbps``: 10^9 bits a second on each of ``memory_bus_bits`` lines.
    ``cores``: multiprocessors (NVIDIA), compute units (AMD), Xe cores (Intel), GPU cores (Apple). ``pci_ids``: see
    ``matching``. ``cpus``: parts of the names of processors that carry this device, where one PCI id is of several.
    ``host_only``: a small computer whose processor computes, because no runtime drives its graphics.
    """

    id: str
    name: str
    vendor: Vendor
    arch: str
    memory_bytes: int | None
    bandwidth_bytes_per_s: int | None
    compute_capability: float | None
    formats: dict[str, str]
    unified_memory: bool
    source: str
    aliases: tuple[str, ...] = ()
    driver_names: tuple[str, ...] = ()
    usable_bytes: int | None = None
    fp16_tflops: float | None = None
    fp16_tflops_fp16_accumulate: float | None = None
    pcie: PcieLink | None = None
    host: HostPart | None = None
    sources: dict[str, str] = msgspec.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    memory_bus_bits: int | None = None
    memory_gbps: float | None = None
    cores: int | None = None
    pci_ids: tuple[str, ...] = ()
    cpus: tuple[str, ...] = ()
    host_only: bool = False

    @property
    def file(self) -> str:
        """How the profile is named as a source."""
        return f"profiles/hardware/{self.id}.yaml"

    @property
    def bandwidth(self) -> Quantity | None:
        """Nominal memory bandwidth."""
        if self.bandwidth_bytes_per_s is None:
            return None
        return exact(self.bandwidth_bytes_per_s, "bytes/s", self.file, "table")


def normal(name: str) -> str:
    """One spelling for many: lower case, hyphens between words, ``12 GB`` as ``12gb``, no brackets or marks."""
    word = name.lower().replace("(r)", "").replace("(tm)", "").replace("®", "").replace("™", "").replace("+", "")
    word = re.sub(r"[^a-z0-9]+", "-", word).strip("-")
    return re.sub(r"(\d)-gb\b", r"\1gb", word)


def spellings(profile: HardwareProfile) -> tuple[str, ...]:
    """Every normalised name under which a profile is found."""
    return tuple(dict.fromkeys((*own_spellings(profile), *driver_spellings(profile))))


def own_spellings(profile: HardwareProfile) -> tuple[str, ...]:
    """Those of id, aliases and name, which are of this profile alone."""
    found = [normal(profile.id), *map(normal, profile.aliases)]
    found += [f"{profile.vendor}-{short}" for short in found if not short.startswith(profile.vendor)]
    return tuple(dict.fromkeys((*found, *_of_names((profile.name,)))))


def driver_spellings(profile: HardwareProfile) -> tuple[str, ...]:
    """Those of the driver's names; cards that differ in memory only share them."""
    return _of_names(profile.driver_names)


def _of_names(names: tuple[str, ...]) -> tuple[str, ...]:
    found = []
    for given in names:
        full = normal(given)
        short = _MAKERS.sub("", full)
        found += [full, short, _LINES.sub("", short)]
    return tuple(dict.fromkeys(found))


def load(path: Path) -> HardwareProfile:
    """Read one profile.

    Raises:
        AdvisorError: ``bad-profile`` with file and key.
    """
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        with path.open("rb") as f:
            raw = f.read(MAX_PROFILE_BYTES + 1)
        if len(raw) > MAX_PROFILE_BYTES:
            raise ValueError(f"larger than {MAX_PROFILE_BYTES} bytes")
        # The C parser follows brackets down the C stack; no profile nests deeper than two.
        if raw.count(b"[") + raw.count(b"{") > 100:
            raise ValueError("too many brackets")
        keys = re.findall(rb"(?m)^(\w+):", raw)
        if len(keys) != len(set(keys)):
            twice = next(k for k in keys if keys.count(k) > 1)
            raise ValueError(f"the key {twice.decode()} is there twice")
        profile = from_json(HardwareProfile, yaml.load(raw, Loader=loader))  # noqa: S506 - a safe loader
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as e:
        raise datafiles.bad_profile(path, e, HardwareProfile.__struct_fields__) from e
    wrong = check(profile, path.stem)
    if wrong:
        raise AdvisorError("bad-profile", f"The hardware profile {path.name} is not usable: {wrong[0]}", context=wrong)
    return profile


def _wrong_ids(profile: HardwareProfile) -> list[str]:
    return [i for i in profile.pci_ids if not PCI_ID.fullmatch(i)]


def check(profile: HardwareProfile, stem: str) -> tuple[str, ...]:
    """What is wrong with a profile beyond its types: key and reason, one a line."""
    wrong = []
    if profile.id != stem or profile.id != normal(profile.id):
        wrong.append(f"id: {clean(profile.id, 60)!r} must be the file's name, in lower case with hyphens")
    bounded = (
        ("memory_bytes", profile.memory_bytes, "memory"),
        ("usable_bytes", profile.usable_bytes, "memory"),
        ("bandwidth_bytes_per_s", profile.bandwidth_bytes_per_s, "bandwidth"),
        ("host.bandwidth_bytes_per_s", profile.host.bandwidth_bytes_per_s if profile.host else None, "bandwidth"),
        ("compute_capability", profile.compute_capability, "compute capability"),
        ("fp16_tflops", profile.fp16_tflops, "tflops"),
        ("fp16_tflops_fp16_accumulate", profile.fp16_tflops_fp16_accumulate, "tflops"),
    )
    wrong += [
        f"{key}: {value} is out of bounds"
        for key, value, kind in bounded
        if value is not None and not within(value, kind)
    ]
    if profile.usable_bytes and profile.memory_bytes and profile.usable_bytes > profile.memory_bytes:
        wrong.append("usable_bytes: more than memory_bytes")
    wrong += [
        f"formats.{k}: {clean(v, 40)!r} is none of native, weight-only, none"
        for k, v in profile.formats.items()
        if v not in ("native", "weight-only", "none")
    ]
    wrong += [f"pci_ids: {clean(i, 40)!r} is not vvvv:dddd, with @rr or /ssss:ssss" for i in _wrong_ids(profile)]
    bits, rate, bandwidth = profile.memory_bus_bits, profile.memory_gbps, profile.bandwidth_bytes_per_s
    if bits and rate and bandwidth and abs(bits * rate / 8 * 1e9 - bandwidth) > _RATE_SLACK * bandwidth:
        wrong.append(f"bandwidth_bytes_per_s: {bits} bits at {rate} Gbit/s are not {bandwidth} bytes/s")
    if profile.host_only and not (profile.unified_memory and profile.host is not None and profile.memory_bytes):
        wrong.append("host_only: needs host, memory_bytes and unified_memory: true")
    if not profile.source.strip():
        wrong.append("source: every number needs a source")
    return tuple(wrong)
