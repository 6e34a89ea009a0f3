"""The server's output on its way into log files of bounded size. Standard library only: the supervisor loads it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

_CHUNK: Final = 65536
_LOG_END_S: Final = 5.0


def now() -> str:
    """The time of day for ``*_at`` fields, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class RotatingLog:
    """A log of bounded size. What cannot be written (disk full) is dropped, counted, and owned up to later."""

    def __init__(self, path: Path, max_bytes: int, keep: int) -> None:
        self.path, self.max_bytes, self.keep = path, max_bytes, keep
        self.dropped = 0
        self._fd: int | None = None
        self._size = 0

    def shift(self) -> None:
        """Turn the files over: ``log`` becomes ``log.1`` and so on; the oldest goes."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        if self.keep == 0:
            self.path.unlink(missing_ok=True)
            return
        for i in range(self.keep - 1, 0, -1):
            older = self.path.with_name(f"{self.path.name}.{i}")
            if older.exists():
                older.replace(self.path.with_name(f"{self.path.name}.{i + 1}"))
        if self.path.exists():
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))

    def write(self, data: bytes) -> None:
        """Append, turning the files over where the limit is reached. Never raises for the disk's sake."""
        try:
            if self.dropped and self._append(f"[advisor] {self.dropped} bytes could not be written here\n".encode()):
                self.dropped = 0
            while data:
                written = self._append(data)
                data = data[written:]
        except OSError:
            self.dropped += len(data)

    def _append(self, data: bytes) -> int:
        if self._fd is not None and self._size >= self.max_bytes:
            self.shift()
        if self._fd is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            self._fd = os.open(self.path, flags, 0o600)
            self._size = os.fstat(self._fd).st_size
            if self._size >= self.max_bytes:
                return 0
        written = os.write(self._fd, data[: self.max_bytes - self._size])
        self._size += written
        return written


class LogPipe:
    """The server's output: a pipe, and a child that does nothing but move what comes out of it into the log.

    The child is a process of its own so that a server outlives its supervisor with its output still read: nobody gets
    a broken pipe, nobody blocks on a full one. It ends when the last writer is gone.
    """

    def __init__(self, log: RotatingLog) -> None:
        self.log = log
        self.reader, self.writer = os.pipe()
        self.child = 0
        self.start()

    def start(self) -> None:
        """Fork the child."""
        self.child = os.fork()
        if self.child:
            return
        try:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE):
                signal.signal(number, signal.SIG_IGN)
            os.close(self.writer)
            while data := os.read(self.reader, _CHUNK):
                self.log.write(data)
        finally:
            os._exit(0)

    def tend(self) -> None:
        """Start the child again if something killed it."""
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(self.child, os.WNOHANG)[0]:
                self.start()

    def note(self, text: str) -> None:
        """Add a line of the supervisor's own, unless the pipe stays full."""
        line = f"[advisor {now()}] {text}"[:400].encode(errors="replace") + b"\n"
        # A pipe that is ready takes this much at once; it cannot be made non-blocking for one of its writers alone.
        if select.select([], [self.writer], [], 1.0)[1]:
            os.write(self.writer, line)

    def settle(self, seconds: float = 1.0) -> None:
        """Wait until what was written has been taken out of the pipe, so that it can be read in the log."""
        until = time.monotonic() + seconds
        while select.select([self.reader], [], [], 0)[0] and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.02)  # what was read last is on its way into the file

    def close(self) -> None:
        """Let the child finish what was written, and wait for it; not for ever, a survivor may hold the pipe."""
        os.close(self.writer)
        os.close(self.reader)
        until = time.monotonic() + _LOG_END_S
        with contextlib.suppress(ChildProcessError):
            while not os.waitpid(self.child, os.WNOHANG)[0] and time.monotonic() < until:
                time.sleep(0.01)
