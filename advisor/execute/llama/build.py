"""The provider ``build``: llama.cpp's programs compiled for this machine, in an environment of their own.

Layout below ``envs/v1/llama.cpp-build-HASH/``: ``complete.json``, written last, and the folder it names, as in every
environment, with the programs in ``tools/bin``; while it is compiled also ``work.*`` with sources and objects, which a
run that was killed leaves to the next one. The hash covers the archive, CMake's options, the compilers and the
processor: other options or another compiler make another environment.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from advisor.backends.llama import native
from advisor.backends.llama.binary import read_features
from advisor.backends.pins import BackendPins, SdistPin, pins
from advisor.errors import AdvisorError
from advisor.events import Cancel, Event, Reporter, safely, silent
from advisor.execute import env_build, envs, owner, unpack
from advisor.execute.disk import disk_errors, free_bytes, make_folders, remove_tree, tree_bytes, write_atomic
from advisor.execute.envs import MARKER, Complete, Env, EnvReport
from advisor.execute.llama import find, toolchain
from advisor.execute.llama.compiling import Tree, compile_tree, jobs
from advisor.execute.locks import locked
from advisor.execute.pythons import choose_python
from advisor.facts.base import dumps_any
from advisor.facts.machine import Machine
from advisor.settings import Settings

STEP: Final = "build llama.cpp"
COMMIT: Final = "0c1e57098"
_OWNER: Final = "owner"
_UNPACKED: Final = "unpacked"


class Recipe(NamedTuple):
    """What is compiled, with what, and where it will lie."""

    backend: str
    flags: tuple[str, ...]
    tools: dict[str, str]
    base: Path
    pins: BackendPins
    targets: tuple[str, ...] = native.TARGETS


def recipe(machine: Machine, settings: Settings, *, backend: str | None = None) -> Recipe:
    """What would be compiled on this machine; starts the compilers for their versions, compiles nothing.

    Raises:
        AdvisorError: ``bad-option`` for an unknown backend, ``tool-missing`` with everything that is missing.
    """
    if backend is not None and backend not in native.BACKENDS:
        raise AdvisorError(
            "bad-option", f"llama.cpp is not compiled for {backend!r} here; known: {', '.join(native.BACKENDS)}."
        )
    found = toolchain.look()
    wanted = backend or native.best(machine, found)
    toolchain.check(wanted, found)
    cmake = toolchain.usable_cmake(found)
    tools = {k: v for k, v in found.items() if k != "cmake"} | ({"cmake": cmake} if cmake is not None else {})
    known = pins(native.ENV)
    flags = native.flags(wanted, found, machine, commit=COMMIT)
    what = native.identity(
        wanted,
        flags,
        sdist=known.sdists[0].sha256,
        compilers=toolchain.words(wanted, found),
        machine=machine,
    )
    digest = hashlib.sha256(dumps_any(what)).hexdigest()[:16]
    return Recipe(wanted, flags, tools, settings.paths.envs / f"{known.name}-{digest}", known)


def find_built(settings: Settings) -> tuple[Env, ...]:
    """All builds that are complete and undamaged, the newest first; starts no process."""
    out = []
    digest = pins(native.ENV).digest
    for base in sorted(settings.paths.envs.glob(f"{native.ENV}-*")):
        env, _ = envs.usable(base)
        if env is not None and env.digest == digest and programs(env):
            out.append(((base / MARKER).stat().st_mtime, env))
    return tuple(env for _, env in sorted(out, key=lambda o: o[0], reverse=True))


def programs(env: Env) -> dict[str, str]:
    """The programs of a build by name."""
    folder = Path(env.path) / "tools" / "bin"
    return {t: str(folder / t) for t in native.TARGETS if os.access(folder / t, os.X_OK)}


def ensure(
    made: Recipe,
    machine: Machine,
    *,
    settings: Settings,
    reporter: Reporter | None = None,
    cancel: Cancel | None = None,
) -> Env:
    """The compiled programs, compiling them if they are missing or damaged; proven by serving a tiny model.

    A second process that wants the same waits for the first. A run that was killed is gone on with.

    Raises:
        AdvisorError: ``offline``, ``network``, ``integrity``, ``env-failed``, ``tool-missing``, ``out-of-memory``,
            ``disk-full``, ``not-writable``, ``interrupted``.
    """
    cancel, say = cancel or Cancel(), safely(reporter)
    found, _ = envs.usable(made.base)
    if found is not None:
        return found

    def waiting() -> None:
        say(Event(kind="note", step=STEP, message="another advisor is compiling llama.cpp; waiting for it"))

    with locked(made.base.parent / "locks" / f"{made.base.name}.lock", cancel=cancel, on_wait=waiting):
        found, why = envs.usable(made.base)
        if found is not None:
            return found
        if (made.base / MARKER).is_file() and why is not None:
            say(Event(kind="warning", step=STEP, message=f"llama.cpp is compiled again: {why}"))
        make_folders(made.base)
        with disk_errors(made.base):
            (made.base / MARKER).unlink(missing_ok=True)
            work = _take_work(made.base)
            folder = made.base / f"{owner.me()}.{secrets.token_hex(3)}"
            folder.mkdir()
        started = time.monotonic()
        try:
            done = _fill(made, folder, work, machine, settings=settings, say=say, cancel=cancel, started=started)
        except BaseException:
            remove_tree(folder)  # the work stays: the next run goes on with it
            raise
        remove_tree(work)
        write_atomic(made.base / MARKER, done.dumps())
    built, why = envs.usable(made.base)
    if built is None:
        raise AdvisorError("env-failed", f"llama.cpp was compiled, but is not usable: {why}.")
    return built


def _fill(
    made: Recipe,
    folder: Path,
    work: Path,
    machine: Machine,
    *,
    settings: Settings,
    say: Reporter,
    cancel: Cancel,
    started: float,
) -> Complete:
    log = made.base / "build.log"
    with disk_errors(log):
        log.unlink(missing_ok=True)
    if settings.offline:
        _refuse_offline(made, work)
    python = choose_python(made.pins)
    say(Event(kind="progress", step=STEP, message=f"preparing a build for {made.backend}"))
    env_build.make_venv(python.program, folder, log=log, cancel=cancel)
    env = Env(name=made.pins.name, path=str(folder), python=str(folder / "bin" / "python"), digest=made.pins.digest)
    source = _sources(made.pins.sdists[0], env, work, log=log, say=say, cancel=cancel)
    tools = _build_tools(made, env, log=log, say=say, cancel=cancel)
    _space(made, work)
    tree = Tree(source, work / "build", made.flags, made.targets, tools["cmake"], tools["ninja"])
    memory = machine.host.memory
    compile_tree(
        tree,
        log=log,
        step=STEP,
        at_once=jobs(machine.host.cpu.cores_granted, memory.available_bytes),
        env={},
        reporter=say,
        cancel=cancel,
    )
    lacking = [t for t in made.targets if not (tree.build / "bin" / t).is_file()]
    if lacking:
        raise AdvisorError(
            "env-failed", f"llama.cpp compiled, but made no {', no '.join(lacking)}.", context=[f"log: {log}"]
        )
    with disk_errors(folder):
        shutil.copytree(tree.build / "bin", folder / "tools" / "bin", symlinks=True)
        shutil.copy2(source / "LICENSE", folder / "tools" / "LICENSE")
    health = env_build.check_health(made.pins, env, log=log, reporter=say, cancel=cancel)
    features = read_features(str(health.pop("log", "")))
    return Complete(
        schema="advisor/env/v1",
        name=made.pins.name,
        folder=folder.name,
        digest=made.pins.digest,
        python_version=python.version,
        installed=envs.installed(folder),
        bytes=tree_bytes(folder),
        seconds=round(time.monotonic() - started, 1),
        built_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        health={**health, "backend": made.backend, "flags": list(made.flags), "features": list(features)},
    )


def _take_work(base: Path) -> Path:
    """The work of a run that is gone, or a new folder; what else earlier runs left is removed."""
    taken: Path | None = None
    for folder in sorted(base.iterdir()):
        if not folder.is_dir():
            continue
        if not folder.name.startswith("work."):
            builder = folder.name.rpartition(".")[0]
            if owner.is_alive(builder) is not True or builder == owner.me():
                remove_tree(folder)
            continue
        holder = ""
        with suppress(OSError):
            holder = (folder / _OWNER).read_text(encoding="utf-8")
        if owner.is_alive(holder) is True and holder != owner.me():
            continue
        if taken is None:
            taken = folder
        else:
            remove_tree(folder)
    work = taken or base / f"work.{secrets.token_hex(4)}"
    work.mkdir(exist_ok=True)
    write_atomic(work / _OWNER, owner.me().encode())
    return work


def _refuse_offline(made: Recipe, work: Path) -> None:
    """Refuse before anything is made what would have to be fetched."""
    pin = made.pins.sdists[0]
    needed = [f"the sources of llama.cpp ({pin.file})"]
    with suppress(OSError):
        if (work / _UNPACKED).read_text(encoding="utf-8") == pin.sha256:
            needed.clear()
    needed += [n for n in ("cmake", "ninja") if n not in made.tools]
    if needed:
        raise AdvisorError(
            "offline",
            f"Compiling llama.cpp needs what is not here and would have to be fetched: {', '.join(needed)}.",
            hint="advisor env build llama.cpp --provider build",
            data={"missing": needed},
        )


def _sources(pin: SdistPin, env: Env, work: Path, *, log: Path, say: Reporter, cancel: Cancel) -> Path:
    """The unpacked tree; one that an earlier run unpacked whole is taken."""
    source, mark = work / "source", work / _UNPACKED
    with suppress(OSError):
        if mark.read_text(encoding="utf-8") == pin.sha256:
            return source
    remove_tree(source)
    dest = work / "download"
    remove_tree(dest)
    with disk_errors(dest):
        dest.mkdir(parents=True)
    got = env_build.download(
        env,
        f"{pin.name}=={pin.version}",
        "sdist",
        dest,
        step=STEP,
        log=log.with_name("build-fetch.log"),
        reporter=say,
        cancel=cancel,
        max_bytes=2 * pin.bytes + (1 << 20),
    )
    if got["sha256"] != pin.sha256:
        remove_tree(dest)
        raise AdvisorError(
            "integrity",
            f"{pin.file} has the SHA-256 {got['sha256']}, not the pinned {pin.sha256}: it was not unpacked.",
        )
    say(Event(kind="progress", step=STEP, message=f"unpacking {pin.file}"))
    unpack.tar_members(Path(got["path"]), source, members=pin.members, strip=pin.strip, cancel=cancel)
    remove_tree(dest)
    write_atomic(mark, pin.sha256.encode())
    return source


def _build_tools(made: Recipe, env: Env, *, log: Path, say: Reporter, cancel: Cancel) -> Mapping[str, str]:
    """CMake and Ninja: the machine's, else from the package index into the environment."""
    lacking = [n for n in ("cmake", "ninja") if n not in made.tools]
    if not lacking:
        return made.tools
    wanted = tuple(p.requirement for p in made.pins.packages if p.name in lacking)
    env_build.install(env, wanted, log=log, reporter=say, cancel=cancel)
    return {**made.tools, **{n: str(Path(env.path) / "bin" / n) for n in lacking}}


