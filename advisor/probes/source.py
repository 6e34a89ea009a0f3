"""Every raw input of the probe goes through a source, so that a machine can be recorded and replayed elsewhere.

A bundle is a folder: ``bundle.json`` (what it is, and the answers that are not files) and ``files/``, the text files
that were read, under their own paths.

A source answers with text, names and plain JSON values only; it judges nothing. ``None`` means "not there or not
readable". The live source starts a process for two questions only (the NVIDIA driver; the CPU where there is no
``/proc``), each under a deadline, because a driver may hang in the kernel for ever.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import msgspec

from advisor.errors import AdvisorError
from advisor.facts.base import Shape, loads
from advisor.facts.text import clean

BUNDLE_SCHEMA: Final = "advisor/machine-bundle/v1"

# /proc/cpuinfo is the longest that is read: 1.5 KB a thread, so 4 MiB holds over 2,000 threads.
MAX_TEXT_BYTES: Final = 4 << 20
MAX_NAMES: Final = 4096
MAX_REPLY_BYTES: Final = 1 << 20
# Where containers, WSL and NixOS put the driver's library, beside the loader's own folders.
_DRIVER_FOLDERS: Final = "/usr/local/nvidia/lib64:/usr/local/nvidia/lib:/usr/lib/wsl/lib:/run/opengl-driver/lib"


class Platform(Shape, frozen=True, kw_only=True):
    """What the Python runtime knows of the system: ``uname`` words, CPU count, physical memory in bytes."""

    system: str
    machine: str
    cpu_count: int | None = None
    memory_bytes: int | None = None


class Source(Protocol):
    """Where raw facts come from: this machine, or a bundle."""

    def text(self, path: str, /) -> str | None:
        """The start (at most ``MAX_TEXT_BYTES``) of the file at an absolute ``path``; ``None`` if unreadable."""
        ...

    def names(self, path: str, /) -> tuple[str, ...] | None:
        """The sorted names in a folder; ``None`` if unreadable."""
        ...

    def exists(self, path: str, /) -> bool:
        """Whether something is at ``path``."""
        ...

    def affinity(self) -> tuple[int, ...] | None:
        """The CPUs this process may run on; ``None`` where the system has no such call."""
        ...

    def platform(self) -> Platform:
        """The words of ``uname``, the CPU count and the physical memory."""
        ...

    def nvml(self, deadline_s: float, /) -> dict[str, Any]:
        """The NVIDIA driver's reply as written by ``ask.py``; ``{"error": {...}}`` if there is none in time."""
        ...

    def cpuinfo(self, deadline_s: float, /) -> dict[str, Any] | None:
        """py-cpuinfo's reply (``brand_raw``, ``flags``, ``arch`` ...) for systems without ``/proc``."""
        ...


