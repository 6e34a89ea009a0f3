"""The questions that need a process of their own: a driver's library, or a tool of the system.

Each has a name, under which its reply is recorded. A helper question loads a binding in ``ask.py`` and replies with a
JSON object; a program question replies with ``{"stdout": text, "exit": status}``. Whatever goes wrong is a reply too:
``{"error": {"code", "message"}}``. Who may open device files is asked in the same way, but needs no process.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from advisor.probes.source import MAX_REPLY_BYTES, failure

if TYPE_CHECKING:
    import subprocess

MAX_DEVICE_FILES: Final = 512
# Groups that a user joins to reach devices; any other name may be a person's, and is of no use as a hint.
_DEVICE_GROUPS: Final = ("render", "video", "kvm")
# `nvidia-smi -q -x` writes some 30 KB a device and 0.5 KB a process.
MAX_STDOUT_BYTES: Final = 4 << 20
# Where containers, WSL and NixOS put the driver's library, beside the loader's own folders.
_DRIVER_FOLDERS: Final = "/usr/local/nvidia/lib64:/usr/local/nvidia/lib:/usr/lib/wsl/lib:/run/opengl-driver/lib"
# Programs are taken from the system's folders only, never from a PATH that somebody else has set.
_PROGRAM_FOLDERS: Final = (
    *("/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/local/nvidia/bin"),
    *("/usr/lib/wsl/lib", "/opt/rocm/bin", "/run/current-system/sw/bin", "/opt/homebrew/bin"),
)
_SYSCTL: Final = (
    *("hw.memsize", "hw.logicalcpu", "hw.physicalcpu", "hw.nperflevels", "hw.perflevel0.physicalcpu"),
    *("hw.perflevel1.physicalcpu", "hw.optional.arm64", "hw.optional.arm", "machdep.cpu.brand_string"),
    *("machdep.cpu.features", "machdep.cpu.leaf7_features", "sysctl.proc_translated", "vm.swapusage"),
    "kern.bootsessionuuid",
    *("iogpu.wired_limit_mb", "debug.iogpu.wired_limit"),
)


class Helper(NamedTuple):
    """``word`` of ``ask.py``; ``module``: the Python package that it needs, if any."""

    word: str
    module: str | None = None


class Program(NamedTuple):
    """A system's tool and its arguments."""

    argv: tuple[str, ...]


class Files(NamedTuple):
    """Device files, and folders of them: whether this process may open each for reading and writing, and its group."""

    paths: tuple[str, ...]


QUESTIONS: Final[dict[str, Helper | Program | Files]] = {
    "nvml": Helper("nvml", "pynvml"),
    "cpuinfo": Helper("cpuinfo", "cpuinfo"),
    "nvidia-smi": Program(("nvidia-smi", "-q", "-x")),
    "metal": Helper("metal"),
    # -i: names that a version of macOS does not have are passed over. A name of a branch lists all below it.
    "sysctl": Program(("sysctl", "-i", *_SYSCTL)),
    "vm_stat": Program(("vm_stat",)),
    "ioreg": Program(("ioreg", "-r", "-c", "AGXAccelerator", "-d", "1")),
    "vulkaninfo": Program(("vulkaninfo", "--summary")),
    "device-files": Files(("/dev/kfd", "/dev/dri")),
}


def ask(question: str, deadline_s: float, *, helper: Path) -> dict[str, Any]:
    """The reply of this machine to ``question``, within ``deadline_s`` seconds; a failure is returned, not raised.

    Raises:
        KeyError: there is no such question.
    """
    asked = QUESTIONS[question]
    if isinstance(asked, Program):
        return _program(asked, deadline_s)
    if isinstance(asked, Files):
        return _files(asked)
    return _helper(asked, deadline_s, helper)


