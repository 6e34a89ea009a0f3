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
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING or __package__:
    from advisor.deploy.log_pipe import LogPipe, RotatingLog, now
    from advisor.deploy.lowering import Lowering
    from advisor.deploy.process_table import LINUX, SERVER_MARK, Proc, boot_id, marked, process, processes
    from advisor.deploy.watch import Watch
else:  # run as a script: the files it needs lie beside it, and the package is not touched
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from log_pipe import LogPipe, RotatingLog, now
    from lowering import Lowering
    from process_table import LINUX, SERVER_MARK, Proc, boot_id, marked, process, processes
    from watch import Watch

    del sys.path[0]

STATUS_VERSION: Final = 1
_TICK_S: Final = 0.5
_LEFTOVER_GRACE_S: Final = 2.0


def describe_exit(code: int | None, number: int | None, *, uncounted: bool = False) -> str:
    """Say in words how a process ended. 137 is what a shell makes of SIGKILL. ``uncounted``: the kernel counts kills
    for memory, and counted none."""
    guess = "though the kernel counted no kill for memory" if uncounted else "most likely because memory ran out"
    if number is not None:
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        text = f"the server was killed by {name}"
        return f"{text}, {guess}" if number == signal.SIGKILL else text
    text = f"the server ended with exit code {code}"
    return f"{text} (killed, {guess})" if code == 137 else text


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
            "out_of_memory": [],
            "oom_kills": 0,
            "peak_bytes": None,
            "limit_bytes": None,
            "memory": None,
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
        self.memory = Watch(list(self.spec.get("watch_devices") or ()))
        self.lowering = Lowering(folder, self.spec)
        self.peak: int | None = None
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
        self.memory.begin(self.child.pid)
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
            if (changed := self.memory.look(self.child.pid)) is not None:
                self.log.note(changed)
                self.write(memory=self.memory.near)
            elif self.unwritten:
                self.write()
        self.sweep()
        return self.reap()

    def reap(self) -> tuple[int | None, int | None]:
        """Take the ended server's exit code and signal, and the most memory that it had at a time."""
        assert self.child is not None
        self.peak = None
        if self.child.returncode is None:
            with contextlib.suppress(ChildProcessError):
                _, state, used = os.wait4(self.child.pid, 0)
                self.child.returncode = os.waitstatus_to_exitcode(state)
                self.peak = used.ru_maxrss * (1024 if LINUX else 1)
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
            self.memory.ended()
            killed = not self.stopping() and (number == 9 or code == 137)
            kills = self.memory.kills.since()
            self.log.settle()
            why = [] if self.stopping() else self.lowering.evidence(kills, killed)
            uncounted = not why and self.memory.kills.countable
            self.write(
                exit_code=code,
                exit_signal=number,
                likely_oom=killed and not uncounted,
                out_of_memory=why,
                oom_kills=kills,
                peak_bytes=self.peak,
                limit_bytes=self.memory.limit,
                memory=None,
            )
            if self.stopping():
                break
            reason = describe_exit(code, number, uncounted=uncounted)
            if not (self.folder / "ready.json").exists():
                return self.finish("failed", f"{reason} before it was ready")
            if why:
                what, words = self.lowering.decide(why, self.status, self.memory.limit, self.peak)
                reason = f"{reason}; memory ran out while it served"
                if what == "stop":
                    return self.finish("failed", f"{reason}; {words}")
                if what == "lowered":
                    reason = f"{reason}; recovered by {words}"
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