class LiveSource:
    """This machine.

    Args:
        ask: the helper file that is started to ask a driver; its own by default.
    """

    def __init__(self, ask: Path | None = None) -> None:
        self._ask = ask or Path(__file__).with_name("ask.py")

    def text(self, path: str, /) -> str | None:
        """The file, opened without waiting."""
        try:
            # Unbuffered and non-blocking: a named pipe in place of a file must not stop the probe.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
        except (OSError, ValueError):
            return None
        try:
            chunks: list[bytes] = []
            left = MAX_TEXT_BYTES
            while left > 0 and (chunk := os.read(descriptor, min(left, 1 << 18))):
                chunks.append(chunk)
                left -= len(chunk)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        return b"".join(chunks).decode("utf-8", "replace")

    def names(self, path: str, /) -> tuple[str, ...] | None:
        """The folder."""
        try:
            with os.scandir(path) as entries:
                return tuple(sorted(entry.name for entry, _ in zip(entries, range(MAX_NAMES), strict=False)))
        except (OSError, ValueError):
            return None

    def exists(self, path: str, /) -> bool:
        """Whether the path is there."""
        return os.path.exists(path)  # noqa: PTH110 - os.path answers False where Path raises

    def affinity(self) -> tuple[int, ...] | None:
        """``sched_getaffinity``."""
        getter = getattr(os, "sched_getaffinity", None)
        if getter is None:
            return None
        try:
            return tuple(sorted(getter(0)))
        except OSError:
            return None

    def platform(self) -> Platform:
        """``uname`` and ``sysconf``."""
        words = os.uname()
        return Platform(
            system=words.sysname, machine=words.machine, cpu_count=os.cpu_count(), memory_bytes=_physical_memory()
        )

    def nvml(self, deadline_s: float, /) -> dict[str, Any]:
        """Ask the driver in a process of its own."""
        return self._question("nvml", "pynvml", deadline_s)

    def cpuinfo(self, deadline_s: float, /) -> dict[str, Any] | None:
        """Ask py-cpuinfo, which starts programs, in a process of its own."""
        reply = self._question("cpuinfo", "cpuinfo", deadline_s)
        return None if "error" in reply else reply

    def _question(self, word: str, module: str, deadline_s: float) -> dict[str, Any]:
        """Start the helper in isolated mode and return its JSON; a failure is returned, not raised."""
        import importlib.util
        import json
        import signal
        import subprocess
        import sys

        found = importlib.util.find_spec(module)
        if found is None or not found.origin:
            return failure("not-installed", f"the Python package {module} is not installed")
        origin = Path(found.origin)
        folder = origin.parent.parent if found.submodule_search_locations else origin.parent
        argv = [sys.executable, "-I", str(self._ask), word, str(folder)]
        environment = {"PATH": os.defpath, "LC_ALL": "C", "LD_LIBRARY_PATH": _DRIVER_FOLDERS}
        try:
            # Its own session, so that whatever it starts goes with it.
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        except OSError as e:
            return failure("not-started", f"the helper process could not be started: {e.strerror}")
        try:
            raw, _ = child.communicate(timeout=deadline_s)
        except subprocess.TimeoutExpired:
            try:
                os.killpg(child.pid, signal.SIGKILL)
            except OSError:
                child.kill()
            try:
                # A process in uninterruptible sleep does not die; it is left behind rather than waited for.
                child.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                child.returncode = -signal.SIGKILL
            if child.stdout is not None:
                child.stdout.close()
            return failure("deadline", f"no answer within {deadline_s:g} s")
        try:
            reply = json.loads(raw[:MAX_REPLY_BYTES])
        except (ValueError, RecursionError):
            return failure("no-answer", f"the helper process ended with exit status {child.returncode} and no answer")
        return reply if isinstance(reply, dict) else failure("no-answer", "the helper's answer is not an object")


class Bundle(Shape, frozen=True, kw_only=True):
    """``bundle.json``. ``provenance``: ``real`` (recorded on a machine) or ``hand-made`` (written from documents).

    ``visible``: the device selection (``CUDA_VISIBLE_DEVICES``) under which the machine was looked at.
    """

    schema: str
    provenance: Literal["real", "hand-made"]
    made_from: str
    platform: Platform
    notes: tuple[str, ...] = ()
    affinity: tuple[int, ...] | None = None
    names: dict[str, tuple[str, ...] | None] = msgspec.field(default_factory=dict)
    present: tuple[str, ...] = ()
    nvml: dict[str, Any] | None = None
    cpuinfo: dict[str, Any] | None = None
    visible: str | None = None