def _helper(asked: Helper, deadline_s: float, helper: Path) -> dict[str, Any]:
    """Start the helper in isolated mode and return its JSON."""
    import importlib.util
    import json
    import sys

    folder = ""
    if asked.module is not None:
        found = importlib.util.find_spec(asked.module)
        if found is None or not found.origin:
            return failure("not-installed", f"the Python package {asked.module} is not installed")
        origin = Path(found.origin)
        folder = str(origin.parent.parent if found.submodule_search_locations else origin.parent)
    answer = _run([sys.executable, "-I", str(helper), asked.word, folder], deadline_s, MAX_REPLY_BYTES)
    if isinstance(answer, dict):
        return answer
    raw, status = answer
    try:
        reply = json.loads(raw)
    except (ValueError, RecursionError):
        return failure("no-answer", f"the helper process ended with exit status {status} and no answer")
    return reply if isinstance(reply, dict) else failure("no-answer", "the helper's answer is not an object")


def _program(asked: Program, deadline_s: float) -> dict[str, Any]:
    name, *rest = asked.argv
    path = next((p for f in _PROGRAM_FOLDERS if os.access(p := f"{f}/{name}", os.X_OK)), None)
    if path is None:
        return failure("not-installed", f"the program {name} is not installed")
    answer = _run([path, *rest], deadline_s, MAX_STDOUT_BYTES)
    if isinstance(answer, dict):
        return answer
    raw, status = answer
    return {"stdout": raw.decode("utf-8", "replace"), "exit": status}


def _files(asked: Files) -> dict[str, Any]:
    """``{"files": {path: {"open", "group"}}}`` of those that are there. Nothing is opened."""
    found: dict[str, Any] = {}
    for path in asked.paths:
        try:
            inside = [f"{path}/{name}" for name in sorted(os.listdir(path))[:MAX_DEVICE_FILES]]  # noqa: PTH208
        except NotADirectoryError:
            inside = [path]
        except OSError:
            continue
        for file in inside:
            if not os.path.isdir(file):  # noqa: PTH112 - os.path answers False where Path raises
                found[file] = {"open": os.access(file, os.R_OK | os.W_OK), "group": _group(file)}
    return {"files": found}


def _group(path: str) -> str | None:
    """The name of the group of ``path``, if it is one of those that systems have for devices."""
    try:
        import grp

        name = grp.getgrgid(os.stat(path).st_gid).gr_name  # noqa: PTH116
    except (ImportError, KeyError, OSError):
        return None
    return name if name in _DEVICE_GROUPS else None


def _run(argv: list[str], deadline_s: float, limit: int) -> tuple[bytes, int] | dict[str, Any]:
    """What a process writes, at most ``limit`` bytes, and its exit status, or the failure."""
    import signal
    import subprocess

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
    raw = _read(child, limit, time.monotonic() + deadline_s)
    if raw is not None and len(raw) <= limit:
        return raw, child.returncode
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except OSError:
        child.kill()
    try:
        # A process in uninterruptible sleep does not die; it is left behind rather than waited for.
        child.wait(timeout=0.2)
    except subprocess.TimeoutExpired:
        child.returncode = -signal.SIGKILL
    if child.stdout is not None:
        child.stdout.close()
    if raw is None:
        return failure("deadline", f"no answer within {deadline_s:g} s")
    return failure("no-answer", f"more than {limit} bytes of output")


def _read(child: subprocess.Popen[bytes], limit: int, until: float) -> bytes | None:
    """What a process writes, at most one byte more than ``limit``; ``None`` if it does not end in time."""
    import selectors
    import subprocess

    if child.stdout is None:
        return b""
    raw = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while len(raw) <= limit:
            left = until - time.monotonic()
            if left <= 0:
                return None
            if not selector.select(left):
                continue
            chunk = os.read(child.stdout.fileno(), min(1 << 16, limit + 1 - len(raw)))
            if not chunk:
                break
            raw += chunk
    if len(raw) <= limit:
        try:
            child.wait(timeout=max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            return None
        child.stdout.close()
    return bytes(raw)
