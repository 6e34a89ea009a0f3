"""An append-only log of what happened, one JSON object a line. It is read by people; nothing is decided by it."""

from __future__ import annotations

import os
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from advisor.facts.base import dumps_any

_ROTATE_BYTES: Final = 8 << 20


class Journal:
    """``path`` is kept below 8 MiB; the lines before that are in ``path`` with ``.1`` appended."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, what: str, **fields: object) -> bool:
        """Append one line with the time, this process and ``fields`` (shapes and builtins); return whether it worked.

        A journal that cannot be written never stops the work it tells of.
        """
        line = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "pid": os.getpid(), "what": what, **fields}
        try:
            raw = dumps_any(line) + b"\n"
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._rotate()
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                # One write: lines of several processes do not mix.
                os.write(fd, raw)
            finally:
                os.close(fd)
        except (OSError, TypeError, ValueError):
            return False
        return True

    def last(self, n: int = 50) -> tuple[dict[str, Any], ...]:
        """The last ``n`` lines, oldest first; lines cut short by a crash are passed over."""
        out: deque[dict[str, Any]] = deque(maxlen=n)
        with suppress(OSError), self.path.open("rb") as f:
            for raw in f:
                with suppress(msgspec.DecodeError, UnicodeDecodeError):
                    line = msgspec.json.decode(raw)
                    if isinstance(line, dict):
                        out.append(line)
        return tuple(out)

    def _rotate(self) -> None:
        with suppress(FileNotFoundError):
            if self.path.stat().st_size > _ROTATE_BYTES:
                self.path.replace(self.path.with_name(f"{self.path.name}.1"))
