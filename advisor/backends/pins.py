"""Exact versions of what a managed environment consists of: profiles/backends/*.yaml."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from advisor import datafiles
from advisor.errors import AdvisorError, did_you_mean
from advisor.facts.base import Shape, dumps_any, from_json


class PackagePin(Shape, frozen=True, kw_only=True):
    """One package. ``marker`` is a PEP 508 environment marker; ``why`` what it is for; ``source`` who says so.

    ``glibc``: the oldest GNU C library that it runs with; with an older one the environment is built without it.
    ``isa``: processor features without which it does not run (the kernel's names); ``isa_layers``: those that it needs
    in addition to compute layers on the processor.
    """

    name: str
    version: str
    why: str
    source: str
    marker: str | None = None
    glibc: str | None = None
    isa: tuple[str, ...] = ()
    isa_layers: tuple[str, ...] = ()

    @property
    def requirement(self) -> str:
        """The PEP 508 requirement, ``name==version ; marker``."""
        return f"{self.name}=={self.version}" + (f" ; {self.marker}" if self.marker else "")


class SdistPin(Shape, frozen=True, kw_only=True):
    """A source distribution of which only some files are unpacked; nothing of it is built or run at set-up.

    ``members`` are path prefixes inside the archive's one top folder; ``strip`` is the prefix taken off them; they go
    to ``ENV/src/<into>/``. ``file`` is the archive's name, ``sha256`` its hash.
    """

    name: str
    version: str
    file: str
    sha256: str
    bytes: int
    members: tuple[str, ...]
    strip: str
    into: str
    why: str
    source: str


class BackendPins(Shape, frozen=True, kw_only=True):
    """A managed environment. ``python`` is a PEP 440 range; ``health`` a runner that proves the environment works by
    really using it (request ``{}``); ``capabilities`` names what it is for (``serve``, ``validate``, ``quantize`` ...);
    ``disk_bytes`` is about what it takes installed. ``compiles``: a package of it is compiled at set-up, which needs a
    C and C++ compiler; ``build_variables`` are set for that.
    """

    name: str
    description: str
    python: str
    packages: tuple[PackagePin, ...]
    health: str
    capabilities: tuple[str, ...]
    disk_bytes: int
    source: str
    sdists: tuple[SdistPin, ...] = ()
    notes: tuple[str, ...] = ()
    compiles: bool = False
    build_variables: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def requirements(self) -> tuple[str, ...]:
        """PEP 508 requirements, for an installer."""
        return tuple(p.requirement for p in self.packages)

    @property
    def digest(self) -> str:
        """Hash of everything that decides what is installed; part of the environment's name and of step keys."""
        import hashlib

        body = {
            "name": self.name,
            "python": self.python,
            "packages": sorted(self.requirements),
            "sdists": sorted((s.name, s.version, s.sha256, s.members) for s in self.sdists),
        }
        if self.build_variables:
            body["build"] = sorted(self.build_variables.items())
        return hashlib.sha256(dumps_any(body)).hexdigest()

    def package(self, name: str) -> PackagePin | None:
        """The pin of a package, ``None`` where the environment is built without it here."""
        return next((p for p in self.packages if p.name == name), None)

    def version_of(self, package: str) -> str:
        """All pinned versions of ``package`` (or source distribution), joined by ``/``."""
        found = [p.version for p in self.packages if p.name == package]
        found += [s.version for s in self.sdists if s.name == package]
        return "/".join(found)


def _read(path: Path) -> BackendPins:
    import yaml

    try:
        data: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        known = from_json(BackendPins, data)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as e:
        raise AdvisorError("bad-profile", f"{path} does not load: {e}") from e
    here = glibc()
    fitting = tuple(p for p in known.packages if p.glibc is None or (here is not None and here >= _numbers(p.glibc)))
    return msgspec.structs.replace(known, packages=fitting)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in version.split(".")[:2] if n.isdigit())


def glibc() -> tuple[int, ...] | None:
    """Version of the GNU C library that this process runs with; ``None`` on a system without it."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (AttributeError, ValueError, OSError):
        return None
    return _numbers(version) or None if name == "glibc" else None


@cache
def _all() -> dict[str, BackendPins]:
    found = [_read(p) for p in datafiles.data_files(datafiles.profiles_dir("backends"))]
    return {p.name: p for p in found}


def names() -> tuple[str, ...]:
    """The managed environments that this version knows, sorted."""
    return tuple(sorted(_all()))


def pins(name: str) -> BackendPins:
    """What the managed environment ``name`` consists of.

    Raises:
        AdvisorError: ``backend-not-found`` or ``bad-profile``.
    """
    try:
        return _all()[name]
    except KeyError:
        raise AdvisorError(
            "backend-not-found",
            f"There is no managed environment {name!r}.{did_you_mean(name, list(names()))}",
            hint="advisor env list",
        ) from None
