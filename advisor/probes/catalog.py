"""Devices by name: one profile a file in ``profiles/hardware``, found by id, alias or the maker's name.

Reading YAML costs a millisecond a file, so names are looked up in ``index.json`` (made from the profiles by
``python -m advisor.probes.catalog``, checked by a test) and only the profile that was asked for is read. A profile that
the index does not know yet is still found by its id. Profiles of the user's own folder come first. PCI ids have an
index of their own, ``pci.json``, which only the probe of such a device reads (see ``matching``).
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

from advisor import datafiles
from advisor.errors import AdvisorError, did_you_mean
from advisor.facts.base import Shape, from_json
from advisor.facts.machine import Machine
from advisor.facts.text import clean, shell_word
from advisor.facts.words import Vendor
from advisor.probes.named import machine_of
from advisor.probes.profiles import HardwareProfile, driver_spellings, load, normal, own_spellings, spellings

INDEX: Final = "index.json"
PCI_INDEX: Final = "pci.json"
MAX_DEVICES: Final = 64


class Summary(Shape, frozen=True, kw_only=True):
    """One line of ``hardware list``."""

    id: str
    name: str
    vendor: Vendor
    memory_bytes: int | None
    bandwidth_bytes_per_s: int | None


class _Index(Shape, frozen=True, kw_only=True):
    """``names``: every spelling, normalised, to ids. ``drivers``: driver names, normalised and without the maker, to
    the ids of all that have it."""

    names: dict[str, str]
    drivers: dict[str, tuple[str, ...]]
    profiles: tuple[Summary, ...]


def names(overlay: Path | None = None) -> tuple[str, ...]:
    """All profile ids, the user's own among them, in alphabetical order."""
    own = {p.stem for p in _files(overlay)} if overlay else set()
    return tuple(sorted(own | {s.id for s in _index().profiles}))


def summaries(overlay: Path | None = None) -> tuple[Summary, ...]:
    """The bundled profiles and the user's own (which win) in short, by id.

    Raises:
        AdvisorError: ``bad-profile`` where one of the user's own does not load.
    """
    found = {s.id: s for s in _index().profiles}
    for path in _files(overlay) if overlay else ():
        profile = load(path)
        found[profile.id] = _summary(profile)
    return tuple(found[i] for i in sorted(found))


def own(overlay: Path | None, broken: list[AdvisorError]) -> list[HardwareProfile]:
    """The user's own profiles; what is wrong with those that do not load goes to ``broken``."""
    found = []
    for path in _files(overlay) if overlay else ():
        try:
            found.append(load(path))
        except AdvisorError as e:
            broken.append(e)
    return found


def find(name: str, *, overlay: Path | None = None) -> HardwareProfile:
    """The profile of ``name``: an id, an alias or the maker's name, in any case and punctuation.

    Args:
        overlay: the user's own ``profiles/hardware`` folder.

    Raises:
        AdvisorError: ``hardware-not-found`` with near misses; ``bad-profile``.
    """
    wanted = normal(name)
    broken: list[AdvisorError] = []
    for profile in own(overlay, broken):
        if wanted in spellings(profile):
            return profile
    found = _index().names.get(wanted)
    if found is None and re.fullmatch(r"[a-z0-9][a-z0-9-]{0,60}", wanted):
        found = wanted if (_folder() / f"{wanted}.yaml").is_file() else None
    if found is None:
        near = _near(wanted, overlay)
        raise AdvisorError(
            "hardware-not-found",
            f'There is no hardware profile "{clean(name, 60)}".{near}',
            context=[
                *(f"left out: {e.message}" for e in broken),
                "a card that has no profile: --vram 12GB --bandwidth 360GB/s; a machine without one: "
                "--hardware cpu --memory 16GB",
            ],
            hint="advisor hardware list",
        )
    return bundled(found)


def match_driver_name(name: str, memory_bytes: int | None = None) -> HardwareProfile | None:
    """The profile of a device that calls itself ``name``, by the whole name only, with or without the maker.

    Some devices of different memory share one name: where the reported size is known, the profile's must be within a
    tenth of it, so that an 8 GB variant is not taken for the 16 GB one. ``None`` also where several are left.
    """
    found = [bundled(i) for i in _index().drivers.get(_driver_key(name), ())]
    if memory_bytes:
        found = [p for p in found if has_memory(p, memory_bytes)]
    return found[0] if len(found) == 1 else None