class BundleSource:
    """A recorded machine; never looks at the real one.

    Raises:
        AdvisorError: ``bad-machine-file`` when ``bundle.json`` is missing or not one.
    """

    def __init__(self, folder: Path) -> None:
        self._files = Path(folder).resolve() / "files"
        path = Path(folder) / "bundle.json"
        try:
            with path.open("rb") as f:
                self.bundle = loads(Bundle, f.read(MAX_REPLY_BYTES))
        except (OSError, ValueError, RecursionError) as e:
            raise bad_machine_file(path, e) from e
        if self.bundle.schema != BUNDLE_SCHEMA:
            raise bad_machine_file(path, f"its schema is {self.bundle.schema!r}, not {BUNDLE_SCHEMA!r}")

    def text(self, path: str, /) -> str | None:
        """The recorded file; a link that leaves the bundle is not followed."""
        parts = [p for p in path.split("/") if p]
        if not parts or ".." in parts or "\0" in path:
            return None
        try:
            real = self._files.joinpath(*parts).resolve()
            if not real.is_relative_to(self._files) or not real.is_file():
                return None
            with real.open("rb") as f:
                return f.read(MAX_TEXT_BYTES).decode("utf-8", "replace")
        except (OSError, ValueError, RuntimeError):
            return None

    def names(self, path: str, /) -> tuple[str, ...] | None:
        """The recorded names."""
        return self.bundle.names.get(path)

    def exists(self, path: str, /) -> bool:
        """Whether it was there, or is a recorded file."""
        return path in self.bundle.present or self.text(path) is not None

    def affinity(self) -> tuple[int, ...] | None:
        """The recorded CPUs."""
        return self.bundle.affinity

    def platform(self) -> Platform:
        """The recorded words."""
        return self.bundle.platform

    def nvml(self, deadline_s: float, /) -> dict[str, Any]:
        """The recorded reply."""
        return self.bundle.nvml or failure("no-answer", "the bundle has no reply of the driver")

    def cpuinfo(self, deadline_s: float, /) -> dict[str, Any] | None:
        """The recorded reply."""
        return self.bundle.cpuinfo


class RecordingSource:
    """Asks another source, remembers every answer, and writes them, scrubbed, as a bundle."""

    def __init__(self, inner: Source) -> None:
        self._inner = inner
        self.texts: dict[str, str | None] = {}
        self.listed: dict[str, tuple[str, ...] | None] = {}
        self.present: dict[str, bool] = {}
        self.replies: dict[str, Any] = {}

    def text(self, path: str, /) -> str | None:
        """The file, read once."""
        if path not in self.texts:
            self.texts[path] = self._inner.text(path)
        return self.texts[path]

    def names(self, path: str, /) -> tuple[str, ...] | None:
        """The folder, read once."""
        if path not in self.listed:
            self.listed[path] = self._inner.names(path)
        return self.listed[path]

    def exists(self, path: str, /) -> bool:
        """Whether the path is there, asked once."""
        if path not in self.present:
            self.present[path] = self._inner.exists(path)
        return self.present[path]

    def affinity(self) -> tuple[int, ...] | None:
        """The CPUs, asked once."""
        found: tuple[int, ...] | None = self._once("affinity", self._inner.affinity)
        return found

    def platform(self) -> Platform:
        """The words, asked once."""
        found: Platform = self._once("platform", self._inner.platform)
        return found

    def nvml(self, deadline_s: float, /) -> dict[str, Any]:
        """The driver's reply, asked once."""
        found: dict[str, Any] = self._once("nvml", lambda: self._inner.nvml(deadline_s))
        return found

    def cpuinfo(self, deadline_s: float, /) -> dict[str, Any] | None:
        """py-cpuinfo's reply, asked once."""
        found: dict[str, Any] | None = self._once("cpuinfo", lambda: self._inner.cpuinfo(deadline_s))
        return found

    def _once(self, key: str, ask: Callable[[], Any]) -> Any:
        if key not in self.replies:
            self.replies[key] = ask()
        return self.replies[key]


def bad_machine_file(path: Path, why: object) -> AdvisorError:
    """The error for a bundle or machine file that cannot be used."""
    return AdvisorError(
        "bad-machine-file",
        f"{clean(str(path))} is not a recorded machine: {clean(str(why))}.",
        hint="advisor probe --record DIR",
    )


def failure(code: str, message: str) -> dict[str, Any]:
    """A reply that says why there is none."""
    return {"error": {"code": code, "message": message}}


def _physical_memory() -> int | None:
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None
    return pages * size if pages > 0 and size > 0 else None
