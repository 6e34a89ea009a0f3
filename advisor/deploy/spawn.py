"""The only place besides the supervisor itself where this package starts processes. Standard library only."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def output(*argv: str) -> str:
    """What a short system command prints, or nothing where it fails or is not there."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def start_shim(folder: Path, env: Mapping[str, str], *, python: str | None = None) -> None:
    """Start the supervisor of a state folder; it detaches itself, so that nothing is left to be reaped here.

    Raises:
        OSError: the interpreter cannot be started.
        subprocess.SubprocessError: the supervisor did not detach.
    """
    script = Path(__file__).with_name("shim.py")
    subprocess.run(
        [python or sys.executable, "-I", str(script), str(folder)],
        env=dict(env),
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        check=True,
        timeout=60,
    )
