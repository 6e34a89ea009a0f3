"""Builds a managed environment: a virtual environment, its pinned packages, parts of source archives, a health check.

Packages come through pip and therefore through the user's own pip configuration; nothing of it is overridden.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from advisor.errors import AdvisorError
from advisor.events import Cancel, Event, Reporter, silent
from advisor.execute import unpack
from advisor.execute.disk import disk_errors, free_bytes, write_atomic
from advisor.execute.proc import Completed, run, run_runner
from advisor.facts.text import clean

if TYPE_CHECKING:
    from advisor.backends.pins import BackendPins, SdistPin
    from advisor.execute.envs import Env
    from advisor.execute.pythons import Python
    from advisor.settings import Settings

STEP: Final = "environment"
# pip obeys these over its configuration files; the rest of the user's configuration stands.
PIP_VARIABLES: Final = {"PIP_USER": "0", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
_NETWORK: Final = re.compile(
    r"connection (?:error|broken|refused|reset|aborted)|failed to establish a new connection|name resolution|"
    r"name or service not known|timed out|max retries exceeded|proxyerror|sslerror|certificate verify failed|"
    r"network is unreachable|no route to host|newconnectionerror|temporary failure",
    re.IGNORECASE,
)
_MISSING: Final = re.compile(r"No matching distribution found for (\S+)")
_RETRY: Final = re.compile(r"^\s*WARNING: Retrying \(")
_PIP_DOWNLOAD: Final = re.compile(
    r"^\s*(Collecting|Processing|Downloading|Using cached|Installing collected)\b\s*(.*)$"
)


def build(
    pins: BackendPins,
    folder: Path,
    python: Python,
    *,
    log: Path,
    settings: Settings,
    reporter: Reporter,
    cancel: Cancel,
    variables: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Fill the empty ``folder`` with the environment and return what its health check reported.

    Raises:
        AdvisorError: as ``envs.ensure``.
    """
    from advisor.execute.envs import Env

    if pins.compiles:
        from advisor.execute.llama import toolchain

        toolchain.check("cpu", toolchain.look())
    free = free_bytes(folder)
    if free is not None and free < pins.disk_bytes:
        raise AdvisorError(
            "disk-full",
            f"The environment {pins.title} takes about {pins.disk_bytes:,} bytes; {folder} has {free:,} left.",
            hint="advisor paths",
            data={"path": str(folder), "needed_bytes": pins.disk_bytes, "free_bytes": free},
        )
    with disk_errors(log):
        log.unlink(missing_ok=True)
    reporter(Event(kind="progress", step=STEP, message=f"making {pins.title} with Python {python.version}"))
    make_venv(python.program, folder, log=log, cancel=cancel)
    env = Env(name=pins.name, path=str(folder), python=str(folder / "bin" / "python"), digest=pins.digest)
    _both(
        [
            lambda stop: _packages(env, pins, log=log, reporter=reporter, cancel=stop),
            *(_part(env, s, folder, log=log, reporter=reporter) for s in pins.sdists),
        ],
        cancel,
    )
    return check_health(pins, env, log=log, reporter=reporter, cancel=cancel, variables=variables)


def _packages(env: Env, pins: BackendPins, *, log: Path, reporter: Reporter, cancel: Cancel) -> None:
    """The pinned packages. With a lock nothing is resolved (that can take an hour) but what the build of torch that
    the user's index has asks for: its CUDA libraries, say."""
    for requirements, resolve in ((pins.requirements, not pins.locked), (pins.resolved_requirements, True)):
        install(
            env,
            requirements,
            log=log,
            reporter=reporter,
            cancel=cancel,
            variables=pins.build_variables,
            resolve=resolve,
            title=pins.title,
        )


def make_venv(program: str, folder: Path, *, log: Path, cancel: Cancel) -> None:
    """Make an empty virtual environment with pip in it.

    Raises:
        AdvisorError: ``env-failed`` (a Python without ``venv`` or ``ensurepip`` among others), ``disk-full``.
    """
    done = run([program, "-I", "-m", "venv", folder], log=log, step=STEP, cancel=cancel, check=False)
    if done.returncode != 0:
        raise _pip_failed(done, f"{program} cannot make a virtual environment")