def _space(made: Recipe, work: Path) -> None:
    free = free_bytes(work)
    if free is not None and free < made.pins.disk_bytes:
        raise AdvisorError(
            "disk-full",
            f"Compiling llama.cpp takes about {made.pins.disk_bytes:,} bytes; {work} has {free:,} left.",
            hint="advisor paths",
            data={"path": str(work), "needed_bytes": made.pins.disk_bytes, "free_bytes": free},
        )


def facts(env: Env, settings: Settings) -> find.Kept:
    """What is known of the programs of a build; they are asked once.

    Raises:
        AdvisorError: ``interrupted``.
    """
    kept = find.facts_of(programs(env), settings)
    features = tuple(str(f) for f in env.health.get("features", ()))
    return msgspec.structs.replace(kept, binary=msgspec.structs.replace(kept.binary, features=features))


def doctor(*, settings: Settings, cancel: Cancel | None = None) -> tuple[EnvReport, ...]:
    """Look over every build on disk: complete, unchanged, and its health check run again.

    Raises:
        AdvisorError: ``interrupted``.
    """
    known = pins(native.ENV)
    out = []
    for base in sorted(settings.paths.envs.glob(f"{native.ENV}-*")):
        env, why = envs.usable(base)
        if env is None:
            out.append(EnvReport(name=native.ENV, path=None, healthy=False, problems=(why or "it is not built",)))
            continue
        try:
            health = env_build.check_health(known, env, log=base / "doctor.log", reporter=silent, cancel=cancel)
            health.pop("log", None)
            out.append(EnvReport(name=native.ENV, path=env.path, healthy=True, problems=(), health=health))
        except AdvisorError as e:
            if e.code == "interrupted":
                raise
            out.append(EnvReport(name=native.ENV, path=env.path, healthy=False, problems=(e.message, *e.context)))
    return tuple(out) or (
        EnvReport(
            name=native.ENV,
            path=None,
            healthy=False,
            problems=("it is not built: advisor env build llama.cpp --provider build",),
        ),
    )
