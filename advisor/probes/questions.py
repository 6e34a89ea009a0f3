"""The questions that need a process of their own: a driver's library, or a tool of the system.

Each has a name, under which its reply is recorded. A helper question loads a binding in ``ask.py`` and replies with a
JSON object; a program question replies with ``{"stdout": text, "exit": status}``. Whatever goes wrong is a reply too:
``{"error": {"code", "message"}}``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, NamedTuple

from advisor.probes.source import MAX_REPLY_BYTES, failure

# `nvidia-smi -q -x` writes some 30 KB a device and 0.5 KB a process.
MAX_STDOUT_BYTES: Final = 4 << 20
# Where containers, WSL and NixOS put the driver's library, beside the loader's own folders.
_DRIVER_FOLDERS: Final = "/usr/local/nvidia/lib64:/usr/local/nvidia/lib:/usr/lib/wsl/lib:/run/opengl-driver/lib"
# Programs are taken from the system's folders only, never from a PATH that somebody else has set.
_PROGRAM_FOLDERS: Final = (
    *("/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/local/nvidia/bin"),
    *("/usr/lib/wsl/lib", "/opt/rocm/bin", "/run/current-system/sw/bin", "/opt/homebrew/bin"),
)


class Helper(NamedTuple):
    """``word`` of ``ask.py``; ``module``: the Python package that it needs, if any."""

    word: str
    module: str | None = None


class Program(NamedTuple):
    """A system's tool and its arguments."""

    argv: tuple[str, ...]


QUESTIONS: Final[dict[str, Helper | Program]] = {
    "nvml": Helper("nvml", "pynvml"),
    "cpuinfo": Helper("cpuinfo", "cpuinfo"),
    "nvidia-smi": Program(("nvidia-smi", "-q", "-x")),
}


def ask(question: str, deadline_s: float, *, helper: Path) -> dict[str, Any]:
    """The reply of this machine to ``question``, within ``deadline_s`` seconds; a failure is returned, not raised.

    Raises:
        KeyError: there is no such question.
    """
    asked = QUESTIONS[question]
    if isinstance(asked, Program):
        return _program(asked, deadline_s)
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


def _run(argv: list[str], deadline_s: float, limit: int) -> tuple[bytes, int] | dict[str, Any]:
    """The first ``limit`` bytes that a process writes and its exit status, or the failure."""
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
    return raw[:limit], child.returncode
