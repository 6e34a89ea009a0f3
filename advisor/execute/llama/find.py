"""Finds llama.cpp's programs on the search path and asks them what they are; answers are kept by the file's identity.

Nothing found there is trusted by its name: it must lie in an absolute folder, belong to this user or to root, and be
writable by nobody else. It is asked under a deadline in the scrubbed environment, and used only after it really served.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from advisor import settings as settings_
from advisor.backends.llama import binary as binary_
from advisor.backends.llama.binary import SERVER, TOOLS, Binary
from advisor.errors import AdvisorError
from advisor.execute.disk import write_atomic
from advisor.execute.proc import run
from advisor.facts.base import Shape, loads
from advisor.facts.text import clean
from advisor.settings import Settings

_DEADLINE_S: Final = 20.0
_TEXT_LIMIT: Final = 1 << 20
_KEPT: Final = "llama-programs.json"


class Kept(Shape, frozen=True, kw_only=True):
    """What is known of one server program. ``identity``: of its file, and of what it may drive (drivers, variables).

    ``works``: whether it really served a tiny model, ``None`` while that was not tried; ``why`` it does not.
    """

    identity: str
    binary: Binary
    works: bool | None = None
    why: str | None = None


class _File(Shape, frozen=True, kw_only=True):
    version: int = 1
    programs: dict[str, Kept] = msgspec.field(default_factory=dict)


def search_path(settings: Settings) -> str:
    """The folders to look in: the setting ``llama_cpp_dir`` (an absolute path) and its ``bin``, else those of PATH."""
    set_ = settings.values["llama_cpp_dir"]
    own = str(set_.value)
    # A settings file that came with a project folder names no programs: whoever wrote it is not this user.
    if own and Path(own).is_absolute() and Path(set_.origin).name != "advisor.yaml":
        return os.pathsep.join((own, str(Path(own) / "bin")))
    return settings_.child_environment().get("PATH", "")


def programs(path: str) -> tuple[dict[str, str], str | None]:
    """llama.cpp's programs on ``path`` by name, and why the server was passed over where it was.

    The tools are taken from the server's own folder, else from the rest of the path.
    """
    folders = [Path(f) for f in path.split(os.pathsep) if f and Path(f).is_absolute()]
    why: str | None = None
    for folder in folders:
        server = folder / SERVER
        if not server.is_file() or not os.access(server, os.X_OK):
            continue
        bad = _untrusted(server)
        if bad is not None:
            why = why or bad
            continue
        found = {SERVER: str(server)}
        beside = [server.resolve().parent, folder, *folders]
        for tool in TOOLS[1:]:
            there = next((at / tool for at in beside if os.access(at / tool, os.X_OK) and (at / tool).is_file()), None)
            if there is not None and _untrusted(there) is None:
                found[tool] = str(there)
        return found, None
    return {}, why


def _untrusted(program: Path) -> str | None:
    """Why a program is not run: somebody else could have put it there."""
    real = program.resolve()
    for at in (real, real.parent, program.parent):
        try:
            seen = at.stat()
        except OSError as e:
            return f"{at} cannot be looked at: {e.strerror}"
        sticky = stat.S_ISDIR(seen.st_mode) and seen.st_mode & stat.S_ISVTX
        if seen.st_mode & stat.S_IWOTH and not sticky:
            return f"{clean(str(at))} can be changed by anybody"
        if seen.st_uid not in (0, os.getuid()):
            return f"{clean(str(at))} belongs to another user"
    return None


def identity(program: str) -> str:
    """What changes when a program is replaced, or when what it may drive changes."""
    seen = Path(program).stat()
    shown = settings_.probe_variables()
    drivers = []
    for driver in ("/proc/driver/nvidia/version", "/sys/module/amdgpu/version", "/dev/kfd", "/dev/dri"):
        with suppress(OSError):
            drivers.append((driver, Path(driver).stat().st_ctime_ns if driver.startswith("/dev") else driver))
    return f"{seen.st_size} {seen.st_mtime_ns} {seen.st_ino} {sorted(shown.items())} {drivers}"


def facts_of(tools: Mapping[str, str], settings: Settings) -> Kept:
    """What is known of a server program and the tools beside it, asked where they are new.

    A program that does not answer counts as one that does not work.

    Raises:
        AdvisorError: ``interrupted``.
    """
    server = tools[SERVER]
    try:
        mark = identity(server)
    except OSError as e:
        return Kept(identity="", binary=Binary(tools=dict(tools)), works=False, why=f"{server}: {e.strerror}")
    kept = _read(settings).programs.get(server)
    if kept is not None and kept.identity == mark and kept.binary.tools == tools:
        return kept
    try:
        kept = Kept(identity=mark, binary=ask(tools))
    except AdvisorError as e:
        if e.code == "interrupted":
            raise
        why = clean("; ".join((e.message, *e.context[-3:])), 400)
        kept = Kept(identity=mark, binary=Binary(tools=dict(tools)), works=False, why=why)
    keep(settings, kept)
    return kept


def ask(tools: Mapping[str, str]) -> Binary:
    """Ask a server program for its version, its options and its devices.

    Raises:
        AdvisorError: ``runtime-unfit``, it does not start, does not end, or is no ``llama-server``.
    """
    server = tools[SERVER]
    facts = binary_.binary(dict(tools), said([server, "--version"]), said([server, "--help"]), "")
    if not {"--model", "--port"} <= set(facts.options):
        raise AdvisorError("runtime-unfit", f"{server} does not answer as a llama-server does.")
    if "--list-devices" in facts.options:
        devices = binary_.read_devices(said([server, "--list-devices"]))
        facts = msgspec.structs.replace(facts, devices=devices)
    return facts


def said(argv: list[str]) -> str:
    """What a short command prints, both streams, at most 1 MiB.

    Raises:
        AdvisorError: ``runtime-unfit`` where it fails or takes too long.
    """
    with tempfile.TemporaryDirectory(prefix="advisor-") as folder:
        log = Path(folder) / "out"
        try:
            run(argv, log=log, step=f"{Path(argv[0]).name} {argv[-1]}", timeout_s=_DEADLINE_S, code="runtime-unfit")
        except AdvisorError as e:
            if e.code == "tool-missing":
                raise AdvisorError("runtime-unfit", e.message, context=e.context) from e
            raise
        with log.open("rb") as f:
            return f.read(_TEXT_LIMIT).decode("utf-8", errors="replace")


def _read(settings: Settings) -> _File:
    try:
        return loads(_File, (Path(settings.paths.cache) / _KEPT).read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return _File()


def keep(settings: Settings, kept: Kept) -> None:
    """Remember what is known of a program; a folder that cannot be written only costs asking again."""
    programs_ = {**_read(settings).programs, kept.binary.server: kept}
    with suppress(AdvisorError, OSError):
        Path(settings.paths.cache).mkdir(parents=True, exist_ok=True)
        write_atomic(Path(settings.paths.cache) / _KEPT, _File(programs=programs_).dumps())


def forget(tools: Mapping[str, str], settings: Settings) -> None:
    """Forget what is known of a program, so that it is asked and tried again."""
    programs_ = {k: v for k, v in _read(settings).programs.items() if k != tools[SERVER]}
    with suppress(AdvisorError, OSError):
        write_atomic(Path(settings.paths.cache) / _KEPT, _File(programs=programs_).dumps())


def which(names: tuple[str, ...], path: str, *more: str) -> str | None:
    """The first of the programs on ``path`` or in the folders ``more``."""
    folders = os.pathsep.join((path, *more))
    return next((f for name in names if (f := shutil.which(name, path=folders)) is not None), None)