def install(
    env: Env,
    requirements: tuple[str, ...],
    *,
    log: Path,
    reporter: Reporter,
    cancel: Cancel,
    variables: Mapping[str, str] | None = None,
    resolve: bool = True,
    title: str | None = None,
) -> None:
    """Install pinned requirements with the environment's own pip.

    Args:
        resolve: also what they ask for; otherwise exactly these.
        title: what errors call the environment.

    Raises:
        AdvisorError: ``network``, ``env-failed``, ``integrity``, ``disk-full``, ``interrupted``.
    """
    if not requirements:
        return
    listed = Path(env.path) / "requirements.txt"
    write_atomic(listed, "".join(f"{r}\n" for r in requirements).encode())
    seen = 0

    def on_line(line: str) -> None:
        nonlocal seen
        m = _PIP_DOWNLOAD.match(line)
        if m is None:
            return
        if m[1] == "Installing collected":
            reporter(
                Event(kind="progress", step=STEP, message=f"installing {seen} packages", done=seen, unit="packages")
            )
            return
        if m[1] in ("Collecting", "Processing"):
            seen += 1
        reporter(
            Event(
                kind="progress",
                step=STEP,
                message=f"{m[1].lower()} {_short(m[2])}",
                done=seen,
                total=max(seen, len(requirements)),
                unit="packages",
            )
        )

    done = run(
        [
            env.python,
            "-I",
            "-X",
            "utf8",
            "-m",
            "pip",
            "install",
            "--no-input",
            "--disable-pip-version-check",
            "--no-warn-script-location",
            "--no-compile",
            "--progress-bar",
            "off",
            *(() if resolve else ("--no-deps",)),
            "-r",
            listed,
        ],
        log=log,
        step=STEP,
        cancel=cancel,
        env={**PIP_VARIABLES, **(variables or {})},
        on_line=on_line,
        check=False,
    )
    if done.returncode != 0:
        raise _unreachable(env, done, cancel) or _pip_failed(
            done, f"pip could not install the packages of {title or env.name}"
        )


