"""How a runner talks to advisor: one JSON request on standard input, JSON lines on descriptor 3.

A runner is started as ``ENV/bin/python -I RUNNER.py`` and may use the standard library and its environment's packages
only. Standard output and error are its log; C libraries print there as they like. Lines on descriptor 3:

* ``{"type": "progress", "done": n, "total": n or null, "unit": "tensors", "message": "..."}``, at most five a second;
* ``{"type": "result", "data": {...}}``, once, last;
* ``{"type": "error", "code": "quantizer-failed", "message": "...", "context": ["..."]}``, once, then exit status 1.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

CHANNEL = 3
_last_progress = 0.0


class Failed(Exception):  # noqa: N818
    """A failure that the user is told of by ``code``; everything else is reported as the runner's default code."""

    def __init__(self, code: str, message: str, context: list[str] | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.context = code, message, context or []


def _send(line: dict[str, Any]) -> None:
    raw = (json.dumps(line, ensure_ascii=True, allow_nan=False) + "\n").encode()
    try:
        while raw:
            raw = raw[os.write(CHANNEL, raw) :]
    except BrokenPipeError:
        sys.exit(1)  # advisor is gone: nobody wants the result


def request() -> dict[str, Any]:
    """Read the request from standard input.

    Raises:
        Failed: ``bug``, what came in is not one JSON object.
    """
    raw = sys.stdin.buffer.read()
    try:
        data = json.loads(raw)
    except ValueError as e:
        raise Failed("bug", f"The request is not JSON: {e}") from e
    if not isinstance(data, dict):
        raise Failed("bug", "The request is not a JSON object.")
    return data


def progress(done: float, total: float | None, unit: str, message: str = "", *, force: bool = False) -> None:
    """Tell how far the work is; more than five a second are dropped, except the last one and forced ones."""
    global _last_progress
    now = time.monotonic()
    if not force and done != total and now - _last_progress < 0.2:
        return
    _last_progress = now
    _send({"type": "progress", "done": done, "total": total, "unit": unit, "message": message})


def result(data: dict[str, Any]) -> None:
    """Send the result; the last thing a runner does."""
    _send({"type": "result", "data": data})


def fail(code: str, message: str, context: list[str] | None = None) -> NoReturn:
    """Send an error and end with status 1."""
    _send({"type": "error", "code": code, "message": message, "context": context or []})
    sys.exit(1)


def run(work: Callable[[dict[str, Any]], dict[str, Any]], *, code: str) -> None:
    """Read the request, do ``work``, send what it returns; turn exceptions into an error of ``code``.

    Nothing is fetched from a hub, and an engine that aborts writes no backtrace over its own last words.
    """
    os.environ.update(
        HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", GGML_NO_BACKTRACE="1"
    )
    try:
        done = work(request())
    except Failed as e:
        traceback.print_exc()
        fail(e.code, e.message, e.context)
    except MemoryError:
        traceback.print_exc()
        fail("out-of-memory", "The step ran out of memory.")
    except OSError as e:
        traceback.print_exc()
        if e.errno in (28, 122):  # ENOSPC, EDQUOT
            fail("disk-full", f"There is no space left for {e.filename or 'the output'}.")
        fail(code, f"{type(e).__name__}: {e}")
    except Exception as e:
        traceback.print_exc()
        last = traceback.extract_tb(e.__traceback__)[-1]
        fail(code, f"{type(e).__name__}: {e}", [f"in {Path(last.filename).name} line {last.lineno}"])
    result(done)


def vendored() -> Path:
    """The folder of llama.cpp's converter and gguf-py that advisor unpacked into this environment.

    Raises:
        Failed: ``env-failed``, it is not there.
    """
    path = Path(sys.prefix) / "src" / "llama.cpp"
    if not (path / "gguf-py" / "gguf" / "__init__.py").is_file():
        raise Failed("env-failed", f"The environment lacks llama.cpp's converter ({path}).")
    return path


def use_vendored_gguf() -> None:
    """Make ``import gguf`` find the reader and writer that belong to the converter, before any installed one.

    transformers asks the package for its version, which an unpacked folder does not have: it is read from its project
    file.
    """
    folder = vendored() / "gguf-py"
    sys.path.insert(0, str(folder))
    import tomllib

    import gguf

    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    gguf.__version__ = project["project"]["version"]
