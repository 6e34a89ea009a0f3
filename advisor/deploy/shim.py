"""The supervisor of one deployment, run as ``python -I shim.py STATE_FOLDER``: standard library only.

It leaves the terminal and its caller (own session, no standard input, hang-ups ignored), starts the server in a
process group of its own, keeps its output in log files of bounded size, starts it again when it ends, and writes
``status.json``. SIGTERM stops the server and the supervisor. The folder's files are described in ``spec.py``.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING or __package__:
    from advisor.deploy.process_table import LINUX, SERVER_MARK, Proc, boot_id, marked, process, processes
else:  # run as a script: the two files it needs lie beside it, and the package is not touched
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from process_table import LINUX, SERVER_MARK, Proc, boot_id, marked, process, processes

    del sys.path[0]

STATUS_VERSION: Final = 1
_CHUNK: Final = 65536
_TICK_S: Final = 0.5
_LEFTOVER_GRACE_S: Final = 2.0
_LOG_END_S: Final = 5.0


def now() -> str:
    """The time of day for ``*_at`` fields, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def describe_exit(code: int | None, number: int | None) -> str:
    """Say in words how a process ended. 137 is what a shell makes of SIGKILL."""
    if number is not None:
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        text = f"the server was killed by {name}"
        return text + ", most likely because memory ran out" if number == signal.SIGKILL else text
    text = f"the server ended with exit code {code}"
    return text + " (killed, most likely because memory ran out)" if code == 137 else text


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

    def close(self) -> None:
        """Let the child finish what was written, and wait for it; not for ever, a survivor may hold the pipe."""
        os.close(self.writer)
        os.close(self.reader)
        until = time.monotonic() + _LOG_END_S
        with contextlib.suppress(ChildProcessError):
            while not os.waitpid(self.child, os.WNOHANG)[0] and time.monotonic() < until:
                time.sleep(0.01)


