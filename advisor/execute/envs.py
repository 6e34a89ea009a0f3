"""Managed environments: one for each set of pinned packages, built once, never changed, rebuilt when damaged.

Layout: ``envs/v1/NAME-HASH/`` holds ``complete.json``, written last, and the folder it names, the environment itself.
The hash covers the pins, the interpreter's version and the platform.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from advisor.backends import pins as pins_
from advisor.errors import AdvisorError
from advisor.events import Cancel, Event, Reporter, safely
from advisor.execute import owner
from advisor.execute.disk import disk_errors, make_folders, remove_tree, tree_bytes, write_atomic
from advisor.execute.locks import locked
from advisor.execute.pythons import choose_python
from advisor.facts.base import Shape, loads
from advisor.facts.text import clean

if TYPE_CHECKING:
    from advisor.settings import Settings

MARKER: Final = "complete.json"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class Env(Shape, frozen=True, kw_only=True):
    """A usable environment. ``python`` is its interpreter; ``health`` what its health check said when it was built."""

    name: str
    path: str
    python: str
    digest: str = ""
    health: dict[str, Any] = msgspec.field(default_factory=dict)


class Complete(Shape, frozen=True, kw_only=True):
    """``complete.json``. ``installed``: packages and versions; ``bytes``: disk use; ``seconds``: how long it took."""

    schema: str
    name: str
    folder: str
    digest: str
    python_version: str
    installed: dict[str, str]
    bytes: int
    seconds: float
    built_at: str
    health: dict[str, Any]
    variant: str | None = None


class EnvInfo(Shape, frozen=True, kw_only=True):
    """An environment as ``advisor env list`` shows it; ``current``: built from today's pins, ``built``: complete;
    ``variant``: for which devices, ``None`` where there is one for all."""

    name: str
    path: str
    built: bool
    current: bool
    python_version: str | None
    packages: int
    bytes: int
    built_at: str | None
    seconds: float | None
    variant: str | None = None


class EnvReport(Shape, frozen=True, kw_only=True):
    """What ``advisor env doctor`` found; healthy if and only if ``problems`` is empty."""

    name: str
    path: str | None
    healthy: bool
    problems: tuple[str, ...]
    health: dict[str, Any] = msgspec.field(default_factory=dict)
    variant: str | None = None


def ensure(
    name: str,
    *,
    settings: Settings,
    reporter: Reporter | None = None,
    cancel: Cancel | None = None,
    pins: pins_.BackendPins | None = None,
    variables: Mapping[str, str] | None = None,
    variant: str | None = None,
) -> Env:
    """Return the environment ``name``, building it if it is missing or damaged.

    Two processes that want the same one: the second waits for the first. ``variables`` are added to the environment
    variables of its health check. ``variant``: for which devices (``backends.variants.best``), by default the CPU.

    Raises:
        AdvisorError: ``backend-not-found``, ``offline``, ``network``, ``env-failed``, ``tool-missing``, ``integrity``,
            ``disk-full``, ``not-writable``, ``interrupted``.
    """
    from advisor.execute import env_build

    cancel = cancel or Cancel()
    say = safely(reporter)
    pins = pins or pins_.pins(name, variant)
    python = choose_python(pins)
    base = _base(settings, pins, python.minor)
    found, _ = _usable(base)
    if found is not None:
        return found
    if settings.offline:
        raise AdvisorError(
            "offline",
            f"The environment {pins.title} is not built yet, and building it needs the network.",
            hint=build_command(pins),
        )

    def waiting() -> None:
        say(Event(kind="note", step="environment", message=f"another advisor is building {pins.title}; waiting for it"))

    with locked(base.parent / "locks" / f"{base.name}.lock", cancel=cancel, on_wait=waiting):
        found, why = _usable(base)
        if found is not None:
            return found
        if why is not None:
            say(Event(kind="warning", step="environment", message=f"{pins.title} is rebuilt: {why}"))
        make_folders(base)
        with disk_errors(base):
            (base / MARKER).unlink(missing_ok=True)
            _remove_leftovers(base)
            folder = base / f"{owner.me()}.{secrets.token_hex(3)}"
            folder.mkdir()
        started = time.monotonic()
        try:
            health = env_build.build(
                pins,
                folder,
                python,
                log=base / "build.log",
                settings=settings,
                reporter=say,
                cancel=cancel,
                variables=variables,
            )
            done = Complete(
                schema="advisor/env/v1",
                name=pins.name,
                folder=folder.name,
                digest=pins.digest,
                python_version=python.version,
                installed=installed(folder),
                bytes=tree_bytes(folder),
                seconds=round(time.monotonic() - started, 1),
                built_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                health=health,
                variant=pins.variant,
            )
            write_atomic(base / MARKER, done.dumps())
        except BaseException:
            remove_tree(folder)
            raise
    return _env(base, done)


def build_command(pins: pins_.BackendPins) -> str:
    """The command that builds it."""
    return f"advisor env build {pins.name}" + (f" --variant {pins.variant}" if pins.variant is not None else "")


def find(
    name: str, *, settings: Settings, pins: pins_.BackendPins | None = None, variant: str | None = None
) -> Env | None:
    """The environment ``name`` where it is built and undamaged; builds nothing and starts no process."""
    pins = pins or pins_.pins(name, variant)
    try:
        minor = choose_python(pins).minor
    except AdvisorError:
        return None
    return _usable(_base(settings, pins, minor))[0]


def usable(base: Path) -> tuple[Env | None, str | None]:
    """The environment in the folder ``base``, or why there is none (``None`` where it was never built)."""
    return _usable(base)


def is_ready(pins: pins_.BackendPins, settings: Settings) -> bool:
    """Whether the environment of ``pins`` is built and undamaged; starts no process."""
    return find(pins.name, settings=settings, pins=pins) is not None


def list_envs(*, settings: Settings) -> tuple[EnvInfo, ...]:
    """All environments on disk, complete or not, sorted by path, with their disk use in bytes."""
    known = {p.digest for n in pins_.names() for p in (pins_.pins(n, v) for v in pins_.variants(n) or (None,))}
    out = []
    for base in _bases(settings):
        done = _complete(base)
        name = done.name if done else base.name.rpartition("-")[0]
        out.append(
            EnvInfo(
                name=name,
                path=str(base / done.folder if done else base),
                built=_usable(base)[0] is not None,
                current=done is not None and done.digest in known,
                python_version=done.python_version if done else None,
                packages=len(done.installed) if done else 0,
                bytes=tree_bytes(base),
                built_at=done.built_at if done else None,
                seconds=done.seconds if done else None,
                variant=done.variant if done else None,
            )
        )
    return tuple(out)


def remove(name: str, *, settings: Settings, cancel: Cancel | None = None) -> int:
    """Remove every environment called ``name``, of all pins; return the bytes that came free.

    Raises:
        AdvisorError: ``backend-not-found`` if there is none, ``interrupted`` while waiting for a build to end.
    """
    freed = 0
    doomed = [b for b in _bases(settings) if b.name.rpartition("-")[0] == name]
    if not doomed:
        raise AdvisorError("backend-not-found", f"No environment {clean(name)!r} is built.", hint="advisor env list")
    for base in doomed:
        with locked(base.parent / "locks" / f"{base.name}.lock", cancel=cancel):
            freed += tree_bytes(base)
            with suppress(OSError):
                (base / MARKER).unlink()
            remove_tree(base)
    return freed


def doctor(
    name: str,
    *,
    settings: Settings,
    reporter: Reporter | None = None,
    cancel: Cancel | None = None,
    pins: pins_.BackendPins | None = None,
    variant: str | None = None,
) -> EnvReport:
    """Look an environment over: complete, interpreter there, packages unchanged, and its health check run again.

    Raises:
        AdvisorError: ``backend-not-found``, ``tool-missing`` (no fitting interpreter), ``interrupted``.
    """
    from advisor.execute import env_build

    pins = pins or pins_.pins(name, variant)
    base = _base(settings, pins, choose_python(pins).minor)
    env, why = _usable(base)
    if env is None:
        problem = why or f"it is not built: {build_command(pins)}"
        return EnvReport(variant=pins.variant, name=pins.name, path=None, healthy=False, problems=(problem,))
    try:
        health = env_build.check_health(pins, env, log=base / "doctor.log", reporter=safely(reporter), cancel=cancel)
    except AdvisorError as e:
        if e.code == "interrupted":
            raise
        return EnvReport(
            variant=pins.variant, name=pins.name, path=env.path, healthy=False, problems=(e.message, *e.context)
        )
    return EnvReport(variant=pins.variant, name=pins.name, path=env.path, healthy=True, problems=(), health=health)


def installed(folder: Path) -> dict[str, str]:
    """Packages of an environment and their versions, read from the names of its ``*.dist-info`` folders."""
    out: dict[str, str] = {}
    for site in sorted(folder.glob("lib*/python*/site-packages")):
        with suppress(OSError):
            for entry in os.scandir(site):
                if entry.name.endswith(".dist-info"):
                    package, _, version = entry.name.removesuffix(".dist-info").partition("-")
                    out[package.lower().replace("_", "-")] = version
    return dict(sorted(out.items()))


def _base(settings: Settings, pins: pins_.BackendPins, minor: str) -> Path:
    if not _NAME.fullmatch(pins.name):
        raise AdvisorError("backend-not-found", f"Not a name of an environment: {clean(pins.name)!r}.")
    abi = getattr(sys.implementation, "_multiarch", "")
    seed = "\0".join((pins.digest, minor, sys.platform, os.uname().machine, abi))
    return settings.paths.envs / f"{pins.name}-{hashlib.sha256(seed.encode()).hexdigest()[:16]}"


def _bases(settings: Settings) -> Iterator[Path]:
    with suppress(OSError):
        yield from sorted(
            p for p in settings.paths.envs.iterdir() if p.is_dir() and not p.is_symlink() and p.name != "locks"
        )


def _complete(base: Path) -> Complete | None:
    try:
        done = loads(Complete, (base / MARKER).read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return done if Path(done.folder).name == done.folder else None


def _env(base: Path, done: Complete) -> Env:
    folder = base / done.folder
    return Env(
        name=done.name,
        path=str(folder),
        python=str(folder / "bin" / "python"),
        digest=done.digest,
        health=done.health,
    )


def _usable(base: Path) -> tuple[Env | None, str | None]:
    """The environment, or why there is none (``None`` where it was simply never built)."""
    if not base.is_dir():
        return None, None
    done = _complete(base)
    if done is None:
        return None, "an earlier build did not come to its end"
    env = _env(base, done)
    if not os.access(env.python, os.X_OK):
        return None, "its interpreter is gone"
    now = installed(Path(env.path))
    if now != done.installed:
        changed = sorted(k for k in {*now, *done.installed} if now.get(k) != done.installed.get(k))
        return None, f"its packages were changed by somebody else: {', '.join(changed[:5])}"
    return env, None


def _remove_leftovers(base: Path) -> None:
    """Clear what earlier builds left. The lock is held, but file systems without locks exist: the living are spared."""
    for folder in base.iterdir():
        builder = folder.name.rpartition(".")[0]
        if folder.is_dir() and (builder == owner.me() or owner.is_alive(builder) is not True):
            remove_tree(folder)