def has_memory(profile: HardwareProfile, size: int) -> bool:
    """Whether a device that reports ``size`` bytes can be this one; unified memory comes in any size."""
    chips = profile.memory_bytes
    return profile.unified_memory or chips is None or abs(size - chips) <= chips / 10


def _driver_key(name: str) -> str:
    # Drivers before 470 leave the maker out: "GeForce GTX 1080 Ti".
    return normal(name).removeprefix("nvidia-")


def _near(wanted: str, overlay: Path | None) -> str:
    longer = [i for i in names(overlay) if i.startswith(f"{wanted}-")][:4]
    if longer:
        return " Did you mean " + " or ".join(f'"{i}"' for i in longer) + "?"
    close = did_you_mean(wanted, list(dict.fromkeys([*_index().names, *names(overlay)])))
    # A computer's name holds its chip's: "MacBook Air M2".
    held = [i for i in names(overlay) if f"-{i}-" in f"-{wanted}-"]
    if not close and held:
        return f' Did you mean "{max(held, key=len)}"?'
    return close


def build_index(folder: Path) -> bytes:
    """The index of all profiles of ``folder``, as ``index.json`` holds it.

    Raises:
        AdvisorError: ``bad-profile``, also when two profiles share a name.
    """
    index: dict[str, str] = {}
    drivers: dict[str, set[str]] = {}
    profiles = _all(folder)
    for profile in profiles:
        for spelling in own_spellings(profile):
            if index.setdefault(spelling, profile.id) != profile.id:
                raise AdvisorError(
                    "bad-profile", f'The name "{spelling}" is used by {index[spelling]} and by {profile.id}.'
                )
        for name in (profile.name, *profile.driver_names):
            drivers.setdefault(_driver_key(name), set()).add(profile.id)
    shared: dict[str, set[str]] = {}
    for profile in profiles:
        for spelling in driver_spellings(profile):
            shared.setdefault(spelling, set()).add(profile.id)
    # A name that several drivers' devices have names none of them, unless one has it as its own.
    index |= {word: min(ids) for word, ids in shared.items() if len(ids) == 1 and word not in index}
    built = _Index(
        names=dict(sorted(index.items())),
        drivers={word: tuple(sorted(ids)) for word, ids in sorted(drivers.items())},
        profiles=tuple(_summary(p) for p in profiles),
    )
    return msgspec.json.format(msgspec.json.encode(built), indent=1) + b"\n"