def check_health(
    pins: BackendPins,
    env: Env,
    *,
    log: Path,
    reporter: Reporter,
    cancel: Cancel | None,
    variables: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Run the environment's health check, a runner that really uses it, and return what it reports.

    Raises:
        AdvisorError: ``env-failed``, ``interrupted``.
    """
    reporter(Event(kind="progress", step=STEP, message=f"checking that {pins.title} works"))
    try:
        return run_runner(
            env,
            pins.health,
            {} if pins.variant is None else {"variant": pins.variant},
            step=STEP,
            reporter=reporter,
            cancel=cancel,
            log=log,
            timeout_s=600,
            variables=variables,
            code="env-failed",
        )
    except AdvisorError as e:
        if e.code in ("interrupted", "disk-full"):
            raise
        raise AdvisorError(
            "env-failed", f"The environment {pins.title} does not work: {e.message}", context=e.context, data=e.data
        ) from e


def download(
    python: Env,
    requirement: str,
    kind: str,
    dest: Path,
    *,
    step: str,
    log: Path,
    reporter: Reporter,
    cancel: Cancel | None,
    max_bytes: int,
) -> dict[str, Any]:
    """Fetch one distribution file, unbuilt, the way pip would find it.

    Args:
        python: what to run pip with.
        requirement: ``name`` or ``name==version``.
        kind: ``sdist`` or ``wheel``.

    Returns: ``path``, ``bytes``, ``sha256``, ``version``, ``file``.

    Raises:
        AdvisorError: ``network``, ``file-not-found`` (no such distribution), ``integrity``, ``disk-full``.
    """
    request = {"requirement": requirement, "kind": kind, "dest": str(dest), "max_bytes": max_bytes}
    try:
        return run_runner(
            python,
            "pip_fetch.py",
            request,
            step=step,
            reporter=reporter,
            cancel=cancel,
            log=log,
            variables=PIP_VARIABLES,
            code="network",
        )
    except AdvisorError as e:
        e.context = tuple(_telling(e.context))
        if e.code == "network" and e.hint is None:
            e.hint = "advisor doctor"
        raise


def _part(env: Env, pin: SdistPin, folder: Path, *, log: Path, reporter: Reporter) -> Callable[[Cancel], None]:
    def fetch(stop: Cancel) -> None:
        dest = folder / "download" / pin.name
        with disk_errors(dest):
            dest.mkdir(parents=True)
        try:
            got = download(
                env,
                f"{pin.name}=={pin.version}",
                "sdist",
                dest,
                step=STEP,
                log=log.with_name(f"{log.stem}-{pin.name}{log.suffix}"),
                reporter=reporter,
                cancel=stop,
                max_bytes=2 * pin.bytes + (1 << 20),
            )
            if got["sha256"] != pin.sha256:
                raise AdvisorError(
                    "integrity",
                    f"{pin.file} has the SHA-256 {got['sha256']}, not the pinned {pin.sha256}: it was not unpacked.",
                )
            unpack.tar_members(
                Path(got["path"]), folder / "src" / pin.into, members=pin.members, strip=pin.strip, cancel=stop
            )
        finally:
            shutil.rmtree(folder / "download" / pin.name, ignore_errors=True)

    return fetch


class _Linked(Cancel):
    """Set as soon as it or the caller's flag is set."""

    def __init__(self, outer: Cancel) -> None:
        super().__init__()
        self._outer = outer

    @property
    def is_set(self) -> bool:
        return self._outer.is_set or super().is_set


def _both(jobs: list[Callable[[Cancel], None]], cancel: Cancel) -> None:
    """Do the jobs at the same time; the first that fails stops the others and its error is raised."""
    from concurrent.futures import ThreadPoolExecutor

    stop = _Linked(cancel)
    errors: list[BaseException] = []

    def guarded(job: Callable[[Cancel], None]) -> None:
        try:
            job(stop)
        except BaseException as e:  # noqa: BLE001 - raised again below, in the caller's thread
            errors.append(e)
            stop.set()

    with ThreadPoolExecutor(len(jobs)) as pool:
        try:
            list(pool.map(guarded, jobs))
        except BaseException:
            stop.set()
            raise
    if errors:
        raise errors[0]


def _unreachable(env: Env, done: Completed, cancel: Cancel) -> AdvisorError | None:
    """An index that cannot be reached looks to pip like a package without versions; looking it up once more tells."""
    missing = _MISSING.search("\n".join(done.tail))
    if missing is None:
        return None
    try:
        download(
            env,
            missing[1],
            "wheel",
            Path(env.path),
            step=STEP,
            log=done.log,
            reporter=silent,
            cancel=cancel,
            max_bytes=0,
        )
    except AdvisorError as e:
        return e if e.code in ("network", "interrupted") else None
    return None


def _pip_failed(done: Completed, what: str) -> AdvisorError:
    text = "\n".join(done.tail)
    if "No space left on device" in text or "Disk quota exceeded" in text:
        return AdvisorError("disk-full", f"{what}: the disk is full.", context=done.tail, hint="advisor paths")
    if "DO NOT MATCH THE HASHES" in text:
        return AdvisorError("integrity", f"{what}: a download does not match its hash.", context=done.tail)
    code = "network" if _NETWORK.search(text) else "env-failed"
    missing = _MISSING.search(text)
    if code == "network":
        why = "the package index could not be reached"
    elif missing is not None:
        why = f"the package index has no {clean(missing[1], 120)} for this Python and platform"
    else:
        why = f"exit status {done.returncode}"
    context = (*_telling(done.tail), f"log: {done.log}")
    return AdvisorError(code, f"{what}: {why}.", context=context, hint="advisor doctor")


def _telling(lines: Iterable[str]) -> list[str]:
    """Without the line that pip writes at each of its retries; the last line has the reason too."""
    return [line for line in lines if not _RETRY.match(line)]


def _short(text: str) -> str:
    """``numpy==2.4.0 (from -r ...)`` and long addresses, cut down to what a person wants to see."""
    words = text.split()
    if not words:
        return ""
    name = words[0].rsplit("/", 1)[-1]
    size = re.search(r"\(([\d.]+ [kMG]?B)\)", text)
    return clean(name + (f" ({size[1]})" if size else ""), 120)
