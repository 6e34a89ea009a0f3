"""Exact versions of what a managed environment consists of: profiles/backends/*.yaml and the locks beside them."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec

from advisor import datafiles
from advisor.errors import AdvisorError, did_you_mean
from advisor.facts.base import Shape, dumps_any, from_json

BASE_VARIANT: Final = "cpu"
_LOCK_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\.txt")
_LOCKED: Final = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*==[0-9][0-9a-z.!]*")


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


class Variant(Shape, frozen=True, kw_only=True):
    """An environment for other devices. ``packages``: instead of the base's; ``None``: the same (torch's build follows
    the user's index). ``lock``: its own; ``None`` with packages of its own: pip resolves them. ``needs``: what must be
    there that advisor cannot bring, in words."""

    source: str
    packages: tuple[PackagePin, ...] | None = None
    lock: str | None = None
    disk_bytes: int | None = None
    needs: tuple[str, ...] = ()


class BackendPins(Shape, frozen=True, kw_only=True):
    """A managed environment. ``python`` is a PEP 440 range; ``health`` a runner that proves the environment works by
    really using it (request ``{}`` or ``{"variant"}``); ``capabilities`` names what it is for (``serve``, ``validate``,
    ``quantize`` ...); ``disk_bytes`` is about what it takes installed. ``compiles``: a package of it is compiled at
    set-up, which needs a C and C++ compiler; ``build_variables`` are set for that.

    ``lock`` names a file of profiles/backends/locks that pins every package; then nothing is resolved but what the
    packages in ``resolved`` ask for themselves (torch's own libraries depend on its build). ``locked`` is the lock's
    content. ``variants``: the same environment for other devices; ``variant`` is which one this is, ``None`` where
    there is only one. ``build_seconds``: how long a fresh build for the CPU took where it was measured.
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
    lock: str | None = None
    locked: tuple[str, ...] = ()
    resolved: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    variants: dict[str, Variant] = msgspec.field(default_factory=dict)
    variant: str | None = None
    build_seconds: int | None = None

    @property
    def title(self) -> str:
        """``vllm``, or with the variant where there is more than one: ``vllm (cuda)``."""
        return self.name if self.variant is None else f"{self.name} ({self.variant})"

    @property
    def requirements(self) -> tuple[str, ...]:
        """PEP 508 requirements, for an installer: the lock's, where there is one."""
        return self.locked or tuple(p.requirement for p in self.packages)

    @property
    def resolved_requirements(self) -> tuple[str, ...]:
        """Of a locked environment: what is installed once more with whatever it asks for itself."""
        return tuple(r for r in self.locked if r.partition("==")[0] in self.resolved)

    @property
    def digest(self) -> str:
        """Hash of everything that decides what is installed; part of the environment's name and of step keys."""
        import hashlib

        body: dict[str, Any] = {
            "name": self.name,
            "python": self.python,
            "packages": sorted(self.requirements),
            "sdists": sorted((s.name, s.version, s.sha256, s.members) for s in self.sdists),
        }
        if self.build_variables:
            body["build"] = sorted(self.build_variables.items())
        if self.locked:
            body["locked"] = sorted(self.resolved_requirements)
        if self.variant not in (None, BASE_VARIANT):
            body["variant"] = self.variant
        return hashlib.sha256(dumps_any(body)).hexdigest()

    def package(self, name: str) -> PackagePin | None:
        """The pin of a package, ``None`` where the environment is built without it here."""
        return next((p for p in self.packages if p.name == name), None)

    def version_of(self, package: str) -> str:
        """All pinned versions of ``package`` (or source distribution, or package of the lock), joined by ``/``."""
        found = [p.version for p in self.packages if p.name == package]
        found += [s.version for s in self.sdists if s.name == package]
        found = found or [r.partition("==")[2] for r in self.locked if r.partition("==")[0] == package]
        return "/".join(found)


def read_lock(path: Path) -> tuple[str, ...]:
    """The requirements of a lock file, one ``name==version`` a line, in the file's order; ``#`` begins a comment.

    Raises:
        AdvisorError: ``bad-profile``: unreadable, empty, a line of another form (addresses, options, local versions,
            ranges), or a package named twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise AdvisorError("bad-profile", f"{path} does not load: {e}") from e
    lines = [line.strip() for line in text.splitlines()]
    found = tuple(line for line in lines if line and not line.startswith("#"))
    for line in found:
        if not _LOCKED.fullmatch(line):
            raise AdvisorError("bad-profile", f"{path}: not an exact pin of the form name==version: {line!r}.")
    names_ = [line.partition("==")[0] for line in found]
    twice = sorted({n for n in names_ if names_.count(n) > 1})
    if twice or not found:
        raise AdvisorError("bad-profile", f"{path}: {'named twice: ' + ', '.join(twice) if twice else 'is empty'}.")
    return found


def _read(path: Path) -> BackendPins:
    import yaml

    try:
        data: Any = datafiles.read_yaml(path)
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


@cache
def _chosen(name: str, variant: str | None) -> BackendPins:
    base = _all()[name]
    if variant is None:
        variant = BASE_VARIANT if base.variants else None
    other = base.variants.get(variant or BASE_VARIANT)
    changes: dict[str, Any] = {"variant": variant}
    if other is not None:
        changes["needs"] = (*base.needs, *other.needs)
        changes["source"] = other.source
        changes["disk_bytes"] = other.disk_bytes or base.disk_bytes
        if other.packages is not None:
            changes["packages"], changes["lock"] = other.packages, other.lock
        elif other.lock is not None:
            changes["lock"] = other.lock
    lock = changes.get("lock", base.lock)
    if lock is not None:
        if not _LOCK_NAME.fullmatch(lock):
            raise AdvisorError("bad-profile", f"{name}: not the name of a lock file: {lock!r}.")
        changes["locked"] = read_lock(datafiles.profiles_dir("backends") / "locks" / lock)
    return msgspec.structs.replace(base, **changes)


def names() -> tuple[str, ...]:
    """The managed environments that this version knows, sorted."""
    return tuple(sorted(_all()))


def variants(name: str) -> tuple[str, ...]:
    """The variants of an environment, ``cpu`` first; empty where there is only one for all machines.

    Raises:
        AdvisorError: as ``pins``.
    """
    _known(name)
    others = _all()[name].variants
    return (BASE_VARIANT, *sorted(others.keys() - {BASE_VARIANT})) if others else ()


def pins(name: str, variant: str | None = None) -> BackendPins:
    """What the managed environment ``name`` consists of, by default for the CPU.

    Raises:
        AdvisorError: ``backend-not-found``, ``bad-option`` (it has no such variant) or ``bad-profile``.
    """
    _known(name)
    if variant is not None and variant not in (has := variants(name)):
        raise AdvisorError(
            "bad-option",
            f"The environment {name} has no variant {variant!r}"
            + (f"; it has {', '.join(has)}." if has else ": there is one for all machines."),
            hint=f"advisor env build {name}",
        )
    return _chosen(name, variant)


def _known(name: str) -> None:
    if name not in _all():
        raise AdvisorError(
            "backend-not-found",
            f"There is no managed environment {name!r}.{did_you_mean(name, list(names()))}",
            hint="advisor env list",
        )