def build_pci_index(folder: Path) -> bytes:
    """The PCI ids of all profiles of ``folder``, as ``pci.json`` holds them: device to profiles and what tells them
    apart, ``{"1002:744c": [["rx-7900-xtx", "@c8"], ...]}``.

    Raises:
        AdvisorError: ``bad-profile``.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for profile in _all(folder):
        for pci_id in profile.pci_ids:
            found.setdefault(pci_id[:9], []).append((profile.id, pci_id[9:]))
    lines = (f" {json.dumps(key)}: {json.dumps(sorted(entries))}" for key, entries in sorted(found.items()))
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _all(folder: Path) -> tuple[HardwareProfile, ...]:
    return tuple(load(path) for path in sorted(folder.glob("*.yaml")))


def _summary(profile: HardwareProfile) -> Summary:
    return Summary(
        id=profile.id,
        name=profile.name,
        vendor=profile.vendor,
        memory_bytes=profile.memory_bytes,
        bandwidth_bytes_per_s=profile.bandwidth_bytes_per_s,
    )


def _folder() -> Path:
    return datafiles.profiles_dir("hardware")


def _files(folder: Path | None) -> list[Path]:
    return sorted(folder.glob("*.yaml")) if folder is not None and folder.is_dir() else []


@cache
def _index() -> _Index:
    try:
        return from_json(_Index, json.loads((_folder() / INDEX).read_bytes()))
    except (OSError, ValueError) as e:
        raise AdvisorError(
            "bad-profile", f"The index of hardware profiles cannot be read: {clean(str(e))}", hint="advisor doctor"
        ) from e


@cache
def pci_index() -> dict[str, list[tuple[str, str]]]:
    """What ``build_pci_index`` writes.

    Raises:
        AdvisorError: ``bad-profile`` when it cannot be read.
    """
    try:
        return msgspec.json.decode((_folder() / PCI_INDEX).read_bytes(), type=dict[str, list[tuple[str, str]]])
    except (OSError, ValueError) as e:
        raise AdvisorError(
            "bad-profile", f"The index of PCI ids cannot be read: {clean(str(e))}", hint="advisor doctor"
        ) from e


@cache
def bundled(profile_id: str) -> HardwareProfile:
    """The bundled profile of that id.

    Raises:
        AdvisorError: ``bad-profile``.
    """
    return load(_folder() / f"{profile_id}.yaml")


def machine_from(
    hardware: tuple[str, ...],
    *,
    memory: int | None = None,
    vram: int | None = None,
    bandwidth: int | None = None,
    base: Machine,
    overlay: Path | None = None,
) -> Machine:
    """The machine that ``--hardware``, ``--memory``, ``--vram`` and ``--bandwidth`` describe.

    Args:
        hardware: names with counts (``rtx-3090:2``), ``cpu``, or ``this`` (also where none is named): the devices of
            ``base``.
        memory: bytes of host memory; on unified memory the one memory.
        vram: bytes of each device; on unified memory the part that the device may take.
        bandwidth: bytes a second of each device, or of the host where there is no device.
        base: this machine. Without ``memory`` a named device is taken to sit in its host.
        overlay: the user's own ``profiles/hardware`` folder.

    Raises:
        AdvisorError: ``hardware-not-found``; ``bad-option`` for values out of bounds; ``contradictory-options``.
    """
    asked: list[HardwareProfile] = []
    this, cpu = not hardware, False
    for word in hardware:
        _no_times(word)
        name, colon, digits = word.rpartition(":")
        if not colon:
            name, digits = word, "1"
        if not re.fullmatch(r"[1-9]\d?", digits, re.ASCII) or int(digits) > MAX_DEVICES:
            raise AdvisorError(
                "bad-option",
                f'A count of devices is 1 to {MAX_DEVICES}, as in "rtx-3090:2"; this is "{clean(word, 60)}".',
                hint="advisor recommend --hardware rtx-3090:2",
            )
        if name.lower() in ("this", "cpu"):
            if int(digits) != 1:
                raise AdvisorError(
                    "bad-option",
                    f'"{name.lower()}" is a whole machine and takes no count; this is "{clean(word, 60)}".',
                    hint=f"advisor recommend --hardware {name.lower()}",
                )
            this, cpu = this or name.lower() == "this", cpu or name.lower() == "cpu"
        else:
            asked += [find(name, overlay=overlay)] * int(digits)
    return machine_of(
        tuple(asked),
        label=" + ".join(clean(w, 60) for w in hardware) or "this machine",
        this=this,
        cpu=cpu,
        memory=memory,
        vram=vram,
        bandwidth=bandwidth,
        base=base,
    )


def _no_times(word: str) -> None:
    """Refuse ``2x rtx-4090`` with the way that it is written.

    Raises:
        AdvisorError: ``bad-option``.
    """
    found = re.fullmatch(r"\s*(\d{1,2})\s*[xX\u00d7*]\s*(\S.*)|(.*\S)\s*[xX\u00d7*]\s*(\d{1,2})\s*", word)
    if found is None or (found[1] is None and not re.search(r"[\s*\u00d7]", word)):  # "arc-x1" is a name
        return
    count, name = found[1] or found[4], (found[2] or found[3]).strip()
    raise AdvisorError(
        "bad-option",
        f'A count of devices stands behind a colon, not as in "{clean(word, 60)}".',
        hint=f"advisor recommend --hardware {shell_word(f'{name}:{count}')}",
    )


if __name__ == "__main__":
    (_folder() / INDEX).write_bytes(build_index(_folder()))
    (_folder() / PCI_INDEX).write_bytes(build_pci_index(_folder()))