class Supervisor:
    """Runs one server until it is told to stop or the server cannot be kept up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec: dict[str, Any] = json.loads((folder / "spec.json").read_bytes())
        self.uuid: str = json.loads((folder / "run.json").read_bytes())["uuid"]
        me = process(os.getpid())
        self.status: dict[str, Any] = {
            "version": STATUS_VERSION,
            "state": "starting",
            "uuid": self.uuid,
            "boot_id": boot_id(),
            "shim_pid": os.getpid(),
            "shim_start": me.start if me else "",
            "pid": None,
            "pid_start": None,
            "restarts": 0,
            "reason": None,
            "exit_code": None,
            "exit_signal": None,
            "likely_oom": False,
            "launched_at": now(),
            "started_at": None,
            "stopped_at": None,
            "updated_at": now(),
        }
        self.unwritten = False
        self._asked = False
        log = RotatingLog(folder / "server.log", int(self.spec["log_max_bytes"]), int(self.spec["log_keep"]))
        with contextlib.suppress(OSError):
            log.shift()  # what an earlier launch wrote is kept apart
        self.log = LogPipe(log)
        self.wake = -1
        self.child: subprocess.Popen[bytes] | None = None

    def stopping(self) -> bool:
        """Whether SIGTERM came; it may come at any line."""
        return self._asked

    # -- state ---------------------------------------------------------------------------------------------------

    def write(self, **changes: Any) -> None:
        """Put changes into the status file: all of them or none, even when the machine stops in between."""
        self.status.update(changes, updated_at=now())
        temporary = self.folder / "status.json.tmp"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            fd = os.open(temporary, flags, 0o600)
            with os.fdopen(fd, "wb") as f:
                f.write(json.dumps(self.status).encode())
                f.flush()
                os.fsync(f.fileno())
            temporary.replace(self.folder / "status.json")
            self.unwritten = False
        except OSError:
            self.unwritten = True  # tried again at the next tick

    # -- signals -----------------------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Turn signals into wake-ups. Handlers, not SIG_IGN: the server would inherit ignored signals."""
        self.wake, writer = os.pipe()
        for fd in (self.wake, writer):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

        def stop(number: int, frame: object) -> None:
            self._asked = True

        def nothing(number: int, frame: object) -> None:
            return

        signal.signal(signal.SIGTERM, stop)
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, nothing)

    def turn(self, seconds: float) -> None:
        """Sleep for at most ``seconds`` or until a signal comes."""
        if select.select([self.wake], [], [], max(0.0, seconds))[0]:
            with contextlib.suppress(BlockingIOError):
                os.read(self.wake, 4096)
        self.log.tend()

    # -- the server --------------------------------------------------------------------------------------------------

    def start(self) -> str | None:
        """Start the server; return why it could not be."""
        # Some runtimes rename their processes over the memory that holds the environment; SPT_NOENV forbids that.
        env = {**self.spec["env"], SERVER_MARK: self.uuid, "SPT_NOENV": "1"}
        try:
            self.child = subprocess.Popen(
                self.spec["argv"],
                env=env,
                cwd=self.spec["cwd"],
                stdin=subprocess.DEVNULL,
                stdout=self.log.writer,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        except (OSError, ValueError) as e:
            return f"the server cannot be started: {e}"
        seen = process(self.child.pid)
        self.log.note(f"server started, pid {self.child.pid}")
        self.write(state="running", pid=self.child.pid, pid_start=seen.start if seen else None, started_at=now())
        return None

    def ended(self) -> bool:
        """Whether the server has ended. It is not reaped yet where that can be had, so that its pid stays taken."""
        assert self.child is not None
        if LINUX:
            options = os.WEXITED | os.WNOHANG | os.WNOWAIT
            return os.waitid(os.P_PID, self.child.pid, options) is not None
        return self.child.poll() is not None

    def signal_group(self, number: int) -> None:
        """Signal all of the server's group."""
        assert self.child is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.child.pid, number)

    def leftovers(self) -> list[Proc]:
        """What still lives of the server besides its first process."""
        assert self.child is not None
        group = [p for p in processes() if p.pgrp == self.child.pid and p.alive and p.pid != self.child.pid]
        known = {p.pid for p in group}
        return group + [p for p in marked(SERVER_MARK, self.uuid) if p.pid not in known and p.pid != self.child.pid]

    def sweep(self) -> None:
        """End what the server left behind, in its group or escaped from it: ask first, then kill."""
        asked = False
        deadline = time.monotonic() + min(float(self.spec["stop_grace_s"]), _LEFTOVER_GRACE_S)
        give_up = deadline + 5.0
        while (left := self.leftovers()) and time.monotonic() < give_up:
            number = signal.SIGKILL if time.monotonic() >= deadline else signal.SIGTERM
            if not asked or number == signal.SIGKILL:
                for p in left:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(p.pid, number)
                asked = True
            self.turn(0.05)
        if left:
            self.log.note("these processes of the server do not die: " + ", ".join(str(p.pid) for p in left))

    def watch(self) -> tuple[int | None, int | None]:
        """Wait for the server's end, stopping it when asked; return exit code and signal."""
        assert self.child is not None
        kill_at: float | None = None
        while not self.ended():
            if self.stopping() and kill_at is None:
                self.write(state="stopping")
                self.log.note("asked to stop")
                self.signal_group(signal.SIGTERM)
                kill_at = time.monotonic() + float(self.spec["stop_grace_s"])
            if kill_at is not None and time.monotonic() >= kill_at:
                self.log.note("the server did not stop in time and is killed")
                self.signal_group(signal.SIGKILL)
                kill_at = time.monotonic() + 1.0
            wait = _TICK_S if kill_at is None else min(_TICK_S, kill_at - time.monotonic())
            self.turn(wait)
            if self.unwritten:
                self.write()
        self.sweep()
        code = self.child.wait()
        return (None, -code) if code < 0 else (code, None)

    def pause(self, seconds: float) -> None:
        """Wait before a restart, unless asked to stop."""
        until = time.monotonic() + seconds
        while not self.stopping() and (left := until - time.monotonic()) > 0:
            self.turn(min(left, _TICK_S))

    def finish(self, state: str, reason: str | None) -> None:
        """Write the last status; where the disk is full, try for a while."""
        self.log.note(f"{state}: {reason}" if reason else state)
        self.log.close()
        self.write(state=state, reason=reason, stopped_at=now())
        until = time.monotonic() + 10.0
        while self.unwritten and time.monotonic() < until:
            time.sleep(_TICK_S)
            self.write()

    def run(self) -> None:
        """Start, watch, start again; return when there is nothing more to do."""
        self.listen()
        self.write()
        crashes: list[float] = []
        limit, window = int(self.spec["max_restarts"]), float(self.spec["restart_window_s"])
        while not self.stopping():
            problem = self.start()
            if problem is not None:
                return self.finish("failed", problem)
            code, number = self.watch()
            self.write(
                exit_code=code, exit_signal=number, likely_oom=not self.stopping() and (number == 9 or code == 137)
            )
            if self.stopping():
                break
            reason = describe_exit(code, number)
            if not (self.folder / "ready.json").exists():
                return self.finish("failed", f"{reason} before it was ready")
            moment = time.monotonic()
            crashes = [t for t in crashes if moment - t < window]
            if len(crashes) >= limit:
                return self.finish("failed", f"{reason}; it was restarted {len(crashes)} times within {window:g} s")
            crashes.append(moment)
            delay = min(float(self.spec["backoff_s"]) * 2 ** (len(crashes) - 1), float(self.spec["backoff_max_s"]))
            self.log.note(f"{reason}; restart in {delay:g} s")
            self.write(state="backoff", reason=reason, restarts=self.status["restarts"] + 1, pid=None, pid_start=None)
            self.pause(delay)
        return self.finish("stopped", "stopped as asked")


def detach(folder: Path) -> None:
    """Leave caller and terminal: a session of its own without a leader's rights, no input, errors into a file."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.umask(0o077)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    errors = os.open(folder / "shim.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(errors, 2)
    # A model server's core dump is as large as the model and holds the key.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(argv: list[str]) -> int:
    """``argv[1]`` is the state folder. Returns at once in the caller; the supervisor goes on in the background."""
    if len(argv) != 2:
        sys.stderr.write("usage: python -I shim.py STATE_FOLDER\n")
        return 2
    folder = Path(argv[1]).absolute()
    detach(folder)
    Supervisor(folder).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
